"""What teams share: references, aliases, listing, upkeep."""
