"""From files to clean rows, prompts and batches."""
