"""Processes that train: groups, pools, and what a worker does."""
