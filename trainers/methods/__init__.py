"""What is learned, and how the past is protected."""
