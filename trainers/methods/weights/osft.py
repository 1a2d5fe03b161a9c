"""Orthogonal Subspace Fine-Tuning by PEFT's OSF: a weight's leading singular directions are kept, the others trained.

    W = U_h S_h V_h + U_l S_l V_l,   the first r singular directions of θ_{t−1} in U_h, S_h, V_h, frozen
    W_t = U_h S_h V_h + U S V,   U (D, L), S (L,), V (L, K) trained from U_l, S_l, V_l,   UᵀU_h = 0, V V_hᵀ = 0

So W_t v = W v for an input v along V_h, and nothing is written along U_h that was not before. Every task decomposes the
weights that the last one left. Source: Nayak et al., arXiv:2504.07097. There, and in PEFT, the gradients of U and V are
projected. AdamW divides them value by value, after which an update is no longer orthogonal to what is kept. With
`projection: values` the products are computed with projected U and V, and hold exactly; with `gradients` they are
PEFT's alone.

Shape suffixes: D output width, K input width, L trained directions.
"""

import re
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from cluster.errors import ConfigError
from trainers.method_config import MethodConfig, OsftConfig
from trainers.methods.base import Artifact, Attached, Footprint, ParamGroup, Penalty, Reader, Row, TaskContext
from trainers.methods.targets import by_pattern, input_width, is_transposed, width
from trainers.methods.weights.full import dump
from trainers.methods.weights.stream import EVERYTHING, FILE, Values, WeightsMethod, count, full_rank

TRAINING = "in_training"  # PEFT's name of what is trained
PARTS = ("U_low", "S_low", "V_low")


class OsftMethod(WeightsMethod):
    """See `methods.base.Method`."""

    config: OsftConfig

    def __init__(self, model: nn.Module, config: OsftConfig, dtype: torch.dtype) -> None:
        """Finds the target layers.

        Raises:
            ConfigError: there are none, one is not `nn.Linear` or has no direction left to train, or the model is not
                in float32.
        """
        if config.target_modules == EVERYTHING:
            raise ConfigError("adapter.target_modules: all: osft decomposes linear layers alone; write all-linear")
        super().__init__(model, config, biases=False)
        if dtype != torch.float32:
            raise ConfigError(
                f"model.dtype: osft decomposes the base's weights, and {dtype} would round its factors; set "
                "model.dtype to float32"
            )
        for name, module in self.modules.items():
            if is_transposed(module):
                raise ConfigError(
                    f"adapter.target_modules: {name!r} is a Conv1D, as GPT-2 has them, and PEFT's OSF takes nn.Linear "
                    "alone; use adapter.method full or ewc, or another base"
                )
        self.low  # noqa: B018  # raises

    @property
    def low(self) -> dict[str, int]:
        """L of every target layer. Raises ConfigError as `kept_rank`."""
        return {name: full_rank(module) - self.kept_rank(name) for name, module in self.modules.items()}

    def kept_rank(self, name: str) -> int:
        """r of a layer for the task to come: a number of directions, or a share of all it has, and what is added with
        every task; at least 1, as PEFT asks for, and at most all but one.

        Raises:
            ConfigError: none would be left to train from the first task on.
        """
        config: OsftConfig = self.config
        asked, most = by_pattern(name, config.rank_pattern, config.effective_rank), full_rank(self.modules[name])
        rank = max(1, int(most * asked)) if isinstance(asked, float) else asked
        if rank >= most:
            raise ConfigError(
                f"adapter.effective_rank: {name!r} has {most} singular directions, and {rank} are to be kept, which "
                "leaves none to train; lower it, or give the layer its own in adapter.rank_pattern"
            )
        return min(rank + int(config.rank_growth * self.tasks * most), most - 1)

    def reset(self, config: MethodConfig) -> None:
        """See Method."""
        import peft  # noqa: F401  # takes seconds, which are to be spent at a worker's start, not in its first task

        super().reset(config)

    def begin(self, task: TaskContext) -> Attached:
        """See Method."""
        return OsftAttached(self, task)

    def footprint(self, tasks: int) -> Footprint:  # noqa: ARG002
        """See Method. What is kept are the weights that change; the history is the decomposition in PEFT's layers."""
        sides = {name: width(module) + input_width(module) for name, module in self.modules.items()}
        trained = sum(low * (sides[name] + 1) for name, low in self.low.items())
        held = sum(full_rank(module) * sides[name] for name, module in self.modules.items())
        kept = count(self.weights.values())
        return Footprint(trained=trained, kept=kept, copies_weights=True, history_bytes=4 * held)


