"""Generative tasks: rows of answers, conversations and plain text, from files to token ids."""
