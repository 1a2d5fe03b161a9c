"""The screens of the command."""
