"""OA-Adapter behind the methods' seam: its groups, its penalties against dense ones, and what it costs."""

from typing import Any

import pytest
import torch

from cluster.errors import ConfigError, TrainingError
from tests.support.oa_streams import WIDTH, bert, settings
from tests.support.readers import KnownReader
from trainers.config import TrainConfig
from trainers.method_config import AdapterConfig
from trainers.methods.base import Artifact, TaskContext
from trainers.methods.oa import bank
from trainers.methods.oa.artifact import dump, extract
from trainers.methods.oa.method import OaAttached, OaMethod, parse
from trainers.methods.oa.subspace import Basis

LAYERS = 4
TRAIN = TrainConfig(learning_rate=1e-3, budget_learning_rate_factor=20.0, weight_decay=0.1, warmup_steps=2)


def method_of(config: AdapterConfig) -> OaMethod:
    method = OaMethod(bert(), config, torch.float32)
    method.reset(config)
    return method


def attached_to(method: OaMethod, seed: int, steps: int = 10) -> OaAttached:
    """A task whose W2 is as training might leave it."""
    task = TaskContext(name="t", seed=seed, steps=steps, train=TRAIN, device=torch.device("cpu"), rank=0)
    attached = method.begin(task)
    assert isinstance(attached, OaAttached)
    generator = torch.Generator().manual_seed(seed)
    attached.bank.W2_0.data = 0.3 * torch.randn(attached.bank.W2_0.shape, generator=generator)
    return attached


def learned(method: OaMethod, seed: int) -> Artifact:
    """A task that was taken over."""
    attached, history = attached_to(method, seed), method.history
    made = Artifact(dump(extract(attached.bank.snapshot(), history.written, history.read, {}, 0.9)))
    attached.detach()
    method.extend([made])
    return made


def test_gates_learn_at_their_own_rate_without_decay() -> None:
    matrices, gates = attached_to(method_of(settings()), seed=1).groups()
    assert (matrices.learning_rate, matrices.weight_decay) == (1e-3, 0.1)
    assert gates.learning_rate == pytest.approx(2e-2) and gates.weight_decay == 0
    assert sum(parameter.numel() for parameter in gates.parameters) == LAYERS * (6 + 1)  # g and τ


def test_penalties_are_the_formulas() -> None:
    """Σ ‖Qᵀ W2‖², and the mean over layers of Σ |γ|, in float64 from the stored task and the bank."""
    method = method_of(settings(orthogonality={"weight": 3.0}, budget_weight=0.2))
    earlier = parse(learned(method, seed=1))
    attached = attached_to(method, seed=2)
    states = attached.bank.snapshot()
    q = {name: part.columns_DH.double() for name, part in earlier.written.items()}
    expected = sum(float((q[name].T @ state.w2_DR.double()).square().sum()) for name, state in states.items())
    found = attached.penalties()
    assert expected > 0.1 and found["orthogonality"].weight == 3.0 and found["budget"].weight == 0.2
    assert found["orthogonality"].value.item() == pytest.approx(expected, rel=1e-5)
    assert attached.dense_penalties() == {"orthogonality": pytest.approx(expected, rel=1e-6)}
    gates = sum(float(state.gamma_R.double().abs().sum()) for state in states.values()) / LAYERS
    assert found["budget"].value.item() == pytest.approx(gates, rel=1e-5)


def test_a_penalty_that_is_not_the_dense_one_stops_training_at_the_step_after_warmup() -> None:
    method = method_of(settings(orthogonality={"weight": 1.0}))
    learned(method, seed=1)
    attached = attached_to(method, seed=2)
    right = attached.penalties()["orthogonality"].value.detach()
    for step in range(1, 6):
        attached.before_step(step)
        attached.after_step({"orthogonality": right})
        if step == TRAIN.warmup_steps + 1:
            with pytest.raises(TrainingError, match=r"'t': the orthogonality penalty is .* in the step and"):
                attached.after_step({"orthogonality": 1.01 * right})
        else:
            attached.after_step({"orthogonality": 1.01 * right})


