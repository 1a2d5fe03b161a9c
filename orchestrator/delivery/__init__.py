"""Delivers committed streams to the programs that use models."""
