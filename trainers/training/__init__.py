"""One task's training stage."""
