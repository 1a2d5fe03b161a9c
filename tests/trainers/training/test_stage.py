"""A stage on real processes: an error of one rank is an error of all. And a stage's own checks in this process."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from cluster.errors import IntegrityError, TrainingError
from tests.support import method_stream
from tests.support.launching import launch
from tests.support.method_stream import MethodStream
from tests.support.tiny_models import save_tiny
from trainers.config import OwnTraining
from trainers.data.batching import epoch_batches, micro_batches
from trainers.messages import Checkpointed, Said, Saved
from trainers.method_config import AdapterConfig
from trainers.methods.oa import bank
from trainers.methods.registry import method_for
from trainers.training import stage
from trainers.training.checkpoint import Checkpoint
from trainers.training.loss_moments import loss_moments
from trainers.training.stage import Leaving, TaskTraining

OA = {"target_modules": ["c_attn"], "max_rank": 3, "threshold": 0.3, "orthogonality": {"weight": 1.0}}
New = Callable[..., MethodStream]


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank says."""
    folder = tmp_path_factory.mktemp("pair")
    launch(folder, 2, "tests.support.stage_pair")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_what_rank_0_cannot_read_fails_on_all_ranks_and_leaves_them_fit_for_the_next_order(
    met: list[dict[str, Any]],
) -> None:
    """Were it to fail alone, the others would wait for it in a broadcast, and it for them while it tidies up."""
    for found in met:
        assert (found["error"], found["training"], found["tasks"]) == ("c/t/away is out of reach", False, 1)


