"""What runs next, and what is kept."""
