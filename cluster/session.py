"""A connection to Ray within a block of code. Whatever it starts on this machine, it also removes.

A Ray that is started here is private: it listens on loopback alone, and all of it asks for a token that it got for this
session. Token and files are in a folder of mode 0700, since Ray makes its own folders open to everybody.
"""

import logging
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cluster import leaving
from cluster.errors import ConfigError
from cluster.names import refuse_taken
from cluster.resources import ClusterConfig
from cluster.temporary import SHORT, end_users, remove_left, temporary

NAMESPACE = "orthoplex"
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}  # where ranks on one machine talk


def debugging() -> bool:
    """True with ORTHOPLEX_DEBUG=1: worker output is shown and Ray's temporary folder is kept."""
    return os.environ.get("ORTHOPLEX_DEBUG", "") not in ("", "0")


@contextmanager
def ray_session(cluster: ClusterConfig) -> Iterator[None]:
    """Connects to the configured cluster, to $RAY_ADDRESS, or to a Ray of its own on this machine.

    A Ray that this process is connected to already is used and left as it is.

    Raises:
        ConfigError: no cluster answers at the address, this machine is too small (a cluster may still grow), or the
            current folder, from which Ray has workers import, has something with the name of a package of Orthoplex.
    """
    import ray

    refuse_taken(Path.cwd(), "Ray has its workers import from the folder where a run is started")
    if ray.is_initialized():
        yield
        return
    leaving.check()
    remove_left()
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    with ExitStack() as stack:
        if address:
            stack.callback(ray.shutdown)
            _connect(cluster, address)
        else:
            _start(cluster, stack.enter_context(_private_folder()))
            if shortage := cluster.shortage(ray.cluster_resources()):
                raise ConfigError(f"cluster: {shortage} on this machine; lower num_workers, or set use_gpu to false")
        leaving.check()
        reap()
        yield


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder for a Ray of this process, which ends with the block. Its path is short, since sockets are put there."""
    import ray

    folder = temporary(below=SHORT)
    try:
        yield Path(folder.name)
    finally:
        ray.shutdown()
        _look_for_token()
        end_users(Path(folder.name))
        if debugging():  # under a name that no later process removes
            Path(folder.name).rename(tempfile.mkdtemp(prefix="orthoplex-debug-", dir=SHORT))
        folder.cleanup()


def _look_for_token() -> None:
    """Has Ray read again, in this process, whether it asks for a token, then for which. The other way round, a thread
    of Ray that still runs might need a token when there is none any more, and end the process."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def write_secret(path: Path) -> None:
    """Writes a new token to a file that only this user can read. Raises FileExistsError if there is one."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
        file.write(secrets.token_hex(32))


def on_this_machine() -> bool:
    """Whether all nodes of the connected Ray are this machine, and talk over loopback."""
    import ray

    return ray.util.get_node_ip_address() in ("127.0.0.1", "::1")


def here() -> Any:
    """The scheduling strategy that keeps an actor on this node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def reap() -> list[str]:
    """Removes placement groups of this namespace whose driver, or the actor that made them, is dead; their ids.

    Ray frees most of them itself. It does not if the driver was killed while its workers were being placed, or if a
    trainer is killed in a Ray without a dashboard, which it needs for that. Those would hold their resources for ever.
    Ray notices deaths some seconds late, so a driver that waits for resources calls this again.
    """
    import ray._private.state
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    dead = {bytes.fromhex(job["JobID"]) for job in ray._private.state.jobs() if job["IsDead"]}
    left = [group for group in _placement_groups() if orphaned(group, dead)]
    for group in left:
        remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
    return [group.placement_group_id.hex() for group in left]


def reap_trainers(wait_s: float) -> None:
    """Waits, for at most `wait_s`, until no placement group is left that an actor of this driver made. Call it after
    all trainers of the driver have ended."""
    import ray

    job, deadline = bytes.fromhex(ray.get_runtime_context().get_job_id()), time.monotonic() + wait_s
    while time.monotonic() < deadline:
        reap()
        ours = [g for g in _placement_groups() if g.creator_job_id == job and _by_actor(g)]
        if all(group.state == type(group).REMOVED or group.is_detached for group in ours):
            return
        time.sleep(0.1)


def reserved() -> dict[str, float]:
    """The resources that placement groups of this driver hold: Ray resource names to amounts."""
    import ray

    return held(_placement_groups(), bytes.fromhex(ray.get_runtime_context().get_job_id()))


