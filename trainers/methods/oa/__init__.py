"""OA-Adapter: the adapters, their budgets and subspaces, and the files that they are stored in."""
