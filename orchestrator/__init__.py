"""What runs next, and what is kept."""

from orchestrator.delivery.load import load

__all__ = ["load"]
