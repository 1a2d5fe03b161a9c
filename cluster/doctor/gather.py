"""Gathers the facts that `orthoplex doctor` checks: of this machine, of every node of a cluster, and of the store."""

import hashlib
import os
import socket
import time
from contextlib import ExitStack
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from cluster.doctor import node_facts
from cluster.doctor.checks import Clock, Facts, Node, StoreFacts
from cluster.errors import ConfigError, OrthoplexError
from cluster.resources import ClusterConfig
from cluster.session import ray_session
from cluster.storage import PROBE_KEY, LocalStore, S3Store, Store, open_store, probe

PACKAGES = (
    "accelerate", "boto3", "datasets", "deepspeed", "numpy", "pyarrow", "pydantic", "pyyaml", "ray", "rich",
    "safetensors", "torch", "transformers", "typer",
)  # fmt: skip
ANSWER_S = 60.0  # a node may have to start a worker process first
CONNECT_S = 5.0
PINGS = 3


def gather(address: str | None = None, asked: ClusterConfig | None = None, store: str | None = None) -> Facts:
    """All facts. Without an `address` and without $RAY_ADDRESS, no Ray is started and only this machine is examined.

    The probe of a store leaves one small object in it. Raises ConfigError if `address` is no Ray address or `store` is
    no store's URI. That something does not answer is a fact, not an error.
    """
    address = address or (asked.address if asked else None) or os.environ.get("RAY_ADDRESS") or None
    if address and address.startswith(("http://", "https://")):
        raise ConfigError(
            f"--address {address}: is a job server; give Ray's own address (host:6379, or auto on a node), or run it "
            f"there: ray job submit --address {address} --working-dir . -- python -m orchestrator doctor --address auto"
        )
    uri = open_store(store).uri if store else None
    facts = Facts(
        driver=Node("here", node_facts.gather_node(PACKAGES)),
        pins=read_pins(),
        packages=PACKAGES,
        address=address,
        token=has_token(),
        asked=asked,
        store=gather_store(uri) if uri else None,
    )
    return gather_cluster(facts, uri) if address else facts


def gather_cluster(facts: Facts, store: str | None) -> Facts:
    """The facts with those of the cluster at their address."""
    import ray

    if facts.address and (silence := unreachable(facts.address)):
        return replace(facts, address_error=silence)
    asked = (facts.asked or ClusterConfig()).model_copy(update={"address": facts.address})
    with ExitStack() as stack:
        try:
            stack.enter_context(ray_session(asked))
        except OrthoplexError as error:
            return replace(facts, address_error=str(error))
        return replace(facts, nodes=gather_nodes(store), resources=ray.cluster_resources())


def unreachable(address: str) -> str | None:
    """Why no connection to host:port is possible, after seconds (Ray itself would try for minutes); else None."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return None
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        return f"cluster.address: nothing answers at {address!r}: {error}"
    return None


def gather_nodes(store: str | None) -> tuple[Node, ...]:
    """Facts of every living node, gathered in parallel, and then the clock of each."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.cloudpickle.register_pickle_by_value(node_facts)
    living = [node for node in ray.nodes() if node["Alive"]]
    pins = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in living]
    look = ray.remote(num_cpus=0, max_retries=0)(node_facts.gather_node)
    clock = ray.remote(num_cpus=0, max_retries=0)(node_facts.now_s)
    asked = [look.options(scheduling_strategy=pin).remote(PACKAGES, store) for pin in pins]
    ray.wait(asked, num_returns=len(asked), timeout=ANSWER_S)
    found = []
    for node, pin, answer in zip(living, pins, asked, strict=True):
        facts = answered(answer, timeout_s=0)
        label = f"node {node['NodeManagerHostname']} ({node['NodeID'][:6]})"
        skew = ping(clock.options(scheduling_strategy=pin)) if facts else None
        found.append(Node(label, facts, node["Resources"].get("GPU", 0.0), skew))
    return tuple(found)


def answered(reference: Any, timeout_s: float) -> Any:
    """A task's result; None if it failed or is not there in time."""
    import ray

    try:
        return ray.get(reference, timeout=timeout_s)
    except (ray.exceptions.RayError, TimeoutError):
        return None


def ping(clock: Any) -> Clock | None:
    """How far a node's clock is ahead, from the fastest of some round trips; None if one fails."""
    measured = []
    for _ in range(PINGS):
        begun = time.time()
        theirs = answered(clock.remote(), timeout_s=ANSWER_S)
        if theirs is None:
            return None
        took = time.time() - begun
        measured.append(Clock(theirs - begun - took / 2, took / 2))
    return min(measured, key=lambda each: each.uncertainty_s)


def gather_store(uri: str) -> StoreFacts:
    """The store's answer to the probe, the digest of the probe's object, and the store's clock."""
    store = open_store(uri)
    try:
        probe(store)
        seen = hashlib.sha256(store.get(PROBE_KEY)).hexdigest()
        return StoreFacts(uri, None, seen, store_clock(store))
    except OrthoplexError as error:
        return StoreFacts(uri, str(error))


def store_clock(store: Store) -> Clock | None:
    """A store's clock: in a folder the time of a new file, in S3 the Date of an answer, in whole seconds. None for
    other stores."""
    begun = time.time()
    if isinstance(store, LocalStore):
        with NamedTemporaryFile(dir=store.root / ".tmp") as file:
            theirs, coarse = os.fstat(file.fileno()).st_mtime, 0.01
    elif isinstance(store, S3Store):
        answer = store.client.list_objects_v2(Bucket=store.bucket, Prefix=store.prefix + PROBE_KEY, MaxKeys=1)
        date = answer["ResponseMetadata"]["HTTPHeaders"]["date"]
        theirs, coarse = parsedate_to_datetime(date).timestamp() + 0.5, 0.5
    else:
        return None
    took = time.time() - begun
    return Clock(theirs - begun - took / 2, took / 2 + coarse)


def has_token() -> bool:
    """Whether a token for Ray is at hand: $RAY_AUTH_TOKEN, the file at $RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.is_file() and path.stat().st_size > 0


def read_pins() -> dict[str, str]:
    """Name (lower case) → version of constraints.txt, in the checkout or as the wheel carries it; empty without one."""
    here = Path(__file__).resolve().parents[1]
    for path in (here / "constraints.txt", here.parent / "constraints.txt"):
        if path.is_file():
            return parse_pins(path.read_text("utf-8"))
    return {}


def parse_pins(text: str) -> dict[str, str]:
    """Name (lower case) → version of the lines NAME==VERSION."""
    pairs = (line.partition("#")[0].partition("==") for line in text.splitlines())
    return {name.strip().lower(): version.strip() for name, equals, version in pairs if equals}
