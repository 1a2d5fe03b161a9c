"""The frozen base model and its tokens."""
