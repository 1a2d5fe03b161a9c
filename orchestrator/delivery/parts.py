"""What is answered of a prediction so far, in parts beside its output, so that a cut run goes on.

    OUTPUT.parts/job.json          what is predicted from what: another job does not go on with these parts
    OUTPUT.parts/00000012.jsonl    rows 12·n to 13·n with their answers, n = `rows_at_once`; .parquet for Parquet

A part appears whole. When all are there they are joined to OUTPUT, which appears whole too, and the folder is removed,
the job first: parts without a job are what was left of a finished prediction. Of an output in a bucket all of this
stands in the bucket, and is worked on in a folder of this machine. Processes of one machine are kept from writing the
same parts; two machines that do so in a bucket do all work twice, and end with one whole output.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ConfigError
from cluster.storage import Store, open_store
from cluster.storage.disk import refusal, writing
from cluster.text_files import at_home
from orchestrator.delivery.tables import join, part_form, replacing, rows_in
from orchestrator.log.entry import JsonLike
from trainers.data.files import S3, named

JOB, LOCK = "job.json", "lock"
KEPT = "choose another --output; the same command goes on"


@dataclass(frozen=True)
class Mirror:
    """An output in a bucket, and its parts."""

    store: Store
    key: str

    @classmethod
    def of(cls, uri: str) -> "Mirror":
        """That of `s3://bucket/key`. Raises ConfigError if there is no key."""
        bucket, _, key = uri.removeprefix(S3).partition("/")
        if not key or key.endswith("/"):
            raise ConfigError(f"--output {uri!r}: names no object; write s3://BUCKET/KEY")
        return cls(open_store(f"{S3}{bucket}"), key)

    def has(self, key: str) -> bool:
        """Whether there is such an object."""
        return key in self.store.list(key, 1)

    def key_of(self, name: str) -> str:
        """The key of a file of the parts."""
        return f"{self.key}.parts/{name}"

    def fetch(self, folder: Path) -> None:
        """Copies the job and the parts that are there into a folder."""
        for key in self.store.list(self.key_of("")):
            self.store.download(key, folder / key.rpartition("/")[2])

    def keep(self, path: Path) -> None:
        """Stores a file of the parts."""
        self.store.upload(self.key_of(path.name), path)

    def finish(self, output: Path) -> None:
        """Stores the output, and removes the parts, the job first."""
        self.store.upload(self.key, output)
        self.store.delete(self.key_of(JOB))
        self.clear()

    def clear(self) -> None:
        """Removes all parts."""
        for key in self.store.list(self.key_of("")):
            self.store.delete(key)


def read_job(path: Path) -> dict[str, JsonLike]:
    """The job of parts. Raises ConfigError if it is damaged."""
    try:
        found = json.loads(path.read_text("utf-8"))
        if isinstance(found, dict):
            return found
        raise ValueError("it is no mapping")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{named(path)!r}: cannot be read ({error}), so nobody knows what its parts answer; remove the folder, or "
            "choose another --output"
        ) from None


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts, of `size` rows each but for the last, of one output of a form, which is a file of this machine, or a
    copy of one in a bucket."""

    output: Path
    form: str
    size: int
    mirror: Mirror | None = None

    @property
    def folder(self) -> Path:
        """Where parts are kept."""
        return self.output.with_name(f"{self.output.name}.parts")

    def part(self, number: int) -> Path:
        """The file of a part, numbered from 0."""
        return self.folder / f"{number:08}.{part_form(self.form)}"

    def check(self, *, replace: bool) -> None:
        """Makes the folder, and fetches what there is in a bucket.

        Raises:
            ConfigError: the output is a folder, or exists and is not to be replaced; or no folder can be made.
            StoreError: the bucket cannot be read.
        """
        if self.output.is_dir():
            raise ConfigError(f"{self._option()}: is a folder; name a file")
        begun = self.mirror.has(self.mirror.key_of(JOB)) if self.mirror else (self.folder / JOB).exists()
        exists = self.mirror.has(self.mirror.key) if self.mirror else self.output.exists()
        if exists and not replace and not begun:
            raise ConfigError(f"{self._option()}: exists already; choose another, or replace it with --force")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(str(refusal(f"{self._option()}: cannot be written", error, "choose another"))) from None
        if self.mirror:
            self.mirror.fetch(self.folder)

    def _written(self) -> AbstractContextManager[None]:
        """Says of a disk that refuses a part, or the output, which one it is; what is there so far stays."""
        return writing(f"{self._option()}, whose answers so far are kept in {self.folder}", KEPT)

    def _option(self) -> str:
        return f"--output {named(self.output)!r}"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within the block no other process of this machine writes these parts. Raises ConfigError if one does, or has
        finished."""
        try:
            with self._written() if self.folder.is_dir() else nullcontext():
                file = (self.folder / LOCK).open("a")
        except FileNotFoundError:
            raise ConfigError(
                f"{named(self.folder)!r}: another process has finished, or removed it; start again"
            ) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"{named(self.folder)!r}: another process is writing it; wait for its end, or choose another "
                    "--output"
                ) from None
            yield

    def begin(self, job: Mapping[str, JsonLike]) -> None:
        """Begins the parts, or goes on with those of this job. One without any part is begun anew.

        Raises:
            ConfigError: they are of another job.
        """
        mine, path = json.loads(json.dumps(job)), self.folder / JOB
        theirs = read_job(path) if path.exists() else None
        if theirs == mine:
            return
        if theirs is None:
            self._clear()
        if theirs is None or not self._files():
            with self._written(), replacing(path) as staging:
                staging.write_text(json.dumps(mine, indent=1), "utf-8")
            self._keep(path)
        elif changed := [key for key in {**theirs, **mine} if theirs.get(key) != mine.get(key)]:
            raise ConfigError(
                f"{named(self.folder)!r} holds the beginning of another prediction ({', '.join(changed)} differ); "
                "finish that one, remove the folder, or choose another --output"
            )

    def there(self) -> dict[int, int]:
        """The number of each part that is there, and how many rows it has. One that cannot be read, or has too few rows
        though others follow it, is not: it is answered again."""
        counts = {int(path.stem): rows_in(path) for path in self._files()}
        return {
            number: rows for number, rows in counts.items() if rows == self.size or (rows and number == max(counts))
        }

    def put(self, number: int, data: bytes) -> None:
        """Writes a part."""
        path = self.part(number)
        with self._written(), replacing(path) as staging:
            staging.write_bytes(data)
        self._keep(path)

    def finish(self, count: int) -> None:
        """Joins the parts 0 to `count` − 1 to the output, and removes them."""
        with self._written():
            join([self.part(number) for number in range(count)], self.output, self.form)
        if self.mirror:
            self.mirror.finish(self.output)
        (self.folder / JOB).unlink(missing_ok=True)
        shutil.rmtree(self.folder)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob(f"[0-9]*.{part_form(self.form)}"))

    def _clear(self) -> None:
        for path in self.folder.glob("[0-9]*"):
            path.unlink()
        if self.mirror:
            self.mirror.clear()

    def _keep(self, path: Path) -> None:
        if self.mirror:
            self.mirror.keep(path)


def placed(output: str, scratch: Path) -> tuple[Path, Mirror | None]:
    """Where an output is written: at its path, or below `scratch` if it is one in a bucket. Raises ConfigError as
    `Mirror.of`."""
    if not output.startswith(S3):
        return at_home(output), None
    mirror = Mirror.of(output)
    return scratch / S3.rstrip("/") / output.removeprefix(S3), mirror
