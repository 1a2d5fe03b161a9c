"""What an adapter's files are called; see `artifact`. Kept apart from torch, for those who only move them."""

ADAPTER_FILE = "adapter.safetensors"
BASES_FILE = "bases.safetensors"
