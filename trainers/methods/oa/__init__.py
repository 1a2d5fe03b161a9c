"""OA-Adapter: the adapters, their budgets and subspaces, and what is stored of them."""
