"""What a machine, a cluster or a store lacks."""
