"""Making docs-lm, the small decoder that ships with Orthoplex: its corpus, its tokenizer, its pretraining."""
