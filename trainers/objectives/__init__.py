"""What a task is trained on and judged by."""