def test_without_a_weight_the_penalty_is_not_computed_and_the_overlap_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> torch.Tensor:
        raise AssertionError

    monkeypatch.setattr(bank, "penalty", never)
    method = method_of(settings())
    learned(method, seed=1)
    attached = attached_to(method, seed=2)
    assert [*attached.penalties()] == ["budget"] and attached.dense_penalties() == {}
    expected, q = [], method.history.columns("written")
    for name, state in attached.bank.snapshot().items():
        written = (state.w2_DR * state.gamma_R).double()
        expected.append(float((q[name].double().T @ written).square().sum() / written.square().sum()))
    assert min(expected) > 0.01
    assert attached.report()["overlap"] == pytest.approx(sum(expected) / LAYERS, rel=1e-5)


def test_the_log_has_a_column_per_figure_and_layer() -> None:
    method = method_of(settings())
    report: Any = attached_to(method, seed=1).report()
    ranks = [report[f"rank/{name}"] for name in method.modules]
    assert report["mean_rank"] == sum(ranks) / LAYERS and report["overlap"] == 0
    assert all(len(report[f"g/{name}"]) == 6 and report[f"tau/{name}"] > 0 for name in method.modules)
    assert len(report) == 2 + 3 * LAYERS


@pytest.mark.parametrize("side", ["output", "both"])
def test_the_footprint_bounds_what_a_task_costs(side: str) -> None:
    """Trained: R · (2 D + 1) + 1 a layer. History: Q of earlier tasks three times, P and a second moment of D · D."""
    method = method_of(settings(orthogonality={"side": side}, max_parameters=700))
    cost = method.footprint(3)
    kept = parse(learned(method, seed=1))
    assert cost.trained == LAYERS * (6 * (2 * WIDTH + 1) + 1) and cost.kept == 700 and cost.copies_weights
    assert method.footprint(1).history_bytes == (LAYERS * 8 * WIDTH**2 if side == "both" else 0)
    assert cost.history_bytes - method.footprint(1).history_bytes == 2 * 3 * 4 * LAYERS * WIDTH * 6
    assert sum(part.columns_DH.numel() for part in kept.written.values()) * 4 * 3 * 2 <= cost.history_bytes


def test_floors_that_cost_more_than_the_cap_are_refused() -> None:
    least = LAYERS * 2 * (2 * WIDTH + 1)
    with pytest.raises(ConfigError, match=rf"max_parameters: {least - 1} is less than the {least} that min_rank"):
        OaMethod(bert(), settings(min_rank=2, max_parameters=least - 1), torch.float32)
    OaMethod(bert(), settings(min_rank=2, max_parameters=least), torch.float32)


@pytest.mark.parametrize(
    ("side", "mode", "refused"),
    [
        ("both", "penalty", True),
        ("output", "projection", True),
        ("output", "penalty", False),
        ("none", "penalty", False),
    ],
)
def test_a_task_is_refused_before_training_if_a_layer_has_no_direction_left(
    side: str, mode: str, refused: bool
) -> None:
    """Its adapter there would be 0 but for rounding: nothing of it may be trained or stored. If nothing keeps adapters
    out of the directions, the task is trained, and what it writes there is all overlap."""
    method = method_of(settings(orthogonality={"side": side, "mode": mode, "max_occupancy": 1.0}))
    learned(method, seed=1)
    attached_to(method, seed=2).detach()
    name = next(iter(method.modules))
    full = Basis(torch.eye(WIDTH), torch.ones(WIDTH))
    method.history.read[name] = method.history.written[name] = full
    if refused:
        with pytest.raises(TrainingError, match=rf"task 't': the directions .* fill {name}, .*max_occupancy below 1"):
            attached_to(method, seed=2)
    else:
        attached = attached_to(method, seed=2)
        shares = {module: report.overlap for module, report in attached.bank.report().items()}
        assert shares.pop(name) == pytest.approx(1, abs=1e-5) and all(0 < share < 0.9 for share in shares.values())
        made = parse(Artifact(attached.finish(read_by(method, 2)).files))
        assert made.modules[name].rank and made.written[name].columns_DH.shape[1] == 0  # Q has no more room
        attached.detach()


FELT = {"orthogonality": {"side": "none"}, "functional": {"weight": 7.0, "directions": 5}}


def read_by(method: OaMethod, seed: int) -> KnownReader:
    """Second moments per layer."""
    generator = torch.Generator().manual_seed(seed)
    rows = [{name: torch.randn(50, WIDTH, generator=generator) for name in method.modules} for _ in range(2)]
    return KnownReader(*({name: h.T @ h for name, h in each.items()} for each in rows))


