"""Checks of machines, versions, clocks and the store: pure functions from facts to findings."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from packaging.version import Version

from cluster.resources import ClusterConfig

GIB = 1 << 30
PYTHONS = ("3.11", "3.12")
MUST_AGREE = (
    "ray",
    "torch",
    "deepspeed",
    "transformers",
)  # between driver and nodes; others may differ, with a warning
SKEW_WARN_S, SKEW_FAIL_S = 2.0, 30.0
SHM_SHARE = 0.3  # of the memory, which Ray's object store takes by default
DISK_FULL_SHARE, DISK_LOW_BYTES = 0.05, 10 * GIB  # Ray stops writing objects to a disk that is 95% full
INSTALL = "pip install -c constraints.txt -e '.[offline]'"


@dataclass(frozen=True)
class Finding:
    """The result of one check. If it is not `ok`, `mend` is the command or step that mends it."""

    level: Literal["ok", "warn", "fail"]
    what: str
    mend: str = ""


@dataclass(frozen=True)
class Clock:
    """How far a clock is ahead of the driver's, known to ± `uncertainty_s`."""

    ahead_s: float
    uncertainty_s: float = 0.0


@dataclass(frozen=True)
class Node:
    """A machine: the facts of `gather_node`, None if it did not answer; the GPUs that Ray gives out; its clock."""

    label: str
    facts: Mapping[str, Any] | None
    ray_gpus: float = 0.0
    clock: Clock | None = None


@dataclass(frozen=True)
class StoreFacts:
    """A store as the driver sees it: `error` of the probe, `seen` the sha256 of the probe's object."""

    uri: str
    error: str | None = None
    seen: str | None = None
    clock: Clock | None = None


@dataclass(frozen=True)
class Facts:
    """All that was gathered. `pins` are those of constraints.txt; `resources` what the whole cluster has."""

    driver: Node
    pins: Mapping[str, str]
    packages: tuple[str, ...]
    address: str | None = None
    address_error: str | None = None
    token: bool = False
    nodes: tuple[Node, ...] = ()
    resources: Mapping[str, float] = field(default_factory=dict)
    asked: ClusterConfig | None = None
    store: StoreFacts | None = None


def findings(facts: Facts) -> list[Finding]:
    """The findings of every check, in the order in which they are to be mended."""
    return [finding for check in CHECKS for finding in check(facts)]


def check_python(facts: Facts) -> Iterator[Finding]:
    """The driver's Python is supported."""
    found = own(facts)["python"]
    supported = minor(found) in PYTHONS
    mend = "" if supported else "python3.11 -m venv .venv && . .venv/bin/activate && " + INSTALL
    yield Finding("ok" if supported else "fail", f"Python {found}", mend)


def check_pins(facts: Facts) -> Iterator[Finding]:
    """The driver's packages are those that were tested together."""
    have = own(facts)["packages"]
    if missing := [name for name in facts.packages if name not in have]:
        yield Finding("fail", f"not installed: {', '.join(missing)}", INSTALL)
    other = [
        f"{name} {have[name]} (pinned: {pin})"
        for name in facts.packages
        if name in have and (pin := facts.pins.get(name)) and public(have[name]) != pin
    ]
    if other:
        yield Finding("warn", f"other versions than in constraints.txt: {', '.join(other)}", INSTALL)
    if not facts.pins:
        yield Finding(
            "warn", "no constraints.txt found, so versions were not compared", "run in the project's checkout"
        )
    elif not missing and not other:
        yield Finding("ok", f"{len(facts.packages)} packages as in constraints.txt")


