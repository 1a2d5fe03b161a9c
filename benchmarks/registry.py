"""What the store costs over raw clients: publish and pull against boto3 and pyarrow, on the same server in one run.

    python -m benchmarks.registry --bucket BUCKET [--sizes 1 50 500] [--repeats 3] [--versions 100000] [--results FILE]

The server is what AWS_ENDPOINT_URL and the AWS SDK's chain say; the bucket must exist. Elsewhere than on AWS pyarrow
needs AWS_REQUEST_CHECKSUM_CALCULATION=when_required. A publish is files under a fresh prefix, manifest and log entry; a
pull is manifest and files, every digest checked, into an empty cache. Raw clients move the same bytes from and to the
same files and check nothing; they do 1,000 small files THREADS at a time, as the store does. All ways take turns, so
that what else the machine does falls on each alike; figures are medians.

Then a log of `--versions` commits is written (0: none), and what `adapters list` reads and prints is timed and its
requests counted: the newest entry, all versions, those of one task, right after an index and at the most that stands
behind one. Each time a fresh Track reads all; client and connections are there.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Results, Row, attempt, markdown, provenance
from cluster.storage import S3Store
from cluster.storage.disk import STATE_VARIABLE, state_folder
from cluster.storage.files import THREADS
from orchestrator.log import index
from orchestrator.log.chain import INDEX_EVERY
from orchestrator.log.entry import Entry, digest, parse_entry
from orchestrator.log.event import Anything, Index, parse
from orchestrator.registry.catalog import listed
from orchestrator.registry.publish import publish
from orchestrator.registry.pull import pull
from orchestrator.track.events import Commit, Learned
from orchestrator.track.track import Track

SUBJECT = "the store against raw clients"
CPU = torch.device("cpu")
SMALL_FILES, SMALL_BYTES, PUBLISHES, TASKS = 1000, 4096, 50, 50


class Ours:
    """The registry, as `publish` and `adapters pull` use it."""

    def __init__(self, bucket: str) -> None:
        self.store = S3Store(bucket, f"bench/{uuid.uuid4().hex}")
        self.track = Track(self.store, "bench", "stream")
        self.commit: Commit | None = None

    def publish(self, folder: Path) -> None:
        """Files, manifest, log entry."""
        self.commit = parse(publish(self.track, folder, Learned(task="bench"), {}), Commit)

    def pull(self, folder: Path) -> None:
        """Manifest and files, checked, into a folder that appears whole."""
        assert self.commit
        pull(self.track, {"": self.commit}, folder)

    def forget(self, prefix: str = "") -> None:
        """Deletes what lies below a prefix: a server for tests has room for few versions."""
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self.store.delete, self.store.list(prefix)))


class Boto:
    """boto3: one put or get a file, or its transfer manager, which sends parts."""

    def __init__(self, store: S3Store, managed: bool) -> None:
        self.client, self.bucket, self.managed = store.client, store.bucket, managed
        self.prefix = f"{store.prefix}raw/{managed}"

    def put(self, path: Path) -> None:
        """One file."""
        key = f"{self.prefix}/{path.name}"
        if self.managed:
            self.client.upload_file(str(path), self.bucket, key)
            return
        with path.open("rb") as file:
            self.client.put_object(Bucket=self.bucket, Key=key, Body=file)

    def get(self, path: Path) -> None:
        """One file."""
        key = f"{self.prefix}/{path.name}"
        if self.managed:
            self.client.download_file(self.bucket, key, str(path))
            return
        body = self.client.get_object(Bucket=self.bucket, Key=key)["Body"]
        with path.open("wb") as file:
            for chunk in iter(lambda: body.read(1 << 20), b""):
                file.write(chunk)


class Arrow:
    """pyarrow's S3 file system, with the SDK's credentials."""

    def __init__(self, store: S3Store) -> None:
        from pyarrow.fs import S3FileSystem

        keys = store.client._request_signer._credentials.get_frozen_credentials()
        self.fs = S3FileSystem(
            access_key=keys.access_key,
            secret_key=keys.secret_key,
            session_token=keys.token,
            region=store.client.meta.region_name,
            endpoint_override=store.client.meta.endpoint_url,
        )
        self.prefix = f"{store.bucket}/{store.prefix}raw/arrow"

    def put(self, path: Path) -> None:
        """One file."""
        with path.open("rb") as file, self.fs.open_output_stream(f"{self.prefix}/{path.name}") as sink:
            shutil.copyfileobj(file, sink, 8 << 20)

    def get(self, path: Path) -> None:
        """One file."""
        with self.fs.open_input_stream(f"{self.prefix}/{path.name}") as source, path.open("wb") as file:
            shutil.copyfileobj(source, file, 8 << 20)


def raw(move: Callable[[Path], None]) -> Callable[[Path, list[str]], None]:
    """Moves all files of a folder, THREADS at a time."""

    def all_of(folder: Path, names: list[str]) -> None:
        with ThreadPoolExecutor(min(THREADS, len(names))) as pool:
            list(pool.map(lambda name: move(folder / name), names))

    return all_of


def compare(bucket: str, sizes: list[int], repeats: int) -> Row:
    """Median seconds of publishing and pulling files of `sizes` bytes by each way, and ratios to the fastest raw one.

    A ratio of 1 is the raw client's speed, more is faster.
    """
    ours = Ours(bucket)
    ways = {"boto3": Boto(ours.store, False), "boto3 managed": Boto(ours.store, True), "pyarrow": Arrow(ours.store)}
    took: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="orthoplex-bench-") as temporary:
        source, target = Path(temporary) / "source", Path(temporary) / "target"
        cache = state_folder() / "files"
        source.mkdir()
        names = [f"{number:04d}.safetensors" for number in range(len(sizes))]
        for name, size in zip(names, sizes, strict=True):
            (source / name).write_bytes(os.urandom(size))
        for turn in range(repeats + 1):  # the first one makes connections and is not counted
            for key, action in steps(ours, ways, (source, target), names, turn):
                for folder in (target, cache):
                    shutil.rmtree(folder, ignore_errors=True)
                target.mkdir()
                started = time.perf_counter()
                action()
                seconds = time.perf_counter() - started
                if key == "pull":
                    ours.forget(f"{ours.commit.prefix}/" if ours.commit else "")
                if turn:
                    took.setdefault(key, []).append(seconds)
        for name in names:
            assert (source / name).stat().st_size == (target / name).stat().st_size
    ours.forget()
    median = {key: statistics.median(values) for key, values in took.items()}
    best = {kind: min(median[f"{way} {kind}"] for way in ways) for kind in ("put", "get")}
    ratios = {"publish_ratio": best["put"] / median["publish"], "pull_ratio": best["get"] / median["pull"]}
    return {"megabytes": sum(sizes) / 1e6, "files": len(sizes), "seconds": median, **ratios}


def steps(
    ours: Ours, ways: dict[str, Any], folders: tuple[Path, Path], names: list[str], turn: int
) -> list[tuple[str, Callable[[], None]]]:
    """One turn: every way there, then every way back, each time another one first."""
    source, target = folders
    there: list[tuple[str, Callable[[], None]]] = [("publish", lambda: ours.publish(source))]
    back: list[tuple[str, Callable[[], None]]] = [("pull", lambda: ours.pull(target))]
    for name, way in ways.items():
        there.append((f"{name} put", lambda way=way: raw(way.put)(source, names)))
        back.append((f"{name} get", lambda way=way: raw(way.get)(target, names)))
    turn %= len(there)
    return [*there[turn:], *there[:turn], *back[turn:], *back[:turn]]


def publishes(bucket: str, count: int) -> Row:
    """Publishes a second of one writer: 3 files of 20 KB, manifest, log entry."""
    ours = Ours(bucket)
    with tempfile.TemporaryDirectory(prefix="orthoplex-bench-") as temporary:
        for number in range(3):
            (Path(temporary) / f"{number}.safetensors").write_bytes(os.urandom(20_000))
        took = []
        for _ in range(count):
            started = time.perf_counter()
            ours.publish(Path(temporary))
            took.append(time.perf_counter() - started)
    return {"a_second": count / sum(took), "p50_s": statistics.median(took), "p95_s": sorted(took)[int(count * 0.95)]}


def listing(bucket: str, count: int, repeats: int) -> Row:
    """Median seconds, and requests, of what reads a log of `count` versions."""
    ours = Ours(bucket)
    entries = extended(ours.track, [], count)
    upto, data = len(entries), index.encode(entries, ours.track.columns)
    ours.store.put(ours.track.index_key(upto), data)
    named = Index(upto=upto, index_sha256=digest(data))
    entries.append(ours.track.append(named, after=entries[-1], requires=Anything()))
    found: Row = {"versions": count, "index_bytes": len(data)}
    for where, more in {"indexed": 0, "unindexed": INDEX_EVERY - 2}.items():
        entries = extended(ours.track, entries, more)
        found[where] = {"versions": count + more, **reads(ours.store, repeats)}
    ours.forget()
    return found


def extended(track: Track, entries: list[Entry], count: int) -> list[Entry]:
    """A log with `count` commits more, as `publish` writes them, but side by side."""
    made = [*entries]
    for _ in range(count):
        last = made[-1] if made else None
        learned = Learned(task=f"task-{len(made) % TASKS}", active_parameters=123_456, overlap=0.1)
        stored = {"prefix": track.fresh_prefix(), "manifest_sha256": digest(b"")}
        commit = Commit.placed(learned, version=len(made) + 1, stored_bytes=10**6, **stored)
        made.append(parse_entry(track._composed(commit, last)))
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda entry: track.store.put(track._key(entry.seq), index.raw(entry)), made[len(entries) :]))
    return made


def reads(store: S3Store, repeats: int) -> Row:
    """Seconds and requests of each reading."""
    requests: list[str] = []
    store.client.meta.events.register("before-send.s3", lambda **_: requests.append(""))
    ways: dict[str, Callable[[], object]] = {
        "newest": lambda: Track(store, "bench", "stream").head(),
        "list": lambda: [json.dumps(row) for row in listed(store)],
        "search": lambda: [json.dumps(row) for row in listed(store, "bench", "task-7")],
    }
    found: Row = {}
    for name, way in ways.items():
        took = []
        for _ in range(repeats):
            requests.clear()
            started = time.perf_counter()
            way()
            took.append(time.perf_counter() - started)
        found[name] = {"seconds": statistics.median(took), "requests": len(requests)}
    return found


def table(results: Results) -> str:
    """Markdown of every row."""
    rows, speeds = [], []
    for key, row in results.rows.items():
        if "error" in row:
            rows.append([key, row["error"]])
        elif "index_bytes" in row:
            speeds.append(listing_table(row))
        elif "a_second" in row:
            speeds.append(
                f"{key}: {row['a_second']:.1f}, p50 {row['p50_s'] * 1e3:.0f} ms, p95 {row['p95_s'] * 1e3:.0f} ms"
            )
        else:
            rate = {name: row["megabytes"] / seconds for name, seconds in row["seconds"].items()}
            there, back = (
                [f"{rate[f'{way} {kind}']:.1f}" for way in ("boto3", "boto3 managed", "pyarrow")]
                for kind in ("put", "get")
            )
            rows.append([key, f"{rate['publish']:.1f}", *there, f"**{row['publish_ratio']:.2f}**"])
            rows[-1] += [f"{rate['pull']:.1f}", *back, f"**{row['pull_ratio']:.2f}**"]
    ways = ["boto3", "boto3 managed", "pyarrow"]
    columns = ["MB/s", "publish", *ways, "ratio to fastest", "pull, checked", *ways, "ratio to fastest"]
    return "\n\n".join([results.header(), markdown(columns, rows), *speeds])


def listing_table(row: Row) -> str:
    """Markdown of what `listing` found."""
    names = ("newest", "list", "search")
    rows = [
        [f"{row[where]['versions']:,} versions, {behind} after the index"]
        + [f"{row[where][name]['seconds'] * 1e3:.0f} ms, {row[where][name]['requests']} requests" for name in names]
        for where, behind in (("indexed", "none"), ("unindexed", f"{INDEX_EVERY - 2}"))
    ]
    return markdown(["a track of", "the newest entry", "list all", "list those of one task"], rows)


def run(bucket: str, megabytes: list[int], repeats: int, versions: int, path: Path | None) -> str:
    """Measures what the results file lacks; the table of all of it."""
    about = provenance(CPU, endpoint=os.environ.get("AWS_ENDPOINT_URL", "AWS"), repeats=repeats)
    results = Results.open(SUBJECT, path, about)
    cases = {f"{size} MB": [size * 1_000_000] for size in megabytes}
    for key, sizes in {**cases, "1,000 files of 4 KiB": [SMALL_BYTES] * SMALL_FILES}.items():
        if not results.done(key):
            results.put(key, attempt(lambda sizes=sizes: compare(bucket, sizes, repeats), CPU, 1200))
    if not results.done("publishes a second"):
        results.put("publishes a second", attempt(lambda: publishes(bucket, PUBLISHES), CPU, 300))
    if versions and not results.done(f"{versions:,} versions"):
        results.put(f"{versions:,} versions", attempt(lambda: listing(bucket, versions, repeats), CPU, 1800))
    return table(results)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1, 50, 500], metavar="MB")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--versions", type=int, default=100_000)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="orthoplex-bench-") as state:
        os.environ[STATE_VARIABLE] = (
            state  # what is pulled is not to be found in the user's own cache, nor taken out of it
        )
        print(run(given.bucket, given.sizes, given.repeats, given.versions, given.results))


if __name__ == "__main__":
    main()
