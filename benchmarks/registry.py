"""What the store costs over raw clients: publish and pull against boto3 and pyarrow, on the same server in one run.

    python -m benchmarks.registry --bucket BUCKET [--sizes 1 50 500] [--repeats 3] [--results FILE.json]

The server is what AWS_ENDPOINT_URL and the AWS SDK's chain say; the bucket must exist. A publish is files under a fresh
prefix, manifest and log entry; a pull is manifest and files, every digest checked. Raw clients move the same bytes from
and to the same files and check nothing; they do 1,000 small files THREADS at a time, as the store does. All ways take
turns, so that what else the machine does falls on each alike; figures are medians.
"""

import argparse
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
from cluster.storage import FileRecord, S3Store, download_files, upload_files
from cluster.storage.files import THREADS
from orchestrator.registry import Track, manifest_files

SUBJECT = "the store against raw clients"
CPU = torch.device("cpu")
SMALL_FILES, SMALL_BYTES, PUBLISHES = 1000, 4096, 50


class Ours:
    """The store and the registry's log."""

    def __init__(self, bucket: str) -> None:
        self.store = S3Store(bucket, f"bench/{uuid.uuid4().hex}")
        self.track = Track(self.store, "bench", "stream")
        self.published: tuple[str, str] = ("", "")

    def publish(self, folder: Path) -> None:
        """Files, manifest, log entry."""
        prefix = self.track.fresh_prefix()
        records = upload_files(self.store, prefix, folder)
        sha256 = self.track.write_manifest(prefix, {}, records)
        self.track.append("commit", {"prefix": prefix, "manifest_sha256": sha256}, after=self.track.head())
        self.published = prefix, sha256

    def pull(self, folder: Path) -> None:
        """Manifest and files, checked."""
        records: list[FileRecord] = [*manifest_files(self.track.read_manifest(*self.published)).values()]
        download_files(self.store, self.published[0], records, folder)

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
    ours.track.append("open", {}, after=None)
    took: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="orthoplex-bench-") as temporary:
        source, target = Path(temporary) / "source", Path(temporary) / "target"
        source.mkdir()
        names = [f"{number:04d}.safetensors" for number in range(len(sizes))]
        for name, size in zip(names, sizes, strict=True):
            (source / name).write_bytes(os.urandom(size))
        for turn in range(repeats + 1):  # the first one makes connections and is not counted
            for key, action in steps(ours, ways, (source, target), names, turn):
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir()
                started = time.perf_counter()
                action()
                seconds = time.perf_counter() - started
                if key == "pull":
                    ours.forget(f"{ours.published[0]}/")
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
    ours.track.append("open", {}, after=None)
    with tempfile.TemporaryDirectory(prefix="orthoplex-bench-") as temporary:
        for number in range(3):
            (Path(temporary) / f"{number}.safetensors").write_bytes(os.urandom(20_000))
        took = []
        for _ in range(count):
            started = time.perf_counter()
            ours.publish(Path(temporary))
            took.append(time.perf_counter() - started)
    return {"a_second": count / sum(took), "p50_s": statistics.median(took), "p95_s": sorted(took)[int(count * 0.95)]}


def table(results: Results) -> str:
    """Markdown of every row."""
    rows, speeds = [], []
    for key, row in results.rows.items():
        if "error" in row:
            rows.append([key, row["error"]])
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


def run(bucket: str, megabytes: list[int], repeats: int, path: Path | None) -> str:
    """Measures what the results file lacks; the table of all of it."""
    about = provenance(CPU, endpoint=os.environ.get("AWS_ENDPOINT_URL", "AWS"), repeats=repeats)
    results = Results.open(SUBJECT, path, about)
    cases = {f"{size} MB": [size * 1_000_000] for size in megabytes}
    for key, sizes in {**cases, "1,000 files of 4 KiB": [SMALL_BYTES] * SMALL_FILES}.items():
        if not results.done(key):
            results.put(key, attempt(lambda sizes=sizes: compare(bucket, sizes, repeats), CPU, 1200))
    if not results.done("publishes a second"):
        results.put("publishes a second", attempt(lambda: publishes(bucket, PUBLISHES), CPU, 300))
    return table(results)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1, 50, 500], metavar="MB")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    print(run(given.bucket, given.sizes, given.repeats, given.results))


if __name__ == "__main__":
    main()