def check_address(facts: Facts) -> Iterator[Finding]:
    """The cluster answers, and token authentication is turned on or off explicitly."""
    if facts.address is None:
        yield Finding("ok", "no cluster address given: this machine only")
        return
    if facts.address_error:
        mend = (
            "ray status --address HOST:6379 on a node; `ray start --head` starts a cluster, `make cluster-up` two nodes"
        )
        yield Finding("fail", facts.address_error, mend)
        return
    yield Finding("ok", f"Ray at {facts.address}: {len(facts.nodes)} nodes")
    mode = own(facts)["auth_mode"]
    if not mode:
        mend = "export RAY_AUTH_MODE=token (or disabled) here and before every `ray start`"
        yield Finding("warn", "RAY_AUTH_MODE is not set: Ray decides by what lies in ~/.ray", mend)
    elif mode == "token" and not facts.token:
        yield Finding("fail", "RAY_AUTH_MODE is token, but there is none", "ray get-auth-token --generate")
    else:
        yield Finding("ok", f"RAY_AUTH_MODE is {mode}")
    for node in answering(facts):
        theirs = node.facts["auth_mode"] if node.facts else ""
        if theirs and mode and theirs != mode:
            what = f"{node.label}: RAY_AUTH_MODE is {theirs}, here {mode}"
            yield Finding("fail", what, f"export RAY_AUTH_MODE={theirs}, or start the node with {mode}")


def check_nodes(facts: Facts) -> Iterator[Finding]:
    """Every node answers and has the driver's versions."""
    here = own(facts)
    for node in facts.nodes:
        if node.facts is None:
            mend = "ray status; look at the node's raylet.log, and start it again"
            yield Finding("fail", f"{node.label}: runs no task", mend)
            continue
        yield from differences(node.label, node.facts, here)
        if not node.facts["project"]:
            mend = "use `orthoplex submit`, which carries it, or bake it into the image (cluster/deploy/Dockerfile)"
            yield Finding("warn", f"{node.label}: the project is not installed", mend)


def differences(label: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Finding]:
    """How a node's Python and packages differ from the driver's."""
    image = "start all nodes from one image (cluster/deploy/Dockerfile), or there: " + INSTALL
    if there["python"] != here["python"]:
        same = minor(there["python"]) == minor(here["python"])
        yield Finding("warn" if same else "fail", f"{label}: Python {there['python']}, here {here['python']}", image)
    grave: list[str] = []
    slight: list[str] = []
    for name, version in here["packages"].items():
        theirs = there["packages"].get(name)
        if theirs is None or public(theirs) != public(version):
            shown = f"{name} {theirs or 'missing'}, here {version}"
            (grave if theirs is None or name in MUST_AGREE else slight).append(shown)
    if grave:
        yield Finding("fail", f"{label}: {'; '.join(grave)}", image)
    if slight:
        yield Finding("warn", f"{label}: {'; '.join(slight)}", image)
    if not grave and not slight:
        yield Finding("ok", f"{label}: Python {there['python']}, same packages as here")


def check_gpus(facts: Facts) -> Iterator[Finding]:
    """GPUs are given out by Ray, and torch and NCCL can use them."""
    machines = answering(facts) or (facts.driver,)
    builds = {}
    for node in machines:
        there = node.facts or {}
        if not there.get("gpus"):
            continue
        build = there["cuda"] or {}
        builds[node.label] = build.get("nccl")
        yield from check_build(node.label, there["gpus"], build)
        if facts.nodes and node.ray_gpus < len(there["gpus"]):
            what = f"{node.label}: Ray gives out {node.ray_gpus:.0f} of {len(there['gpus'])} GPUs"
            yield Finding("warn", what, f"ray start --num-gpus={len(there['gpus'])} … on that node")
    if len(set(builds.values())) > 1:
        shown = ", ".join(f"{label} {version}" for label, version in builds.items())
        yield Finding(
            "fail", f"NCCL differs between nodes: {shown}", "install the same torch everywhere, from one image"
        )
    if not builds:
        yield Finding("ok", "no GPUs: workers train on CPUs with gloo")