@pytest.mark.slow
def test_all_ranks_go_on_with_the_files_of_rank_0(met: list[dict[str, Any]]) -> None:
    """Rank 1 ends with other bytes, as another CPU may; the model is that of the stored ones on both."""
    first, second = met
    assert first["bytes"] != second["bytes"]
    assert first["stored"] == first["bytes"] == second["stored"]
    assert first["model"] == second["model"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, one_process: None) -> Iterator[Path]:
    """A tiny decoder, and one process that is a group of its own."""
    folder = tmp_path_factory.mktemp("base")
    save_tiny("gpt2", folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_SIZE": 1}.items():
            patch.setenv(name, str(value))
        yield folder


@pytest.fixture
def new(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> New:
    """Makes streams of two tasks of 6 updates; all have one store."""

    def make(warmup: int, **settings: object) -> MethodStream:
        train = method_stream.TRAIN.model_copy(update={"warmup_steps": warmup})
        monkeypatch.setattr(method_stream, "TRAIN", train)
        config = AdapterConfig.model_validate({**OA, **settings})
        return MethodStream(base, config, lambda model: method_for(model, config, torch.float32), tmp_path)

    return make


def wrong(w2_MDR: Tensor, basis_MDH: Tensor) -> Tensor:
    """The penalty without its last direction."""
    return (basis_MDH[..., :-1].transpose(1, 2) @ w2_MDR).square().sum()


@pytest.mark.parametrize("warmup", [0, 1, 4, 100])
def test_a_wrong_penalty_stops_the_task_whatever_the_warmup(
    new: New, monkeypatch: pytest.MonkeyPatch, warmup: int
) -> None:
    """Also if it is wrong only once the task is resumed; a first task has nothing that could be wrong."""
    right, stream = bank.penalty, new(warmup)
    first = stream.learn(0)
    with pytest.raises(Leaving):
        stream.training(1, leave_at=4).run()
    monkeypatch.setattr(bank, "penalty", wrong)
    resumed = new(warmup)
    resumed.take([first])
    with pytest.raises(TrainingError, match=r"orthogonality penalty is .* in the step and"):
        resumed.training(1).run()
    (stream.store / "c" / "1").unlink()
    with pytest.raises(TrainingError, match=r"orthogonality penalty is .* in the step and"):
        stream.learn(1)
    new(warmup).learn(0)
    monkeypatch.setattr(bank, "penalty", right)
    (stream.store / "c" / "1").unlink(missing_ok=True)
    stream.learn(1)


def test_the_cap_holds_for_a_task_resumed_from_its_last_update(new: New) -> None:
    """Its checkpoint has gates alone; the cap comes from the step that was reached."""
    before, after = new(1, max_parameters=300), new(1, max_parameters=300)
    before.training(0).run()
    trained = after.training(0).run().artifact
    assert trained.summary is not None and 0 < trained.summary.active_parameters <= 300
    assert trained.files == new(1, max_parameters=300).learn(0).files
    free = new(1)
    (free.store / "c" / "0").unlink()
    found = free.learn(0).summary
    assert found is not None and found.active_parameters > 300


LONG = OwnTraining(min_steps=10, learning_rate=1e-2)  # 12 rows in batches of 4: 2 epochs are 6 steps


def test_more_steps_than_epochs_are_further_passes(new: New) -> None:
    """Each in an order of its own; the last one ends where the steps do, and fewer steps are their beginning."""
    stage = new(1).training(0, own=LONG)
    lengths = stage.split.lengths
    found = [*stage.batches()]
    expected = [batch for epoch in range(4) for batch in epoch_batches(lengths, 4, stage.seed, epoch)][:10]
    assert stage.steps == len(found) == 10 and all(map(np.array_equal, found, expected))
    passes = [np.concatenate(found[start : start + 3]) for start in (0, 3, 6)]
    assert all([*np.sort(rows)] == [*range(12)] for rows in passes)
    assert len({tuple(rows) for rows in passes}) == 3
    cut = new(1).training(0, own=OwnTraining(max_steps=5))
    assert cut.steps == 5 and all(map(np.array_equal, cut.batches(), found[:5]))


@pytest.mark.parametrize(("workers", "accumulation"), [(1, 1), (2, 1), (3, 2)])  # the last one: more shares than rows
def test_any_number_of_workers_sees_the_same_batches(new: New, workers: int, accumulation: int) -> None:
    seen = []
    for batch in new(1).training(0, own=LONG, accumulation=accumulation).batches():
        shares = [rows for rank in range(workers) for rows in micro_batches(batch, accumulation, rank, workers)]
        seen.append({*np.concatenate(shares).tolist()})
    assert seen == [{*batch.tolist()} for batch in new(1).training(0, own=LONG).batches()]


@pytest.mark.parametrize("leave_at", [5, 8])  # within the epochs, and beyond them
def test_a_task_resumed_with_more_steps_than_epochs_ends_with_the_same_bytes(new: New, leave_at: int) -> None:
    stream = new(1)
    with pytest.raises(Leaving):
        stream.training(0, leave_at, own=LONG).run()
    resumed = new(1).training(0, own=LONG).run()
    (stream.store / "c" / "0").unlink()
    whole = new(1).training(0, own=LONG).run()
    assert resumed.artifact.files == whole.artifact.files
    batches = new(1).training(0, own=LONG).batches()
    lengths = new(1).training(0, own=LONG).split.lengths
    assert resumed.tokens == whole.tokens == sum(int(lengths[batch].sum()) for batch in batches) > 0
    assert resumed.parameters == whole.parameters > 0
    assert whole.log.tensors()["step"].tolist() == [*range(1, 11)]
    (stream.store / "c" / "0").unlink()
    assert resumed.artifact.files != new(1).learn(0).files


def test_the_course_between_two_rows_of_the_log(new: New, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read at every third of ten updates, if four are to be sampled, and leaves what is learned as it is."""
    monkeypatch.setattr("trainers.training.stage.MOST_SAMPLES", 4)
    stream = new(1)
    whole = stream.training(0, own=LONG).run()
    assert whole.course.rows == [] and whole.log.with_course(whole.course) == whole.log.columns
    (stream.store / "c" / "0").unlink()
    seldom = new(1).training(0, own=LONG)
    seldom.job = replace(seldom.job, train=seldom.job.train.model_copy(update={"logging_steps": 5}))
    found = seldom.run()
    assert found.artifact.files == whole.artifact.files
    steps = [[row["step"] for row in each.rows] for each in (found.log, found.course)]
    assert steps == [[5, 10], [3, 6, 9]]
    course, every = found.log.with_course(found.course), whole.log.columns
    assert course["step"] == [3, 5, 6, 9, 10] and {*every} - {*course} == {"budget", "functional", "orthogonality"}
    for key, column in course.items():
        assert column == [every[key][step - 1] for step in course["step"]], key


def test_a_batch_smaller_than_its_micro_batches_weighs_rows_as_ever(new: New, base: Path) -> None:
    """Three rows of a task's own batch size in five micro-batches, two of them empty, are three rows in one."""
    own = OwnTraining(batch_size=3)
    found = []
    for accumulation in (1, 5):
        stream = new(1)
        found.append(stream.training(0, own=own, accumulation=accumulation).run().log.tensors()["loss"].tolist())
        (stream.store / "c" / "0").unlink()
    assert len(found[0]) == 8 and found[1] == pytest.approx(found[0], rel=1e-4)


def test_a_task_that_diverges_names_the_rate_that_is_its_own(new: New) -> None:
    said = str(new(1).training(0, own=LONG).diverged("the loss is nan", 3))
    assert "lower its training.learning_rate (now 0.01)" in said
    said = str(new(1).training(0, own=OwnTraining(epochs=9)).diverged("the loss is nan", 3))
    assert "lower train.learning_rate (now 0.02)" in said


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (1e38, r"a rate of 1e\+38 is beyond the numbers of float32 at step 1"),
        (3e37, r"the loss is (nan|inf) at step \d"),
        (1e18, "what its layers give on its rows is not finite after step 6"),
    ],
)
def test_a_learning_rate_beyond_reason_ends_in_an_error_that_names_it(
    new: New, monkeypatch: pytest.MonkeyPatch, rate: float, said: str
) -> None:
    """The gates are slow, and stay open: at such rates they would close, and nothing would be learned."""
    stream = new(0, functional={"weight": 1.0})
    wild = {"learning_rate": rate, "budget_learning_rate_factor": 1e-3 / rate}
    monkeypatch.setattr(method_stream, "TRAIN", method_stream.TRAIN.model_copy(update=wild))
    named = rf"^task 'task 0': ({said}); what was committed stands\. .* lower train\.learning_rate \(now {rate:.0e}\)"
    with pytest.raises(TrainingError, match=named.replace("e+", r"e\+")):
        stream.training(0).run()


@pytest.mark.parametrize("which", [0, 1])
def test_moments_that_are_not_finite_end_the_task(new: New, monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    """Of what layers give, and of gradients; after training."""

    def spoilt(*args: object) -> dict[str, tuple[Tensor, Tensor]]:
        found = loss_moments(*args)
        for pair in found.values():
            pair[which][0, 0] = torch.inf
        return found

    monkeypatch.setattr(stage, "loss_moments", spoilt)
    with pytest.raises(TrainingError, match=r"^task 'task 0': what its layers give .* is not finite after step 6; "):
        new(1, functional={"weight": 1.0}).training(0).run()


# --- which checkpoint a task goes on from


def left_at(stream: MethodStream, updates: int) -> tuple[Path, list[Any]]:
    """The checkpoint of task 0, left after so many updates, and what was reported."""
    training, said = stream.training(0, leave_at=updates), list[Any]()
    training.report = said.append
    with pytest.raises(Leaving):
        training.run()
    return stream.store / "c" / "0", said


def going_on(stream: MethodStream, **order: Any) -> tuple[TaskTraining, list[str]]:
    """The stage of task 0 once more, and the lines it says."""
    training, lines = stream.training(0), list[str]()
    training.order = replace(training.order, **order)
    training.report = lambda event: lines.append(event.line) if isinstance(event, Said) else None
    return training, lines


def test_each_checkpoint_is_told_with_its_digest(new: New) -> None:
    path, said = left_at(new(1), 4)
    told = [event for event in said if isinstance(event, Checkpointed)]
    assert [(event.index, event.told.step, event.total_steps) for event in told] == [(0, 3, 6), (0, 4, 6)]
    assert told[-1].told.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert isinstance(said[-1], Saved)
    training, lines = going_on(new(1), vouched=told[-1].told, only_vouched=True)
    training.run()
    assert lines == []


def test_a_checkpoint_that_somebody_changed_is_refused(new: New) -> None:
    """Its own digest is right again: only the log's can tell."""
    path, said = left_at(new(1), 4)
    told = [event.told for event in said if isinstance(event, Checkpointed)][-1]
    training, _ = going_on(new(1))
    found = Checkpoint.parse(path.read_bytes(), training.identity)
    assert found is not None
    name = next(name for name in found.tensors if name.startswith("value/"))
    path.write_bytes(replace(found, tensors={**found.tensors, name: found.tensors[name] * 2}).dump(training.identity))
    training, _ = going_on(new(1), vouched=told)
    with pytest.raises(
        IntegrityError, match=r"c/0: the checkpoint, of step 4, is not the one that the run's log names"
    ):
        training.run()


def test_a_checkpoint_that_the_log_does_not_name_yet(new: New) -> None:
    """The driver was killed before it could name it. If the log is signed, nothing else says that it is ours."""
    path, said = left_at(new(1), 4)
    early = next(event.told for event in said if isinstance(event, Checkpointed))
    for vouched in (None, early):
        assert going_on(new(1), vouched=vouched)[0].checkpoint is not None
        training, lines = going_on(new(1), vouched=vouched, only_vouched=True)
        assert training.checkpoint is None
        assert lines == [
            "note: task 'task 0': its checkpoint of step 4 is not named in the signed log; the task is trained from "
            "its start"
        ]
    assert path.exists()


def test_a_checkpoint_of_an_older_version_is_gone_on_from_with_a_note(new: New) -> None:
    path, _ = left_at(new(1), 4)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load(path.read_bytes()), path, {key: metadata[key] for key in ("step", "identity")})
    training, lines = going_on(new(1))
    training.run()
    assert len(lines) == 1 and "its checkpoint of step 4 is of an older Orthoplex, and has no digest" in lines[0]


def test_a_checkpoint_of_other_parameters_is_refused(new: New) -> None:
    path, _ = left_at(new(1), 4)
    training, _ = going_on(new(1))
    found = Checkpoint.parse(path.read_bytes(), training.identity)
    assert found is not None
    name = next(name for name in found.tensors if name.startswith("exp_avg/"))
    path.write_bytes(replace(found, tensors={**found.tensors, name: torch.ones(1)}).dump(training.identity))
    with pytest.raises(IntegrityError, match=r"damaged \('exp_avg/.*' has the shape \(1,\), not"):
        training.run()
