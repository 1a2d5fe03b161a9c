"""vLLM's own checks of served folders, from its source distribution, on a CPU: `make test-vllm`.

Run are the files of vLLM that read a LoRA: its configuration (`config/lora.py`), the parser of adapter_config.json
(`lora/peft_helper.py`), and the loader of the tensors (`lora/lora_model.py`). What they import beside these and says
nothing of LoRA (platforms, loggers, kernels) are stand-ins. No model of vLLM is run.

Usage: python -m tests.vllm_checks FOLDER, where FOLDER is the unpacked source distribution.
"""

import ast
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import torch
from pydantic.dataclasses import dataclass

from tests.support.tiny_models import tiny
from trainers.methods.base import Lora
from trainers.methods.card import Provenance
from trainers.methods.compress import ALLOWED, compress
from trainers.methods.export import write_peft
from trainers.methods.targets import match_modules

FUNCTIONS = ("get_lora_id", "parse_fine_tuned_lora_name", "is_base_embedding_weights")  # of lora/utils.py
TARGETS = {"q_proj", "k_proj", "o_proj", "down_proj"}


def stand_in(name: str, **values: Any) -> ModuleType:
    """A module of these values, which can be imported."""
    module = ModuleType(name)
    module.__dict__.update({"__path__": [], **values})
    sys.modules[name] = module
    return module


def of_vllm(root: Path, path: str) -> ModuleType:
    """A module of vLLM, run from its file."""
    name = f"vllm.{path.removesuffix('.py').replace('/', '.')}"
    module = stand_in(name)
    exec(compile((root / "vllm" / path).read_text("utf-8"), path, "exec"), module.__dict__)
    return module


def functions_of(path: Path) -> dict[str, Any]:
    """FUNCTIONS, and the plain values at the top of the file that they need."""
    kept = [
        node
        for node in ast.parse(path.read_text("utf-8")).body
        if (isinstance(node, ast.FunctionDef) and node.name in FUNCTIONS)
        or (isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant))
    ]
    found: dict[str, Any] = {"WeightsMapper": Any}
    exec(compile(ast.Module(kept, []), str(path), "exec"), found)
    return found


def load(root: Path) -> tuple[Any, Any, Any]:
    """vLLM's modules of the configuration, the parser and the loader."""
    stand_in("vllm", envs=stand_in("vllm.envs", VLLM_LORA_ENABLE_DUAL_STREAM=False))
    for name in ("config", "lora", "utils", "model_executor", "model_executor.models"):
        stand_in(f"vllm.{name}")
    logger = logging.getLogger("vllm")
    logger.info_once = logger.warning_once = logger.info  # type: ignore[attr-defined]
    stand_in("vllm.logger", init_logger=lambda _: logger)
    stand_in("vllm.config.kernel", MEGA_MOE_BACKENDS=(), KernelConfig=Any)
    stand_in("vllm.config.utils", config=lambda config: dataclass(config=config))
    stand_in("vllm.platforms", current_platform=None)
    stand_in("vllm.utils.hashing", safe_hash=None)
    stand_in("vllm.utils.torch_utils", PIN_MEMORY=False)
    stand_in("vllm.model_executor.models.utils", WeightsMapper=Any)
    stand_in("vllm.lora.utils", **functions_of(root / "vllm/lora/utils.py"))
    config, helper = of_vllm(root, "config/lora.py"), of_vllm(root, "lora/peft_helper.py")
    of_vllm(root, "lora/lora_weights.py")
    return config, helper, of_vllm(root, "lora/lora_model.py")


def refused(call: Callable[[], object]) -> str:
    """What vLLM says as it refuses."""
    try:
        call()
    except ValueError as error:
        return str(error)
    raise AssertionError("vLLM refuses nothing")


def check(root: Path, folder: Path) -> None:
    """Writes folders as `serve-layout` does, and has vLLM read them."""
    config, helper, loader = load(root)
    assert get_args(config.MaxLoRARanks) == ALLOWED and config.LoRAConfig().max_lora_rank == 16
    model, draw = tiny("llama"), torch.Generator().manual_seed(0)
    stream = {
        name: Lora(torch.randn(3 + 9 * (i % 3), layer.in_features, generator=draw),
                   torch.randn(layer.out_features, 3 + 9 * (i % 3), generator=draw), scaling=1.5)
        for i, (name, layer) in enumerate(match_modules(model, [*TARGETS]).items())
    }  # fmt: skip
    origin = Provenance("t/x@v1", ("a",), "CAUSAL_LM", "org/base", "d" * 64)
    made = compress(stream, max_rank=8, tolerance=1.0)
    write_peft(model, made.stream, folder / "one", origin, notes=made.told())
    parsed = helper.PEFTHelper.from_local_dir(str(folder / "one"), None)
    parsed.validate_legal(config.LoRAConfig(max_lora_rank=8))
    parsed.validate_legal(config.LoRAConfig())
    said = refused(lambda: parsed.validate_legal(config.LoRAConfig(max_lora_rank=1)))
    assert "rank 8 is greater than max_lora_rank" in said, said
    read = loader.LoRAModel.from_local_checkpoint(str(folder / "one"), TARGETS, parsed, lora_model_id=1, device="cpu")
    assert read.rank == 8 and {*read.loras} == {*stream}
    for name, layer in read.loras.items():
        given = layer.scaling * layer.lora_b.double() @ layer.lora_a.double()
        lost = torch.linalg.matrix_norm(given - 1.5 * stream[name].b_DR.double() @ stream[name].a_RK.double(), 2)
        assert layer.scaling == 1 and float(lost) <= made.spectra[name].lost(8), name
    biased = {name: Lora(each.a_RK, each.b_DR, torch.ones(len(each.b_DR))) for name, each in stream.items()}
    write_peft(model, biased, folder / "biased", origin)
    parsed = helper.PEFTHelper.from_local_dir(str(folder / "biased"), None)
    said = refused(lambda: parsed.validate_legal(config.LoRAConfig(max_lora_rank=512)))
    assert "bias" in said, said
    print(f"vLLM of {root.name} reads what serve-layout --max-rank writes, and refuses what it cannot serve")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="orthoplex-vllm-") as temporary:
        check(Path(sys.argv[1]), Path(temporary))
