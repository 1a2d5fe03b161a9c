"""Names of an adapter's files; see `artifact`. This module does not import torch, so that moving files does not."""

ADAPTER_FILE = "adapter.safetensors"
BASES_FILE = "bases.safetensors"
