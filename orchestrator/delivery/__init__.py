"""Committed streams on their way to where models are used."""
