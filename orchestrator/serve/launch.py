"""`orthoplex serve`: the application on a Ray of its own on this machine, until it is told to stop."""

import ipaddress
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

from cluster.errors import ConfigError, OrthoplexError
from cluster.resources import ClusterConfig
from cluster.session import debugging, ray_session
from orchestrator.serve.settings import KEYS, ServeSettings, key_digests, on_gpu, versions_of

MISSING = "serve: Ray Serve is not installed: pip install 'orthoplex[serve]' -c constraints.txt"
Say = Callable[[str], None]
PROXY_READY_S = "60"
LOOK_S = 10.0  # that a replica has to say which versions answer
Standing = dict[str, tuple[str | None, str | None]]  # by adapter, the version that answers and what is wrong, if so


class Address(NamedTuple):
    """Where the server listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """The address of HOST:PORT; [::1]:PORT for IPv6. Raises ConfigError if it is none."""
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ConfigError(f"--address {text!r}: is not HOST:PORT, as in 127.0.0.1:8000")
        return cls(host, int(port))

    @property
    def loopback(self) -> bool:
        """Whether this machine alone reaches it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def check_free(self) -> None:
        """Raises ConfigError if nobody can listen there."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((self.host, self.port))
        except OSError as error:
            raise ConfigError(f"--address {self}: cannot listen there ({error.strerror}); choose another") from None


def prepare(environment: MutableMapping[str, str]) -> None:
    """Has a Ray that this process starts run workers at the usual priority, and wait for its proxy. To be called before
    Ray is imported, which reads this."""
    if "ray" not in sys.modules:
        environment.setdefault("RAY_worker_niceness", "0")
        environment.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", PROXY_READY_S)  # Ray gives a busy machine 5 s


def check(settings: ServeSettings, address: Address, environment: Mapping[str, str]) -> list[str]:
    """The versions that would be served, by name, before anything is started.

    Raises:
        ConfigError: Ray Serve is not installed, the address is open to others without API keys or is taken, a cluster
            is meant, or as `versions_of`.
    """
    try:
        import ray.serve  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{MISSING} ({error.name or error} is missing)") from None
    if not key_digests(environment) and not address.loopback:
        raise ConfigError(
            f"--address {address}: others than this machine reach it, and ${KEYS} is not set; set it to keys with "
            "commas between them, or listen at 127.0.0.1"
        )
    if environment.get("RAY_ADDRESS"):
        raise ConfigError(
            "RAY_ADDRESS: is set, and `orthoplex serve` has a Ray of its own on this machine; unset it, or deploy "
            "orchestrator.serve.deployment:application on that cluster (docs/serving.md)"
        )
    address.check_free()
    return [version.reference for version in versions_of(settings)]


@contextmanager
def serving(settings: ServeSettings, address: Address) -> Iterator[Callable[[], Standing]]:
    """The application answers at `address` while the block lasts. What is yielded looks which versions answer.

    Raises:
        OrthoplexError: it does not start; the message has the reason.
    """
    import ray
    from ray import serve

    from orchestrator.serve.deployment import NAME, application

    if not debugging():
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
    asked = {"num_workers": 1, "cpus_per_worker": settings.cpus, "use_gpu": on_gpu(settings.device)}
    with ray_session(ClusterConfig.model_validate(asked)):
        settings = on_what_there_is(settings, ray.cluster_resources())
        try:
            serve.start(proxy_location="HeadOnly", http_options={"host": address.host, "port": address.port})
            handle = serve.run(application(settings.model_dump(mode="json")), name=NAME, route_prefix="/")
        except (RuntimeError, ray.exceptions.RayError) as error:
            applications = serve.status().applications.values()
            told = [each.message for one in applications for each in one.deployments.values()]
            serve.shutdown()
            raise OrthoplexError(f"serve: it did not start: {reason(os.linesep.join([str(error), *told]))}") from None
        try:
            yield lambda: handle.standing.remote().result(timeout_s=LOOK_S)
        finally:
            serve.shutdown()


def on_what_there_is(settings: ServeSettings, resources: Mapping[str, float]) -> ServeSettings:
    """The settings with a device, if none is given: a GPU if Ray has one. A replica sees only what it asks for."""
    device = settings.device or ("cuda" if resources.get("GPU", 0) >= 1 else "cpu")
    return settings.model_copy(update={"device": device})


def reason(report: str) -> str:
    """The last error that a report of Ray's tells; of our own errors the message alone."""
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if "Error: " in line), lines[-1] if lines else "no reason given")
    return re.sub(r"^cluster\.errors\.\w+: ", "", last)


def until_told(look: Callable[[], Standing], say: Say, every_s: float) -> None:
    """Returns on Ctrl-C or SIGTERM; until then `say` is told which versions answer, and when that changes."""
    told = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        told.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    known: Standing = {}
    fault: str | None = None
    try:
        while not told.is_set():
            was = fault
            now, fault = looked(look, known)
            for line in [*changes(known, now), *([fault] if fault and fault != was else [])]:
                say(line)
            known = now
            told.wait(every_s)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def looked(look: Callable[[], Standing], known: Standing) -> tuple[Standing, str | None]:
    """What answers now; if nobody says it, what is known, and why. A replica that has died is started again by Ray."""
    try:
        return look(), None
    except Exception as error:
        return known, f"the replica does not answer ({type(error).__name__}); Ray Serve starts it again if it has ended"


def changes(known: Standing, now: Standing) -> list[str]:
    """What is to be said of what has changed."""
    lines = []
    for name, (version, problem) in now.items():
        before = known.get(name, (None, None))
        if version != before[0]:
            lines.append(f"{name} → {version}")
        if problem and problem != before[1]:
            lines.append(f"{name}: {problem}; {version} goes on answering")
    return lines
