"""What methods have in common that train the base's own weights: where they stand, what a task stores, how it answers.

    θ_t = what task t made of θ_{t−1};   θ_0 are the base's weights, and the model answers with the newest θ_t

A task is stored as `adapter.safetensors`: every weight that the method trains, whole, in float32, under its name in the
model; tied weights are there once. So the newest file alone answers. In a narrower model the weights are θ_t rounded
once, as they were in the forward passes that trained it, and the next task goes on from the float32 values.

The base's own memory, which other processes may share, is never written. Weights that tasks have changed get memory of
their own.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from cluster.errors import ConfigError, IntegrityError
from trainers.method_config import MethodConfig
from trainers.methods.base import Artifact, Shares, Summary, without_threshold
from trainers.methods.targets import input_width, linear_layers, match_modules, width
from trainers.methods.updates import LARGEST, sound
from trainers.models.packed import line_offset, placed

FILE = "adapter.safetensors"
EVERYTHING = "all"
Values = dict[str, Tensor]


class WeightsMethod:
    """All of `methods.base.Method` but `begin` and `footprint`.

    `weights` are the base's parameters that the method trains, by name. `places` says which modules have each of them,
    under which attribute. `tasks` counts the committed ones.
    """

    def __init__(self, model: nn.Module, config: MethodConfig, *, biases: bool = True) -> None:
        """Finds the weights: those of the target layers, with their biases if `biases`, or of the whole model.

        Raises:
            ConfigError: a target matches no linear layer.
        """
        self.model, self.config = model, config
        whole = config.target_modules == EVERYTHING
        self.modules: Mapping[str, nn.Module] = (
            linear_layers(model) if whole else match_modules(model, config.target_modules)
        )
        owners = dict(model.named_modules()) if whole else self.modules
        chosen = {
            id(weight)
            for module in owners.values()
            for key, weight in module.named_parameters(recurse=False)
            if biases or key == "weight"
        }
        self.weights: dict[str, nn.Parameter] = {n: w for n, w in model.named_parameters() if id(w) in chosen}
        self.places = places(model, self.weights)
        self._originals: Values = {}
        self._exact: Values = {}
        self.tasks = 0

    @torch.no_grad()
    def reset(self, config: MethodConfig) -> None:
        """See Method."""
        for name, original in self._originals.items():
            self.weights[name].data = original.to(self.weights[name].device)
        self.config, self._originals, self._exact, self.tasks = config, {}, {}, 0

    def extend(self, committed: Sequence[Artifact]) -> None:
        """See Method. Only the newest task is read."""
        for each in committed[-1:]:
            self._write(self.checked(self.tasks + len(committed), each.files[FILE]))
        self.tasks += len(committed)

    def start(self, name: str) -> Tensor:
        """θ_{t−1} of a weight for the task to come, in float32: not a copy if the weight is in float32."""
        weight = self.weights[name]
        return self._exact.get(name, weight.detach()).to(weight.device, torch.float32)

    def answering(self, task: int | None) -> AbstractContextManager[None]:  # noqa: ARG002
        """See Method. All tasks are answered by the same weights."""
        return nullcontext()

    def as_lora(self, committed: Sequence[Artifact]) -> NoReturn:  # noqa: ARG002
        """See Method: refused."""
        raise ConfigError(
            f"adapter.method: {self.config.method} changes the base's own weights, at any rank, so that what it has "
            "learned is no LoRA; export it with --format merged"
        )

    @torch.no_grad()
    def merge(self, committed: Sequence[Artifact]) -> dict[str, int]:
        """See Method."""
        for name, value in self.checked(len(committed), committed[-1].files[FILE]).items():
            self.weights[name].copy_(value)
        return {name: full_rank(module) for name, module in self.modules.items()}

    def capacity(self) -> Shares:
        """See Method. Nothing is kept apart."""
        return {}

    def kept(self) -> None:
        """See Method. In a narrower model, tasks are trained with the rounded weights that answer later."""

    def checked(self, number: int, data: bytes) -> Values:
        """One float32 tensor per weight, in the order of `weights`.

        Raises:
            IntegrityError: the bytes of task `number` hold anything else.
        """
        head = f"{self.config.method}: task {number}"
        try:
            found = load(data)
        except SafetensorError as error:
            raise IntegrityError(f"{head}: malformed ({type(error).__name__}); do not use this version") from None
        if found.keys() != self.weights.keys():
            raise IntegrityError(f"{head} has other weights than this run trains; the files are not of it")
        for name, value in found.items():
            if value.shape != (expected := self.weights[name].shape):
                raise IntegrityError(
                    f"{head}, {name!r}: shape {tuple(value.shape)}, but the model's is {tuple(expected)}; the files "
                    "are not of this model"
                )
            if not sound(value):
                raise IntegrityError(
                    f"{head}, {name!r}: not float32, not finite, or values beyond {LARGEST:g}; do not use this version"
                )
        return {name: found[name] for name in self.weights}  # `load` has one of its own in every process

    def summary(self, ranks: Mapping[str, int]) -> Summary:
        """What the log says of a task that gave the layers an update of these ranks. The weights are counted once, in
        the first task, since later ones replace them."""
        budget = without_threshold(ranks, {name: full_rank(self.modules[name]) for name in ranks})
        return Summary(budget=budget, active_parameters=0 if self.tasks else count(self.weights.values()))

    @torch.no_grad()
    def _write(self, values: Values) -> None:
        """Puts these values into the model, and keeps those that it rounds."""
        for name, value in values.items():
            weight = self.weights[name]
            if name in self._originals:
                weight.copy_(value)
            else:
                self._originals[name] = weight.detach().cpu()  # itself on a CPU
                weight.data = placed(value.to(weight.dtype), line_offset(weight)).to(weight.device)
        self._exact = {name: value for name, value in values.items() if self.weights[name].dtype != torch.float32}


def places(model: nn.Module, weights: Mapping[str, nn.Parameter]) -> dict[str, list[tuple[nn.Module, str]]]:
    """Weight → the modules of a model that have this parameter, and the attribute that it is: several if it is tied."""
    found: dict[int, list[tuple[nn.Module, str]]] = {id(weight): [] for weight in weights.values()}
    for module in model.modules():
        for key, own in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(own) in found:
                found[id(own)].append((module, key))
    return {name: found[id(weight)] for name, weight in weights.items()}


def full_rank(module: nn.Module) -> int:
    """The largest rank of a change of a linear layer's weight."""
    return min(width(module), input_width(module))


def count(tensors: Iterable[Tensor]) -> int:
    """Number of values in all of them."""
    return sum(tensor.numel() for tensor in tensors)