@pytest.mark.parametrize("metric", ["loss", "none"])
def test_the_functional_penalty_is_the_formula_over_all_earlier_tasks(metric: str) -> None:
    """Σ tr(U C Uᵀ G) in float64, dense from what the stored tasks hold."""
    method = method_of(settings(**{**FELT, "functional": {**FELT["functional"], "metric": metric}}))
    first = attached_to(method, seed=1)
    assert first.penalties()["functional"].value.item() == 0 and first.dense_penalties() == {}
    first.detach()
    tasks = []
    for seed in (1, 2):
        attached, reader = attached_to(method, seed), read_by(method, seed)
        tasks.append(attached.finish(reader))
        attached.detach()
        method.extend([Artifact(tasks[-1].files)])
        for name, felt in parse(tasks[-1]).felt.items():
            exact = reader.moments[name].double() / reader.moments[name].double().trace()
            v = felt.read.columns_DK.double()
            torch.testing.assert_close(v.T @ exact @ v, torch.diag(felt.read.values_K.double()), rtol=1e-4, atol=1e-6)
            if metric == "none":
                assert torch.equal(felt.loss.dense(), torch.eye(WIDTH, dtype=torch.float64))
    attached = attached_to(method, seed=3)
    expected = 0.0
    for name, state in attached.bank.snapshot().items():
        u = (state.w2_DR * state.gamma_R).double() @ state.w1_RD.double()
        for felt in (parse(task).felt[name] for task in tasks):
            expected += float(torch.trace(u @ felt.read.dense() @ u.T @ felt.loss.dense()))
    found = attached.penalties()
    assert expected > 0.01 and found["functional"].weight == 7.0
    assert found["functional"].value.item() == pytest.approx(expected, rel=1e-5)
    assert attached.dense_penalties() == {"functional": pytest.approx(expected, rel=1e-6)}
    assert [*found] == ["budget", "functional"]


def test_a_functional_penalty_that_is_not_the_dense_one_stops_training() -> None:
    method = method_of(settings(orthogonality={"weight": 1.0}, functional={"weight": 1.0}))
    attached = attached_to(method, seed=1)
    method.extend([Artifact(attached.finish(read_by(method, 1)).files)])
    attached = attached_to(method, seed=2)
    right = {name: penalty.value.detach() for name, penalty in attached.penalties().items()}
    assert {*attached.dense_penalties()} == {"orthogonality", "functional"}
    attached.before_step(TRAIN.warmup_steps + 1)
    attached.after_step(right)
    assert attached.checked
    attached.checked = False
    attached.before_step(TRAIN.warmup_steps + 2)
    with pytest.raises(TrainingError, match=r"the functional penalty is .* in the step and"):
        attached.after_step({**right, "functional": 1.01 * right["functional"]})


def test_without_a_weight_nothing_is_read_and_nothing_else_is_stored() -> None:
    method = method_of(settings())
    attached, reader = attached_to(method, seed=1), read_by(method, 1)
    stored = attached.finish(reader)
    assert reader.asked == 0 and parse(stored).felt == {}
    assert [*attached.penalties()] == ["budget"]


def test_what_is_held_of_earlier_tasks_is_bounded_and_the_same_at_once_or_one_by_one() -> None:
    """And forgotten when the stream begins anew."""
    method = method_of(settings(**{**FELT, "functional": {"weight": 1.0, "tasks": 2}}))
    attached = attached_to(method, seed=1)
    stored = [Artifact(attached.finish(read_by(method, seed)).files) for seed in range(4)]
    attached.detach()
    method.extend(stored)
    at_once = method.history.felt
    assert len(at_once) == 2 and [task.felt for task in method.history.tasks] == [{}] * 4
    method.reset(method.config)
    assert method.history.felt == []
    for each in stored:
        method.extend([each])
    for one, other in zip(at_once, method.history.felt, strict=True):
        for name in method.modules:
            assert torch.equal(one[name].loss.dense(), other[name].loss.dense())


def test_a_frozen_w1_costs_no_trained_parameters() -> None:
    frozen, trained = (method_of(settings(train_down=down)).footprint(1) for down in (False, True))
    assert trained.trained - frozen.trained == LAYERS * 6 * WIDTH and trained.kept == frozen.kept
