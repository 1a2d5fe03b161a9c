"""Runs made without Ray: the log entries and files a controller would write, through the registry."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.storage import LocalStore, upload_files
from orchestrator.config.run import RunConfig, parse_config
from orchestrator.run.driver_log import DriverLog
from orchestrator.sweeps import driver, results
from orchestrator.sweeps.config import SweepConfig
from orchestrator.sweeps.sweep_state import SweepState
from orchestrator.track.events import TaskDescription
from orchestrator.track.rules import KeyRule, RulesLog, TeamRules
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import Track, trusting_what_is_there
from tests.support.entries import START, Raw
from tests.support.keys import public_pem, sign_with
from tests.support.registries import folder_track, publish_one

ROWS = {"train": 40, "validation": 10, "test": 20}
MODULES = ("layer.0.dense", "layer.1.dense")
Fractions = Sequence[float]


def config_of(names: Sequence[str], **sections: Any) -> RunConfig:
    """A valid configuration whose tasks have these names."""
    tasks = [{"name": name, "source": "docstrings", "task": "library"} for name in names]
    content = {"name": "stream", "adapter": {"target_modules": ["dense"]}, "tasks": tasks, **sections}
    return parse_config(content, "test")


class FakeRun:
    """A run in the folder `root`; each task has 40 training, 10 validation and 20 test rows."""

    def __init__(self, root: Path, names: Sequence[str], *, team: str, name: str, config: RunConfig | None) -> None:
        self.root = root
        self.config = config or config_of(names, name=name, team=team, store=str(root))
        self.track = Track(LocalStore(root), team, name)
        self.open(names)

    @property
    def state(self) -> RunState:
        return replay(self.track.team, self.track.name, self.track.entries())

    def append(self, op: str, body: dict[str, Any] | None = None) -> None:
        self.track.append(Raw(op, body or {}), after=self.track.head())

    def open(self, names: Sequence[str], tasks: Sequence[dict[str, Any]] = ()) -> None:
        described = [
            {"name": name, "labels": ["x", "y"], "fingerprint": "f" * 64, "rows": ROWS, "warnings": []}
            for name in names
        ]
        self.append("start", START)
        self.append("open", {"config": self.config.model_dump(mode="json"), "tasks": list(tasks or described)})

    def commit(
        self,
        validation: Fractions,
        test: Fractions | None = None,
        *,
        zero_shot: Fractions | None = None,
        parameters: int = 100,
        overlap: float = 0.25,
        occupancy: Mapping[str, Mapping[str, float]] | None = None,
        kept: Mapping[str, Any] | None = None,
    ) -> None:
        """One task, with accuracy on every task; a split's scores are the fractions of its rows."""
        index = len(self.state.commits)
        prefix, files, budget = self.track.fresh_prefix(), self.root.parent / f"files-{self.track.name}-{index}", {}
        for module in MODULES:
            budget[module] = {"rank": 3, "max_rank": 4, "tau": 0.5}
        write_log(files)
        body = {
            "version": index + 1,
            "index": index,
            "task": self.state.tasks[index].name,
            "prefix": prefix,
            "base_digest": "b" * 64,
            "budget": budget,
            "overlap": overlap,
            "occupancy": occupancy or {m: {"written": 0.1, "read": 0.0, "free": 9, "dropped": 0.0} for m in MODULES},
            "active_parameters": parameters,
            "stored_bytes": 1000,
            "validation": counts(validation, "validation"),
            "test": counts(validation if test is None else test, "test"),
            "cost": {"train_s": 1.5, "evaluate_s": 0.5, "workers": 2},
        }
        if kept:
            body["kept"] = kept
        if index == 0:
            body["zero_shot"] = counts(zero_shot or [0.0] * len(validation), "test")
        angles = [{"smallest": 80.0, "mean": 88.0}] * index
        told = {"base_model": {"name": "minilm"}, "base_digest": "b" * 64, "budget": budget}
        metadata: dict[str, Any] = {**told, "principal_angles": angles}
        records = upload_files(self.track.store, prefix, files)
        body["manifest_sha256"] = self.track.write_manifest(prefix, metadata, records)
        self.append("commit", body)