class OsftAttached:
    """See `methods.base.Attached`. `layers` are PEFT's, by the name of what they wrap, and `factors` their U, S, V."""

    def __init__(self, method: OsftMethod, task: TaskContext) -> None:
        from peft import OSFConfig
        from peft.tuners.osf import OSFModel

        self.method, self.task = method, task
        config = OSFConfig(
            target_modules="|".join(map(re.escape, method.modules)),
            rank_pattern={f"^{re.escape(name)}$": method.kept_rank(name) for name in method.modules},
        )
        self.tuner: Any = OSFModel(method.model, {TRAINING: config}, TRAINING)
        self.layers: dict[str, Any] = {name: method.model.get_submodule(name) for name in method.modules}
        self.factors: dict[str, list[nn.Parameter]] = {
            name: [layer.osf_svd_params[TRAINING][part] for part in PARTS] for name, layer in self.layers.items()
        }
        self.module = nn.ParameterList(chain.from_iterable(self.factors.values()))
        self.project()

    def groups(self) -> list[ParamGroup]:
        """See Attached."""
        train = self.task.train
        return [ParamGroup([*self.module], train.learning_rate, train.weight_decay)]

    def penalties(self) -> dict[str, Penalty]:
        """See Attached: none."""
        self.project()
        return {}

    def project(self) -> None:
        """Has PEFT's layers compute with U − U_h U_hᵀ U and V − V V_hᵀ V_h. An attribute of what holds the factors
        hides the parameter."""
        if self.method.config.projection == "gradients":
            return
        for name, layer in self.layers.items():
            u_DL, _, v_LK = self.factors[name]
            layer.osf_svd_params[TRAINING].__dict__.update(
                U_low=outside(u_DL, layer._osf_U_high, layer._osf_U_low_init),
                V_low=outside(v_LK.T, layer._osf_V_high, layer._osf_V_low_init, rows=True).T,
            )

    def before_step(self, step: int) -> None:
        """See Attached."""

    def after_step(self, penalties: Mapping[str, Tensor]) -> None:
        """See Attached."""

    def changes(self) -> Values:
        """ΔW (D, K) of every layer."""
        self.project()
        return {name: layer.get_delta_weight(TRAINING) for name, layer in self.layers.items()}

    @torch.no_grad()
    def report(self) -> Row:
        """See Attached: the mean number of trained directions, and ‖ΔW‖_F of every layer."""
        changes, low = self.changes(), self.method.low.values()
        norms = torch.stack([change.norm() for change in changes.values()]).tolist()
        columns = {f"norm/{name}": norm for name, norm in zip(changes, norms, strict=True)}
        return {"mean_rank": sum(low) / len(low), **columns}

    @torch.no_grad()
    def finish(self, reader: Reader) -> Artifact:  # noqa: ARG002
        """See Attached: the changed weights, whole."""
        weights = {name: layer.get_base_layer().weight for name, layer in self.layers.items()}
        changed = {f"{name}.weight": weights[name] + change for name, change in self.changes().items()}
        return Artifact({FILE: dump(changed)}, self.method.summary(self.method.low))

    def detach(self) -> None:
        """See Attached. The layers become again those that PEFT had wrapped."""
        self.tuner.unload()


def outside(
    vectors_DL: Tensor, kept: Mapping[str, Tensor], left: Mapping[str, Tensor], *, rows: bool = False
) -> Tensor:
    """Columns without what they have in the kept directions.

    PEFT stores an orthonormal basis of these, `kept`, unless the directions that are `left` span all else, as they do
    on the narrower side of a weight. `rows` says that both hold directions as rows.
    """
    basis = kept[TRAINING] if TRAINING in kept else left[TRAINING]
    basis = basis.T if rows else basis
    inside_DL = basis @ (basis.T @ vectors_DL)
    return vectors_DL - inside_DL if TRAINING in kept else inside_DL
