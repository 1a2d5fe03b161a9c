"""The driver of a run: what runs next, and why."""