def check_build(label: str, gpus: list[str], build: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether a machine's torch can drive its GPUs."""
    shown = f"{label}: {len(gpus)} × {gpus[0]}"
    if not build.get("cuda"):
        mend = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu130"
        yield Finding("fail", f"{shown}, but torch was built without CUDA", mend)
    elif not build.get("nccl"):
        yield Finding("fail", f"{shown}, but torch has no NCCL", "install torch from its Linux wheels")
    else:
        yield Finding("ok", f"{shown}, CUDA {build['cuda']}, NCCL {build['nccl']}")


def check_room(facts: Facts) -> Iterator[Finding]:
    """Shared memory is large enough for Ray's objects and NCCL's buffers, and the disk for objects beyond that."""
    for node in answering(facts) or (facts.driver,):
        there = node.facts or {}
        shm, memory = there["shm_bytes"], there["memory_bytes"]
        if shm < SHM_SHARE * memory:
            wanted = f"{SHM_SHARE * memory / GIB:.0f}"
            mend = f"docker run --shm-size={wanted}g, or an emptyDir of medium Memory at /dev/shm (raycluster.yaml)"
            what = f"{node.label}: /dev/shm has {shm / GIB:.1f} GiB of {memory / GIB:.0f} GiB memory"
            yield Finding("fail" if shm < GIB // 8 and there["gpus"] else "warn", what, mend)
        free, total = there["disk_free_bytes"], there["disk_bytes"]
        what = f"{node.label}: {free / GIB:.0f} of {total / GIB:.0f} GiB free in /tmp"
        mend = "du -xsh /tmp/ray /tmp/* | sort -h; remove old sessions, or ray start --temp-dir on a larger disk"
        if free < DISK_FULL_SHARE * total:
            yield Finding("fail", what, mend)
        elif free < DISK_LOW_BYTES:
            yield Finding("warn", what, mend)
        elif shm >= SHM_SHARE * memory:
            yield Finding("ok", f"{what}; /dev/shm {shm / GIB:.1f} GiB")


def check_resources(facts: Facts) -> Iterator[Finding]:
    """The cluster has what the configuration asks for."""
    if facts.asked is None or not facts.nodes:
        return
    if shortage := facts.asked.shortage(facts.resources):
        what = f"{shortage}; the run waits until the cluster has grown"
        yield Finding("warn", what, f"add nodes, or --set cluster.num_workers=… of {facts.asked.num_workers}")
    else:
        yield Finding("ok", f"room for {facts.asked.num_workers} workers")


def check_store(facts: Facts) -> Iterator[Finding]:
    """The store is reachable, is the same store on every node, and honours put-if-absent."""
    store = facts.store
    if store is None:
        return
    if store.error:
        yield Finding("fail", store.error, "see Stores in docs/operations.md")
        return
    yield Finding("ok", f"store {store.uri}: reachable, keeps to put-if-absent")
    for node in answering(facts):
        seen = (node.facts or {}).get("store")
        if not seen or not seen["checked"]:
            continue
        if seen["error"]:
            yield Finding("fail", f"{node.label}: {seen['error']}", "see Stores and Secrets in docs/operations.md")
        elif seen["seen"] != store.seen:
            mend = "mount one shared folder under this path on every node, or use s3://bucket/prefix"
            yield Finding("fail", f"{node.label}: store {store.uri} is another folder than here", mend)


def check_clocks(facts: Facts) -> Iterator[Finding]:
    """Clocks agree, since leases, log times and S3's signatures depend on them."""
    clocks = {node.label: node.clock for node in facts.nodes if node.clock}
    if facts.store and facts.store.clock:
        clocks["the store"] = facts.store.clock
    apart = {label: max(0.0, abs(clock.ahead_s) - clock.uncertainty_s) for label, clock in clocks.items()}
    for label, skew in apart.items():
        if skew > SKEW_WARN_S:
            what = f"{label}: clock is {clocks[label].ahead_s:+.1f} s from here"
            yield Finding("fail" if skew > SKEW_FAIL_S else "warn", what, "sudo chronyc makestep, there and here")
    if clocks and max(apart.values()) <= SKEW_WARN_S:
        yield Finding("ok", f"clocks of {len(clocks)} others agree within {SKEW_WARN_S:.0f} s")


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    check_python, check_pins, check_address, check_nodes, check_gpus, check_room, check_resources, check_store,
    check_clocks,
)  # fmt: skip


def own(facts: Facts) -> Mapping[str, Any]:
    """The driver's facts."""
    assert facts.driver.facts is not None
    return facts.driver.facts


def answering(facts: Facts) -> tuple[Node, ...]:
    """The nodes that answered."""
    return tuple(node for node in facts.nodes if node.facts is not None)


def minor(version: str) -> str:
    """`3.11` of `3.11.7`."""
    return ".".join(version.split(".")[:2])


def public(version: str) -> str:
    """A version without its build: 2.13.0 of 2.13.0+cu130."""
    return Version(version).public
