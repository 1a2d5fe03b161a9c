"""What runs next, and what is kept."""

from orchestrator.loading import load

__all__ = ["load"]
