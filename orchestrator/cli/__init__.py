"""The `orthoplex` command."""
