"""Methods that add a low-rank update per task to the frozen weights: one base, and what each of them changes of it."""
