"""A base that went through Ray's object store is the base, bit for bit, tied where it was tied; nobody writes it."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.tiny_models import MODELS, save_tiny
from tests.support.zero_pair import past_tasks
from trainers.config import ModelConfig
from trainers.data.prompts import Prompt
from trainers.messages import TaskRows
from trainers.method_config import AdapterConfig
from trainers.methods.oa.history import History
from trainers.methods.oa.layers import attach
from trainers.methods.targets import match_modules
from trainers.models.base import Backbone
from trainers.models.loading import load_backbone, load_reader, weights_digest
from trainers.models.packed import LINE_BYTES, SHARED_BYTES, PackedBase, own, placed
from trainers.models.tokens import tokenize_task

TEXTS = ["a short one", "somewhat longer than the one before it", "?"]
TYPES = {"t5": "SEQ_2_SEQ_LM", "flan-t5": "SEQ_2_SEQ_LM", "minilm": "LABEL_EMBEDDING"}
CASES = [(family, dtype, None) for family in ("minilm", *MODELS) for dtype in ("float32", "bfloat16")]
CASES += [("minilm", "float32", "float8"), ("llama", "bfloat16", "float8")]


def mapped(packed: PackedBase) -> PackedBase:
    """As Ray's object store gives it to another process: arrays are read-only views of one's memory."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(packed, protocol=5, buffer_callback=buffers.append)
    lines = [placed(torch.frombuffer(bytearray(buffer), dtype=torch.uint8), 0).numpy() for buffer in buffers]
    found: PackedBase = pickle.loads(data, buffers=[memoryview(line).toreadonly() for line in lines])
    assert not any(tensor.data.flags.writeable for tensor in found.tensors)
    return found


def config(folder: Path, family: str, dtype: str, quantization: str | None = None) -> ModelConfig:
    name = "minilm" if family == "minilm" else str(save_tiny(family, folder / family))
    kind = TYPES.get(family, "CAUSAL_LM")
    return ModelConfig.model_validate(
        {"name": name, "task_type": kind, "dtype": dtype, "max_length": 16, "quantization": quantization}
    )


def outputs(backbone: Backbone) -> list[torch.Tensor]:
    labels = backbone.encode_labels(["yes", "certainly not"])
    token_ids = backbone.tokenize(TEXTS)
    with torch.no_grad():
        losses = backbone.losses(backbone.batch(token_ids, np.array([0, 1, 0]), labels), labels)
    return [losses, backbone.predict(token_ids, labels, 2)]


@pytest.mark.parametrize(("family", "dtype", "quantization"), CASES)
def test_a_packed_base_gives_what_the_loaded_one_gives(
    tmp_path: Path, family: str, dtype: str, quantization: str | None
) -> None:
    asked = config(tmp_path, family, dtype, quantization)
    loaded = load_backbone(asked)
    made = mapped(PackedBase.of(loaded)).backbone("cpu")
    assert made.digest == loaded.digest
    if quantization is None:
        assert weights_digest(made.model) == loaded.digest
    for a, b in zip(outputs(made), outputs(loaded), strict=True):
        assert torch.equal(a, b)
    for (name, a), (_, b) in zip(loaded.model.named_buffers(), made.model.named_buffers(), strict=True):
        assert a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8)), name
    tied = [len({id(p) for _, p in m.named_parameters(remove_duplicate=False)}) for m in (loaded.model, made.model)]
    assert tied[0] == tied[1] and not any(parameter.requires_grad for parameter in made.model.parameters())
    for (name, a), (_, b) in zip(loaded.model.named_parameters(), made.model.named_parameters(), strict=True):
        assert a.data_ptr() % LINE_BYTES == b.data_ptr() % LINE_BYTES, name  # rounding depends on it
    assert type(made) is type(loaded) and vars(made.model.config) == vars(loaded.model.config)


def test_tied_weights_are_packed_once(tmp_path: Path) -> None:
    backbone = load_backbone(config(tmp_path, "qwen2", "float32"))
    packed = PackedBase.of(backbone)
    vocabulary = [tensor for tensor in packed.tensors if tensor.shape == tuple(backbone.model.lm_head.weight.shape)]
    made = packed.backbone("cpu")
    assert len(vocabulary) == 1 and made.model.lm_head.weight is made.model.get_input_embeddings().weight


@pytest.mark.slow
def test_only_what_nobody_writes_is_shared() -> None:
    """With a history folded in and taken out, in training mode, the shared bytes are those that were packed."""
    packed = mapped(PackedBase.of(load_backbone(ModelConfig(max_length=16))))
    before = [tensor.data.tobytes() for tensor in packed.tensors]
    made = packed.backbone("cpu")
    modules = match_modules(made.model, ["output.dense"])
    own(modules.values())
    places = {tensor.data.ctypes.data + tensor.offset for tensor in packed.tensors}
    shared = {name for name, p in made.model.named_parameters() if p.data_ptr() in places}
    assert "embeddings.word_embeddings.weight" in shared
    assert not shared & {f"{name}.weight" for name in modules}
    assert not any(buffer.data_ptr() in places for buffer in made.model.buffers())
    large = {n for n, p in made.model.named_parameters() if p.nbytes >= SHARED_BYTES}
    assert shared == large - {f"{name}.weight" for name in modules}
    history = History(modules, AdapterConfig(target_modules=["output.dense"]), torch.float32)
    attach(modules)
    for task in past_tasks(modules):
        history.extend(task)
    made.model.train()
    outputs(made)
    made.model.eval()
    history.restore()
    assert [tensor.data.tobytes() for tensor in packed.tensors] == before
    assert weights_digest(made.model) == made.digest


def test_tasks_are_tokenised_as_a_worker_would(tmp_path: Path) -> None:
    prompt = Prompt("Read: ", " Kind?")
    rows = TaskRows("t", ("yes", "no"), {"train": (TEXTS, [0, 1, 0]), "test": (TEXTS[:1], [1])}, prompt)
    for family in ("minilm", "llama"):
        asked = config(tmp_path, family, "float32")
        task = tokenize_task(load_reader(asked), rows)
        assert list(task.splits["train"].token_ids) == load_backbone(asked).tokenize(TEXTS, prompt) and task.name == "t"
        assert task.splits["test"].targets.tolist() == [1] and task.labels == rows.labels
