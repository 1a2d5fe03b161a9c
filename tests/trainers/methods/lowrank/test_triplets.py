"""AdaLoRA deals out its ranks as PEFT's own allocator does, step by step."""

from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from peft.tuners.adalora import AdaLoraModel, RankAllocator
from torch import Tensor, nn

from tests.support.small_layers import SIZES, context, layers
from trainers.lowrank_config import AdaloraConfig
from trainers.methods.lowrank.adalora import AdaloraAttached, AdaloraMethod
from trainers.methods.lowrank.triplets import Triplets

STEPS, RATE, SCALING = 20, 0.03, 2.0
SETTINGS = {
    "method": "adalora", "target_modules": [*SIZES], "initial_rank": 4, "rank": 2, "alpha": 4 * SCALING,
    "initial_share": 0.1, "final_share": 0.3, "orthogonality_weight": 0.2,
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_process")


def begun(**changed: Any) -> AdaloraAttached:
    settings = AdaloraConfig.model_validate({**SETTINGS, **changed})
    method = AdaloraMethod(layers(), settings, torch.float32)
    method.reset(settings)
    attached = method.begin(context(steps=STEPS))
    assert isinstance(attached, AdaloraAttached)
    return attached


def goals() -> dict[str, Tensor]:
    """What the updates are trained to be: of a rank of 3, and larger in one layer than in another."""
    generator = torch.Generator().manual_seed(5)
    made = {}
    for factor, (name, (k, d)) in enumerate(SIZES.items(), start=1):
        left, right = torch.randn(d, 3, generator=generator), torch.randn(3, k, generator=generator)
        made[name] = 0.3 * factor * left @ right
    return made


def loss_of(changes: dict[str, Tensor], part: slice) -> Tensor:
    """Of some columns, as of some rows of a batch."""
    return torch.stack([(changes[n] - goal)[:, part].square().sum() for n, goal in goals().items()]).sum()


class Reference(nn.Module):
    """The same matrices under PEFT's names, with PEFT's allocator and its regularisation."""

    def __init__(self, start: Triplets, interval: int) -> None:
        super().__init__()
        for index, name in enumerate(start.names):
            layer = nn.Module()
            for kind, own in (("A", "A"), ("B", "B"), ("E", "E")):
                value = start.get_parameter(f"{own}_{index}").detach().clone()
                value = value[:, None] if kind == "E" else value
                setattr(layer, f"lora_{kind}", nn.ParameterDict({"default": nn.Parameter(value)}))
            self.add_module(name, layer)
        config = peft.AdaLoraConfig(
            init_r=4, target_r=2, tinit=2, tfinal=6, total_step=STEPS, deltaT=interval, orth_reg_weight=0.2
        )
        allocator = RankAllocator(self, config, "default")
        self.__dict__["tuner"] = SimpleNamespace(
            peft_config={"default": config}, trainable_adapter_name="default", rankallocator=allocator, model=self,
            forward=None,
        )  # fmt: skip

    def changes(self) -> dict[str, Tensor]:
        made = {}
        for name in SIZES:
            layer: Any = getattr(self, name)
            made[name] = SCALING * layer.lora_B["default"] @ (layer.lora_A["default"] * layer.lora_E["default"])
        return made

    def regularisation(self) -> Tensor:
        found = []
        for name, parameter in self.named_parameters():
            if "lora_E" not in name:
                product = parameter @ parameter.T if "lora_A" in name else parameter.T @ parameter
                found.append(torch.norm(product - torch.eye(len(product)), p="fro"))
        return sum(found) / len(found)  # type: ignore[return-value]

    def update(self, step: int) -> None:
        self.zero_grad()
        (loss_of(self.changes(), slice(None)) + 0.2 * self.regularisation()).backward()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.sub_(parameter.grad, alpha=RATE)
        AdaLoraModel.update_and_allocate(self.tuner, step)


def ours(attached: AdaloraAttached, step: int) -> None:
    """The same update in two micro-batches."""
    triplets = attached.triplets
    attached.before_step(step)
    triplets.zero_grad()
    for part in (slice(0, 2), slice(2, None)):
        outputs = triplets(torch.float32)
        pairs, penalties = triplets.split(outputs)
        (penalty,) = penalties.values()
        changes = {name: b_DR @ a_RK for name, (a_RK, b_DR) in pairs.items()}
        (loss_of(changes, part) + 0.5 * penalty.weight * penalty.value).backward()
    with torch.no_grad():
        for parameter in triplets.parameters():
            parameter.sub_(parameter.grad, alpha=RATE)
    attached.after_step({})


@pytest.mark.parametrize("interval", [1, 3])
def test_ranks_are_dealt_out_as_peft_does(interval: int) -> None:
    attached = begun(interval=interval)
    reference, seen = Reference(attached.triplets, interval), set()
    for step in range(1, STEPS + 1):
        reference.update(step)
        ours(attached, step)
        for index, name in enumerate(SIZES):
            expected_R = getattr(reference, name).lora_E["default"].detach()[:, 0]
            offset_R = attached.triplets.get_buffer(f"offset_{index}")
            found_R = attached.triplets.get_parameter(f"E_{index}").detach() - offset_R
            assert torch.equal(found_R == 0, expected_R == 0)
            torch.testing.assert_close(found_R, expected_R, rtol=1e-3, atol=1e-5)
        seen.add(tuple(attached.triplets.ranks().values()))
    assert sum(attached.triplets.ranks().values()) == 2 * len(SIZES) and len(seen) > 3
    assert len({*attached.triplets.ranks().values()}) > 1  # some layers got more than others


def test_the_penalty_is_pefts() -> None:
    attached = begun()
    with torch.no_grad():
        for parameter in attached.triplets.parameters():
            parameter.normal_()
    penalty = attached.penalties()["orthogonality"]
    assert penalty.weight == 0.2
    torch.testing.assert_close(penalty.value, Reference(attached.triplets, 1).regularisation())


def test_what_is_kept_are_the_dimensions_that_are_on() -> None:
    """With λ in A; a layer without any is absent."""
    attached = begun()
    triplets = attached.triplets
    for index, on in enumerate(([1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1])):
        triplets.get_parameter(f"E_{index}").data.copy_(torch.arange(1.0, 5.0))
        triplets.get_buffer(f"on_{index}").copy_(torch.tensor(on).bool())
    triplets.switch_off()
    kept = triplets.snapshot()
    assert {name: lora.rank for name, lora in kept.items()} == {"a": 2, "c": 4}
    expected = triplets.get_parameter("B_0")[:, [0, 3]] @ (
        torch.tensor([[1.0], [4.0]]) * triplets.get_parameter("A_0")[[0, 3]]
    )
    torch.testing.assert_close(kept["a"].b_DR @ kept["a"].a_RK, expected.detach())
    pairs, _ = triplets.split(triplets(torch.float32))
    torch.testing.assert_close(pairs["a"][1] @ pairs["a"][0], SCALING * expected)
    assert not (pairs["b"][1] @ pairs["b"][0]).any()


def test_a_dimension_that_is_off_can_grow_again() -> None:
    """Its λ has a gradient, and is on after the next choice if it has become important."""
    triplets = begun().triplets
    triplets.get_buffer("on_0").zero_()
    triplets.switch_off()
    pairs, _ = triplets.split(triplets(torch.float32))
    (pairs["a"][1] @ pairs["a"][0]).sum().backward()
    assert triplets.get_parameter("E_0").grad is not None and triplets.get_parameter("E_0").grad.any()  # type: ignore[union-attr]


def test_what_later_updates_depend_on_is_in_the_state() -> None:
    """Checkpoints keep it."""
    state = begun().triplets.state_dict()
    kinds = {name.rpartition("_")[0] for name in state}
    statistics = {f"{part}_{kind}" for part in ("mean", "spread") for kind in "ABE"}
    assert kinds == {"A", "B", "E", "offset", "on", *statistics}
