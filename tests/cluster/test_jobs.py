"""Following, stopping and reading jobs, against a client that behaves as Ray's."""

from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import ConfigError, OrthoplexError
from cluster.jobs import (
    LOST_CONNECTIONS,
    exit_code,
    follow,
    job_client,
    list_jobs,
    look,
    shown,
    stop,
    submit,
    translated,
)


def details(status: str = "RUNNING", code: int | None = None, **more: Any) -> SimpleNamespace:
    values = {
        "submission_id": "job-1", "status": status, "driver_exit_code": code, "message": "first\nsecond",
        "metadata": {"run": "t/r"}, "start_time": 0, "end_time": None, "entrypoint": "python -m orchestrator run a",
        "runtime_env": {"env_vars": {"HIDDEN": "value"}},
    }  # fmt: skip
    return SimpleNamespace(**{**values, **more})


class Client:
    """Plays connections: each a list of chunks and, where it breaks off, an error; then the job's state after it."""

    def __init__(self, *connections: tuple[list[str], Exception | None, SimpleNamespace]) -> None:
        self.connections = list(connections)
        self.state = details()

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        chunks, error, self.state = self.connections.pop(0)
        for chunk in chunks:
            yield chunk
        if error:
            raise error

    def get_job_info(self, job: str) -> SimpleNamespace:
        return self.state


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        ("PENDING", None, None), ("RUNNING", None, None), ("SUCCEEDED", 0, 0), ("STOPPED", None, 130),
        ("FAILED", 1, 1), ("FAILED", 2, 2), ("FAILED", 3, 3), ("FAILED", 130, 130), ("FAILED", -9, 1),
        ("FAILED", 137, 1), ("FAILED", None, 1),
    ],
)  # fmt: skip
def test_exit_code_is_the_runs(status: str, driver: int | None, code: int | None) -> None:
    assert exit_code(status, driver) == code


def test_follow_writes_each_character_once() -> None:
    written: list[str] = []
    client = Client(
        (["one\n", "two\n"], RuntimeError("closed"), details()),
        (["one\ntw", "o\nthree\n"], None, details()),
        (["one\ntwo\nthree\n", "four\n"], None, details("FAILED", 3)),
    )
    ended = follow(client, "job-1", written.append, sleep=lambda _: None)
    assert "".join(written) == "one\ntwo\nthree\nfour\n"
    assert ended.exit_code == 3 and ended.message == "first"


def test_follow_gives_up_when_the_server_stays_away() -> None:
    gone: Callable[[], Any] = lambda: ([], OSError("refused"), details())  # noqa: E731
    client = Client(*(gone() for _ in range(LOST_CONNECTIONS + 5)))
    with pytest.raises(OrthoplexError, match="orthoplex jobs logs job-1"):
        follow(client, "job-1", print, sleep=lambda _: None)
    assert len(client.connections) == 5


def test_stop_waits_for_the_end() -> None:
    client: Any = Client()
    asked: list[str] = []
    states = [details(), details(), details("STOPPED")]
    client.stop_job, client.get_job_info = asked.append, lambda job: states.pop(0)
    assert stop(client, "job-1", 60, sleep=lambda _: None).exit_code == 130
    assert asked == ["job-1"] and not states


def test_values_of_variables_are_not_shown() -> None:
    job = shown(details(start_time=1_700_000_000_000))
    assert "value" not in repr(job) and job.run == "t/r" and job.started_at == "2023-11-14T22:13:20+00:00"


def test_only_submitted_jobs_are_listed_the_latest_first() -> None:
    client: Any = Client()
    client.list_jobs = lambda: [
        details(submission_id="a", start_time=1), details(submission_id=None), details(submission_id="b", start_time=2)
    ]  # fmt: skip
    assert [job.id for job in list_jobs(client)] == ["b", "a"]


@pytest.mark.parametrize(
    "address", ["auto", "127.0.0.1:6379", "ray://host:10001", "http://", "http://user:hunter2@host"]
)
def test_addresses_that_are_no_job_server(address: str) -> None:
    with pytest.raises(ConfigError, match="--address") as refusal:
        job_client(address)
    assert "hunter2" not in str(refusal.value)


def test_nothing_answers() -> None:
    with pytest.raises(ConfigError, match="no job server answers"):
        job_client("http://127.0.0.1:9")


def test_refusals_are_one_line() -> None:
    taken = "Request failed with status code 500: Traceback\n ...\nValueError: Job with submission_id a already exists"
    assert isinstance(translated("job a", taken), ConfigError) and "--name" in str(translated("job a", taken))
    absent = translated("job a", "Request failed with status code 404: Job a does not exist.")
    assert isinstance(absent, ConfigError) and "orthoplex jobs list" in str(absent)
    other = translated("job a", "Traceback:\n  File x\nOSError: disk full\n")
    assert str(other) == "job a: the job server refused: OSError: disk full" and other.exit_code == 1


def test_errors_of_the_client_are_explained() -> None:
    client: Any = Client()

    def raising(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Job job-1 does not exist")

    client.get_job_info = client.submit_job = raising
    with pytest.raises(ConfigError, match="no such job"):
        look(client, "job-1")
    with pytest.raises(ConfigError):
        submit(client, {"submission_id": "job-1"})
