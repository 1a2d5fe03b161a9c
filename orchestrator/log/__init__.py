"""One chained log in a store; it knows no runs."""
