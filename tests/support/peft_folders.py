"""Folders as PEFT writes them, with values that change what the base says."""

from pathlib import Path
from typing import Any

import torch


def peft_model(base: Any, seed: int = 0, **settings: Any) -> Any:
    """A PeftModel over a model in memory, its B drawn."""
    from peft import LoraConfig, get_peft_model

    how = {"r": 4, "lora_alpha": 8, "target_modules": ["o_proj", "down_proj"], "task_type": "CAUSAL_LM", **settings}
    torch.manual_seed(seed)
    made = get_peft_model(base, LoraConfig(**how))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return made.eval()


def save_peft(base: Path, folder: Path, auto: str = "AutoModelForCausalLM", **settings: Any) -> Path:
    """A PEFT LoRA over the model in `base`, saved; returns the folder."""
    import transformers

    peft_model(getattr(transformers, auto).from_pretrained(base), **settings).save_pretrained(folder)
    return folder
