"""Readers of a task's rows that a test knows the answers of; see `trainers.methods.base.Reader`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from trainers.methods.base import LossMoments


@dataclass
class KnownReader:
    """One rank, and these second moments by layer, of the loss's gradients too.

    With `of_inputs` they are of what layers read, not of what they give. `asked` counts how often rows were read.
    """

    moments: Mapping[str, Tensor] = field(default_factory=dict)
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    asked: int = 0
    of_inputs: bool = False

    def shared(self, data: bytes) -> bytes:
        return data

    def second_moments(self, modules: Mapping[str, nn.Module], *, inputs: bool = False) -> dict[str, Tensor]:
        assert inputs == self.of_inputs
        self.asked += 1
        return {name: self.moments[name] for name in modules}

    def loss_moments(self, modules: Mapping[str, nn.Module]) -> LossMoments:
        self.asked += 1
        return {name: (self.moments[name], self.gradients[name]) for name in modules}

    def squared_gradients(self, values: Mapping[str, Tensor], most: int | None) -> dict[str, Tensor]:
        raise NotImplementedError
