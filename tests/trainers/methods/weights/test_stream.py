"""What is stored of whole weights is read as it was written, and nothing else is taken."""

from collections.abc import Callable, Mapping

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from cluster.errors import ConfigError, IntegrityError
from tests.support.method_stream import MethodStream
from trainers.method_config import FullConfig
from trainers.methods.base import Artifact
from trainers.methods.weights.stream import FILE, WeightsMethod, places

New = Callable[..., MethodStream]
SECTION = {"method": "full", "target_modules": ["c_attn"]}
NAME = "transformer.h.0.attn.c_attn.weight"


@pytest.fixture
def stream(new: New) -> MethodStream:
    return new("gpt2", FullConfig, **SECTION)


def values_of(stream: MethodStream) -> dict[str, Tensor]:
    assert isinstance(stream.method, WeightsMethod)
    return {name: weight.detach().clone() for name, weight in stream.method.weights.items()}


def without(values: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in values.items() if key != name}


CHANGES: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "absent": (lambda v: without(v, NAME), "other weights"),
    "another": (lambda v: {**v, "x": torch.ones(1)}, "other weights"),
    "shape": (lambda v: {**v, NAME: torch.ones(2, 2)}, r"shape \(2, 2\), but the model's is \(32, 96\)"),
    "dtype": (lambda v: {**v, NAME: v[NAME].bfloat16()}, "not float32, not finite, or values beyond 1e"),
    "nan": (lambda v: {**v, NAME: v[NAME] * torch.nan}, "not float32, not finite, or values beyond 1e"),
    "large": (lambda v: {**v, NAME: torch.full_like(v[NAME], 3e38)}, "not float32, not finite, or values beyond 1e"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_of_this_model_is_refused(stream: MethodStream, change: str) -> None:
    """And the model stays as it is."""
    make, said = CHANGES[change]
    before = values_of(stream)
    for act in (stream.method.extend, stream.method.merge):
        with pytest.raises(IntegrityError, match=f"^full: task 1.*{said}"):
            act([Artifact({FILE: save(make(before))})])
    assert all(torch.equal(value, before[name]) for name, value in values_of(stream).items())


def test_damaged_bytes_are_refused(stream: MethodStream) -> None:
    with pytest.raises(IntegrityError, match=r"^full: task 1: malformed"):
        stream.method.extend([Artifact({FILE: b"\0" * 30})])


def test_the_newest_task_answers(stream: MethodStream) -> None:
    """Its file alone is read, and the base comes back to the bit, in its own memory."""
    before = values_of(stream)
    places = {name: stream.backbone.model.get_parameter(name).data_ptr() for name in before}
    newest = {name: value + 1 for name, value in before.items()}
    stream.method.extend([Artifact({FILE: b"never read"}), Artifact({FILE: save(newest)})])
    assert all(torch.equal(value, newest[name]) for name, value in values_of(stream).items())
    stream.method.extend([Artifact({FILE: save(before)})])
    assert all(torch.equal(value, before[name]) for name, value in values_of(stream).items())
    stream.method.reset(stream.config)
    assert all(torch.equal(value, before[name]) for name, value in values_of(stream).items())
    assert places == {name: stream.backbone.model.get_parameter(name).data_ptr() for name in before}


def test_merging_gives_the_layers_their_full_rank(stream: MethodStream) -> None:
    newest = {name: value + 1 for name, value in values_of(stream).items()}
    ranks = stream.method.merge([Artifact({FILE: save(newest)})])
    assert ranks == dict.fromkeys(stream.method.modules, 32)
    assert all(torch.equal(value, newest[name]) for name, value in values_of(stream).items())


def test_it_is_no_lora(stream: MethodStream) -> None:
    with pytest.raises(
        ConfigError, match=r"^adapter\.method: full changes the base's own .*; export it with --format merged$"
    ):
        stream.method.as_lora([])


def test_the_file_has_the_names_of_the_model(stream: MethodStream) -> None:
    made = load(stream.learn(0).files[FILE])
    assert {*made} == {f"transformer.h.{i}.attn.c_attn.{key}" for i in range(3) for key in ("weight", "bias")}


def test_places_of_a_tied_weight() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(3, 4), "c": nn.Embedding(4, 3)})
    weight = model["a"].weight
    assert isinstance(weight, nn.Parameter)
    model["c"].weight = weight
    assert places(model, {"x": weight}) == {"x": [(model["a"], "weight"), (model["c"], "weight")]}
