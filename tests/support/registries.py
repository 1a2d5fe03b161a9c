"""A small registry to do things to: versions with files, an alias, readers that read all of it."""

import itertools
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.errors import ConflictError, Interrupted
from cluster.storage import LocalStore, S3Store, Store, open_store
from orchestrator.config.run import RunConfig
from orchestrator.log.entry import Entry
from orchestrator.registry.publish import publish
from orchestrator.run.controller import Controller
from orchestrator.track.events import Learned, TaskDescription
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import Track, manifest_files
from tests.support.entries import COMMIT

LEARNED = Learned(task="a", active_parameters=10, overlap=0.0, base_digest="b" * 64)
BODY = {**COMMIT, **LEARNED.model_dump(exclude_unset=True)}
_numbers = itertools.count()


def make_files(folder: Path, seed: object) -> Path:
    """A folder of two files whose bytes depend on the seed."""
    draw = random.Random(repr(seed))
    made = folder / f"files-{os.getpid()}-{next(_numbers)}"
    (made / "sub").mkdir(parents=True)
    (made / "adapter.safetensors").write_bytes(draw.randbytes(100))
    (made / "sub" / "log.parquet").write_bytes(draw.randbytes(60))
    return made


def publish_one(track: Track, folder: Path, seed: object = 0) -> Entry:
    return publish(
        track, make_files(folder, seed), LEARNED, {"base_model": {"name": "minilm"}, "base_digest": "b" * 64}
    )


def publish_patiently(track: Track, folder: Path, seed: object = 0) -> Entry:
    """As `publish_one`, again where a garbage collector without grace took the files."""
    while True:
        try:
            return publish_one(track, folder, seed)
        except ConflictError:
            continue


def forkable(uri: str) -> Store:
    """A store for child processes: a client is made once, for all of them, and has no connection yet."""
    store = open_store(uri)
    if isinstance(store, S3Store):
        assert store.client
    return store


def stream_of(store: Store | str) -> Track:
    """The track team/stream."""
    return Track(open_store(store) if isinstance(store, str) else store, "team", "stream")


def track_with(versions: int, folder: Path, uri: str | None = None) -> Track:
    """A track with that many versions, in `folder`/store or another store."""
    made = stream_of(uri or str(folder / "store"))
    for number in range(versions):
        publish_one(made, folder, number)
    return made


def read_everything(store: Store, team: str = "team", name: str = "stream") -> list[dict[str, bytes]]:
    """The files of every version, by path, as a reader gets them who trusts nothing but what is checked."""
    track = Track(store, team, name)
    found = []
    for commit in replay(team, name, track.entries()).commits:
        manifest = track.manifest_of(commit)
        found.append({path: track.read_file(commit.prefix, manifest, path) for path in manifest_files(manifest)})
    return found


def in_child(work: Callable[[], None]) -> int:
    """Runs `work` in a forked process; returns its id. It ends with 0, or with 1 where `work` raises."""
    sys.stdout.flush()
    sys.stderr.flush()
    if child := os.fork():
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def all_ended(children: list[int]) -> bool:
    """Whether every child has ended; none is waited for, so that `ended` still can."""
    states = [os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) for child in children]
    return all(state is not None for state in states)


def ended(child: int) -> int:
    """The exit code of a child; 0 where it was killed, as it is then meant to be."""
    _, status = os.waitpid(child, 0)
    return 0 if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL else os.waitstatus_to_exitcode(status)


class Leaving:
    """Workers of a run that gets Ctrl-C while it reads its data; and its reporter."""

    def check(self) -> None: ...
    def say(self, message: str) -> None: ...
    def taken(self, state: RunState) -> None: ...

    def describe(self) -> list[TaskDescription]:
        raise Interrupted("interrupted by SIGINT")


def started_in_vain(config: RunConfig, entries: int) -> Track:
    """The track of a run that its driver took up and left until its log had so many entries or one more."""
    leaving: Any = Leaving()
    while True:
        controller = Controller(config, leaving, workers=leaving)
        if controller.state.head and controller.state.head.seq >= entries:
            return controller.track
        with suppress(Interrupted):
            controller.run()


def folder_track(root: Path) -> Track:
    return Track(LocalStore(root), "team", "stream")


def fresh(track: Track) -> Track:
    return Track(track.store, "team", "stream")