def held(groups: Iterable[Any], job: bytes) -> dict[str, float]:
    """The resources that placed groups hold which the job, or an actor of it, made. `groups` are Ray's
    PlacementGroupTableData."""
    sums = Counter[str]()
    for group in groups:
        if group.creator_job_id == job and group.state == type(group).CREATED:
            for bundle in group.bundles:
                sums.update(bundle.unit_resources)
    return dict(sums)


def _by_actor(group: Any) -> bool:
    """Whether an actor made the group. For a driver's group Ray says that the actor is dead, with an id of all ones."""
    return bool(group.creator_actor_id.strip(b"\xff"))


def _placement_groups() -> list[Any]:
    """Ray's table of placement groups, including removed ones."""
    import ray._private.state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    accessor = ray._private.state.state._connect_and_get_accessor()
    return [PlacementGroupTableData.FromString(row) for row in accessor.get_placement_group_table()]


def orphaned(group: Any, dead: Collection[bytes]) -> bool:
    """Whether a placement group (Ray's PlacementGroupTableData) is ours and nobody will use it again.

    `dead` are the ids of dead jobs: `creator_job_dead` stays false for a group that an actor of the job made.
    """
    gone = group.state == type(group).REMOVED
    unused = group.creator_job_dead or group.creator_job_id in dead
    unused = unused or (_by_actor(group) and group.creator_actor_dead)
    return group.ray_namespace == NAMESPACE and unused and not group.is_detached and not gone


def keep_raylets_off_stdout() -> None:
    """Stops Ray from printing reports of raylets to the driver's standard output, which may be JSON. Ray prints them
    even if `log_to_driver` is false. Errors still reach the driver as exceptions."""
    import ray._private.worker

    ray._private.worker.print_to_stdstream = lambda *_, **__: None


def _connect(cluster: ClusterConfig, address: str) -> None:
    import ray

    common = _prepared()
    try:
        with _handlers_kept():
            ray.init(address=address, runtime_env={"env_vars": variables_of(cluster)}, **common)
    except (ConnectionError, RuntimeError, ValueError):
        raise ConfigError(
            f"cluster.address: no Ray cluster answers at {address!r}; start one, or set it to null (and unset "
            "RAY_ADDRESS) to run on this machine"
        ) from None


def _start(cluster: ClusterConfig, folder: Path) -> None:
    import ray

    common = _prepared()
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # 3 CPU-seconds, and one machine is not preempted
    # without a runtime_env, or the processes that Ray starts beforehand fit nobody
    loopback = {name: value for name, value in LOOPBACK.items() if name not in os.environ}
    private = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": None, "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    write_secret(folder / "token")
    with inherited({**loopback, **variables_of(cluster), **private}), _loopback_alone(), _handlers_kept():
        _look_for_token()
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, cluster.num_workers.max * cluster.cpus_per_worker),
            include_dashboard=False,
            object_store_memory=object_store_bytes(),
            _temp_dir=str(folder / "r"),
            **common,
        )


def _prepared() -> dict[str, Any]:
    """Quiet surroundings for `ray.init`; returns arguments that it always gets."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not debugging():
        keep_raylets_off_stdout()
    return {
        "namespace": NAMESPACE,
        "logging_level": logging.INFO if debugging() else logging.ERROR,
        "log_to_driver": debugging(),
    }


def variables_of(cluster: ClusterConfig) -> dict[str, str]:
    """The variables that workers get."""
    return QUIET if cluster.use_gpu else {**QUIET, "DS_ACCELERATOR": "cpu"}


@contextmanager
def _loopback_alone() -> Iterator[None]:
    """A Ray that is started within the block has the address 127.0.0.1, as Ray does it on macOS. Then it listens on
    loopback alone. An address that it is given would be replaced by one that others reach, if it is 127.0.0.1."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray sets a handler of SIGTERM that ends the process with exit code 15; within the block not, if it has one."""
    from ray._private import utils

    before = utils.set_sigterm_handler
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        utils.set_sigterm_handler = lambda _: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = before


@contextmanager
def inherited(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Processes that are started within the block have these variables in their environment, or lack them if they are
    None."""
    before = {name: os.environ.get(name) for name in variables}
    try:
        _set(variables)
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def object_store_bytes() -> int:
    """Size of Ray's object store on this machine: 30% of its memory, Ray's own default, or 90% of the free shared
    memory if that is less, but at least 1 GiB. Ray would put all of a store that shared memory cannot hold on disk."""
    from ray._common.utils import get_system_memory  # a container's, where it is in one

    memory = Path("/dev/shm")
    shared = shutil.disk_usage(memory).free if memory.is_dir() else 0
    return max(1 << 30, min(int(0.3 * get_system_memory()), int(0.9 * shared)))
