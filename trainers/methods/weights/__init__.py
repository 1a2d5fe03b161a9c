"""Methods that train the base's own weights: what a task stores of them, and how they are kept from forgetting."""
