"""One task in, one adapter out."""
