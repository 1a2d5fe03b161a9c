"""Jobs on a cluster, through its job server: submit, look, follow, stop."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from cluster.errors import ConfigError, OrthoplexError

POLL_S = 1.0
LOST_CONNECTIONS = 30  # in a row, about a minute, until following is given up
STOP_MARGIN_S = 30  # beyond the grace time, for the job server to write down that the job has ended
TERMINAL = ("SUCCEEDED", "FAILED", "STOPPED")
PASSED_ON = (1, 2, 3, 130)  # exit codes of `orthoplex run`


@dataclass(frozen=True)
class Job:
    """A job as `orthoplex jobs` shows it. `exit_code` is None while it has not ended; times are ISO 8601, UTC."""

    id: str
    status: str
    run: str | None
    exit_code: int | None
    message: str
    started_at: str | None
    ended_at: str | None
    entrypoint: str


def job_client(address: str) -> Any:
    """Ray's client of the job server at an http(s) URL. Token authentication follows RAY_AUTH_MODE.

    Raises:
        ConfigError: `address` is no such URL, nothing answers there, or it asks for a token that is not given.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"--address {address!r}: give the URL of the job server (Ray's dashboard), as in http://127.0.0.1:8265"
        )
    if "@" in parts.netloc:
        raise ConfigError("--address: a URL with '@' may hold a password; use RAY_AUTH_MODE=token instead")
    from ray.job_submission import JobSubmissionClient

    for module in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)
    with explained(address):
        return JobSubmissionClient(address)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns the client's errors into one-line messages that name `what` and the fix."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise ConfigError(
            f"{what}: the cluster asks for a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file with it"
        ) from None
    except ConnectionError:
        raise ConfigError(
            f"{what}: no job server answers; is the cluster up, is this its dashboard's URL (port 8265), and is a port "
            "forwarded to it? `make cluster-up` starts one on this machine"
        ) from None
    except (RuntimeError, ValueError) as error:
        raise translated(what, str(error)) from None


def translated(what: str, text: str) -> OrthoplexError:
    """The error to raise for a refusal of the job server, of which only the line with the cause is kept."""
    cause = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")
    if "already exists" in text or "already been used" in text:
        return ConfigError(f"{what}: this cluster has such a job already; give another --name")
    if "does not exist" in text:
        return ConfigError(f"{what}: no such job on this cluster; see `orthoplex jobs list`")
    return OrthoplexError(f"{what}: the job server refused: {cause}")


def submit(client: Any, request: dict[str, Any]) -> str:
    """Uploads the package and starts the job; returns its id."""
    with explained(f"job {request['submission_id']}"):
        return str(client.submit_job(**request))


def look(client: Any, job: str) -> Job:
    """The state of a job."""
    with explained(f"job {job}"):
        return shown(client.get_job_info(job))


def list_jobs(client: Any) -> list[Job]:
    """All submitted jobs that the cluster remembers, the latest first."""
    with explained("jobs"):
        details = [each for each in client.list_jobs() if each.submission_id]
    return [shown(each) for each in sorted(details, key=lambda each: -(each.start_time or 0))]


def shown(details: Any) -> Job:
    """A job from Ray's JobDetails. Its runtime environment, which has values of variables, is left out."""
    status = str(getattr(details.status, "value", details.status))
    message = (details.message or "").partition(", last available logs")[0].strip().splitlines()
    return Job(
        id=details.submission_id,
        status=status,
        run=(details.metadata or {}).get("run"),
        exit_code=exit_code(status, details.driver_exit_code),
        message=message[0] if message else "",
        started_at=iso(details.start_time),
        ended_at=iso(details.end_time),
        entrypoint=details.entrypoint,
    )


def iso(milliseconds: int | None) -> str | None:
    """A time of the job server, in milliseconds since 1970, as ISO 8601 in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds") if milliseconds else None


def exit_code(status: str, driver: int | None) -> int | None:
    """The command line's exit code for a job: the run's own; 130 for a stopped job, whose code Ray drops.

    1 stands for a driver that never began or was killed; None for a job that has not ended.
    """
    if status not in TERMINAL:
        return None
    if status != "FAILED":
        return {"SUCCEEDED": 0, "STOPPED": 130}[status]
    return driver if driver in PASSED_ON else 1


def stop(client: Any, job: str, grace_s: float, sleep: Callable[[float], None] = time.sleep) -> Job:
    """Asks a job to stop and waits for its end, for `grace_s` and a margin at most; returns the job's state then."""
    with explained(f"job {job}"):
        client.stop_job(job)
    deadline = time.monotonic() + grace_s + STOP_MARGIN_S
    while (seen := look(client, job)).exit_code is None and time.monotonic() < deadline:
        sleep(POLL_S)
    return seen


def grace_of(client: Any, job: str, name: str) -> int:
    """The seconds that variable `name` of the job's environment gives it after a stop; Ray's 3 if it is unset."""
    with explained(f"job {job}"):
        variables = (client.get_job_info(job).runtime_env or {}).get("env_vars", {})
    return int(variables.get(name, 3))


class Log:
    """A job's log, each character once, over any number of connections."""

    def __init__(self, client: Any, job: str, write: Callable[[str], None]) -> None:
        self.client, self.job, self.write = client, job, write
        self.seen = 0

    async def read(self) -> None:
        """Reads to the end of one connection, which begins at the start of the log again."""
        position = 0
        async for chunk in self.client.tail_job_logs(self.job):
            fresh = chunk[max(0, self.seen - position) :]
            position += len(chunk)
            self.seen = max(self.seen, position)
            if fresh:
                self.write(fresh)


def follow(client: Any, job: str, write: Callable[[str], None], sleep: Callable[[float], None] = time.sleep) -> Job:
    """Writes a job's log as it grows, until the job has ended; returns the job's state then.

    A connection that breaks off is made again.

    Raises:
        OrthoplexError: the job server does not answer any more; the job may still be running.
    """
    import aiohttp

    log, lost = Log(client, job, write), 0
    while True:
        before = log.seen
        try:
            asyncio.run(log.read())
            seen = shown(client.get_job_info(job))
            if seen.exit_code is not None:
                return seen
            lost = 0
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            lost = 1 if log.seen > before else lost + 1
            if lost >= LOST_CONNECTIONS:
                raise OrthoplexError(
                    f"job {job}: the job server does not answer any more ({type(error).__name__}); the job may be "
                    f"running. Look again with: orthoplex jobs logs {job}"
                ) from None
        sleep(POLL_S)