def counts(fractions: Fractions, split: str) -> list[dict[str, int]]:
    """Correct rows for each fraction of a split's rows."""
    return [{"correct": round(fraction * ROWS[split]), "rows": ROWS[split]} for fraction in fractions]


def write_log(folder: Path) -> None:
    """A training.parquet of two steps, with a NaN as a diverging step would leave."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    columns: dict[str, list[Any]] = {"step": [10, 20], "loss": [0.5, math.nan], "overlap": [math.inf, 0.25]}
    for module in MODULES:
        columns |= {f"rank/{module}": [4, 3], f"tau/{module}": [0.5, 0.625]}
    pq.write_table(pa.table(columns), folder / "training.parquet")


@pytest.fixture
def fake_run(tmp_path: Path) -> Callable[..., FakeRun]:
    """Begins a run in `tmp_path`/store: fake_run("a", "b") has two tasks, none of them committed."""

    def begin(*names: str, team: str = "default", name: str = "stream", config: RunConfig | None = None) -> FakeRun:
        return FakeRun(tmp_path / "store", names, team=team, name=name, config=config)

    return begin


@pytest.fixture(
    params=["folder", "moto", pytest.param("ceph", marks=pytest.mark.s3), pytest.param("https", marks=pytest.mark.s3)]
)
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of an empty store of each kind; two kinds are a real server's."""
    if request.param == "folder":
        return str(tmp_path / "store")
    fixture = {"moto": "s3_bucket", "ceph": "ceph_bucket", "https": "ceph_tls_bucket"}[request.param]
    return f"s3://{request.getfixturevalue(fixture)}/a"


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for data, Tuning and pictures; what it was asked to train."""
    asked: list[Any] = []

    class Fake:
        def __init__(self, config: SweepConfig, log: DriverLog[SweepState], say: Any) -> None:
            self.log = log

        def run(self, started: Any, reader: str, tasks: list[Any]) -> str | None:
            assert reader == "reader"
            asked.append((tasks, driver.describe_tasks(None, tasks)))
            return act(self.log) if (act := getattr(Fake, "act", None)) else None

    monkeypatch.setattr(results, "picture", lambda config, trials, choice: b"drawn in test_results")

    @contextmanager
    def session(config: SweepConfig, say: Any) -> Iterator[Any]:
        yield SimpleNamespace(config=config, at_once=1)  # the real one: tests/e2e

    monkeypatch.setattr(driver, "session", session)
    monkeypatch.setattr("orchestrator.sweeps.tuning.Tuning", Fake)
    monkeypatch.setattr("trainers.methods.registry.check_method", lambda *_: (None, None))
    monkeypatch.setattr(driver, "check_tasks", lambda config, data, model: ("reader", data))
    monkeypatch.setattr(driver, "load_tasks", lambda config, say: ["library", "section"])
    monkeypatch.setattr(
        driver,
        "describe_tasks",
        lambda _, names: [TaskDescription(name=name, fingerprint=name * 8) for name in names],
    )
    asked.append(Fake)
    return asked


@pytest.fixture
def signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Track:
    """A track with one entry from before, then rules: `lead` may do all, `bob` publish; signing as the lead."""
    track = folder_track(tmp_path / "store")
    publish_one(track, tmp_path)
    for name in ("bob", "stranger", "lead"):
        sign_with(tmp_path / name, monkeypatch)
    keys = {
        "lead": KeyRule(public_key=public_pem(tmp_path / "lead")),
        "bob": KeyRule(public_key=public_pem(tmp_path / "bob"), roles=("publisher",)),
    }
    log = RulesLog(track.store, "team")
    wanted = TeamRules(signatures="required", keys=keys)
    log.change(trusting_what_is_there(track.store, "team", TeamRules(), wanted), expect=0, why="from now on")
    return folder_track(tmp_path / "store")
