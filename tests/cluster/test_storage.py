"""One conformance suite for every store, then what is particular to folders and to S3."""

import copy
import errno
import hashlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, KeyAbsentError, StoreError
from cluster.storage import PROBE_KEY, FileRecord, LocalStore, S3Store, Store, is_key, open_store, probe, upload_files

HOSTILE = (
    "", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", "./a", "a/./b", "a//b", "a/", "a\\b", "a b", "a\n", "a\0b",
    "ä", "a:b", "~", "a/*", ".tmp/x", ".tmp", "x" * 513,
)  # fmt: skip
SHARED: dict[str, Any] = {}
SAFE = ("adapter.safetensors", "log/0999999999.json", PROBE_KEY, "t/a-b/c_d/v/0f/e.f", "...", "README.md", "x" * 200)


def shared(store: Any) -> Any:
    """The store, if on S3 with one client for all tests: making one takes longer than most tests."""
    if isinstance(store, S3Store):
        vars(store).update(SHARED)
        SHARED["client"] = store.client
    return store


@pytest.fixture(params=["folder", "s3", "s3 with prefix"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return LocalStore(tmp_path / "store")
    bucket = request.getfixturevalue("s3_bucket")
    return shared(S3Store(bucket, "a/prefix" if "prefix" in request.param else ""))


@pytest.fixture
def s3(s3_bucket: str) -> S3Store:
    return shared(S3Store(s3_bucket))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off without the waiting."""
    monkeypatch.setattr("time.sleep", lambda _: None)


# --- conformance


def test_get_gives_back_what_was_put(store: Store) -> None:
    data = "Ünïcode ✓\0\r\n".encode() + bytes(range(256))
    for key in SAFE:
        store.put(key, data)
        assert store.get(key) == data
    store.put("empty", b"")
    assert store.get("empty") == b""


def test_put_replaces(store: Store) -> None:
    store.put("k", b"a longer old value")
    store.put("k", b"new")
    assert store.get("k") == b"new"


def test_absent_key(store: Store) -> None:
    store.put("a/b", b"")
    for key in ("x", "a", "a/c", "a/b2"):
        with pytest.raises(KeyAbsentError, match=f"no object '{key}'"):
            store.get(key)


def test_list_is_in_byte_order_below_a_prefix(store: Store) -> None:
    keys = ["a", "a-b", "a.b/c", "a0", "aB", "a_b", "ab", "dir/1", "dir/10", "dir/2", "dir/sub/x", "dir-x/1", "Z"]
    assert store.list("") == []
    for key in keys:
        store.put(key, b"")
    ordered = sorted(keys, key=str.encode)
    assert store.list("") == ordered
    assert store.list("dir/") == ["dir/1", "dir/10", "dir/2", "dir/sub/x"]
    assert store.list("dir/1") == ["dir/1", "dir/10"]
    assert store.list("dir") == ["dir-x/1", "dir/1", "dir/10", "dir/2", "dir/sub/x"]
    assert store.list("nothing/here/") == []
    for limit in (1, 3, 100):
        assert store.list("", limit=limit) == ordered[:limit]
    assert store.list("dir/", limit=1) == ["dir/1"]


def test_put_if_absent(store: Store) -> None:
    assert store.put_if_absent("k/1", b"first")
    assert not store.put_if_absent("k/1", b"second")
    assert store.get("k/1") == b"first"
    store.put("k/2", b"put")
    assert not store.put_if_absent("k/2", b"late")


def test_of_twenty_racing_writers_one_wins(store: Store) -> None:
    for round_ in range(3):
        barrier, wins = threading.Barrier(20), []

        def write(number: int, key: str = f"race/{round_}", wait: Any = barrier.wait, wins: list[int] = wins) -> None:
            wait()
            if store.put_if_absent(key, f"writer {number}".encode()):
                wins.append(number)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(wins) == 1
        assert store.get(f"race/{round_}") == f"writer {wins[0]}".encode()


def test_a_file_is_streamed(store: Store, tmp_path: Path) -> None:
    data = os.urandom(9 << 20)  # above the size at which boto3 sends parts
    source = tmp_path / "source"
    source.write_bytes(data)
    store.put("big/file.bin", b"old")
    store.put("big/file.bin", source)
    assert hashlib.sha256(store.get("big/file.bin")).digest() == hashlib.sha256(data).digest()
    with pytest.raises(StoreError):
        store.put("big/absent", tmp_path / "absent")
    assert store.list("") == ["big/file.bin"]


def test_hostile_keys_are_refused(store: Store) -> None:
    for key in HOSTILE:
        assert not is_key(key)
        calls: list[Callable[[], Any]] = [
            lambda key=key: store.get(key),
            lambda key=key: store.put(key, b""),
            lambda key=key: store.put_if_absent(key, b""),
        ]
        for call in calls + ([lambda key=key: store.list(key)] if key not in ("", "a/") else []):
            with pytest.raises(StoreError, match=r"not safe") as caught:
                call()
            assert not isinstance(caught.value, KeyAbsentError)
    assert store.list("") == []


def test_copies_reopen(store: Store) -> None:
    store.put("k", b"v")
    for twin in (pickle.loads(pickle.dumps(store)), copy.deepcopy(store), open_store(store.uri)):
        assert twin.uri == store.uri and "client" not in vars(twin)
        assert shared(twin).get("k") == b"v"


def test_upload_files(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.txt").write_bytes(b"abc")
    (folder / "sub" / "a").write_bytes(b"")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert upload_files(store, "v/1", folder) == [FileRecord("b.txt", 3, abc), FileRecord("sub/a", 0, nothing)]
    assert store.list("") == ["v/1/b.txt", "v/1/sub/a"]
    assert store.get("v/1/b.txt") == b"abc"


def test_probe_accepts_and_may_be_repeated(store: Store) -> None:
    probe(store)
    probe(store)
    assert store.list("") == [PROBE_KEY]


class Ignoring:
    """A store that overwrites whatever the condition says, and `answers` as told."""

    def __init__(self, inner: Store, answers: bool) -> None:
        self.inner, self.answers, self.uri = inner, answers, "s3://careless"
        self.get, self.put, self.list = inner.get, inner.put, inner.list

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.inner.put(key, data)
        return self.answers


@pytest.mark.parametrize("answers", [True, False])
def test_probe_refuses_a_store_that_ignores_the_condition(store: Store, answers: bool) -> None:
    for _ in range(2):
        with pytest.raises(StoreError, match=r"s3://careless.*If-None-Match"):
            probe(Ignoring(store, answers))


def test_probe_refuses_a_store_that_does_not_list(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "list", lambda prefix, limit=None: [])
    with pytest.raises(StoreError, match="does not list"):
        probe(store)


# --- open_store


def test_open_store_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for uri, canonical in {
        "store": f"{tmp_path}/store",
        "./a/../store": f"{tmp_path}/store",
        "/x/y z/@": "/x/y z/@",
        "~/store": "/home/me/store",
        "file:///x/y%20z": "/x/y z",
        "s3://bucket": "s3://bucket",
        "s3://bucket/": "s3://bucket",
        "s3://my.bucket/a/B_c/": "s3://my.bucket/a/B_c",
    }.items():
        opened = open_store(uri)
        assert opened.uri == canonical
        assert type(opened) is (S3Store if uri.startswith("s3") else LocalStore)
        assert open_store(opened.uri).uri == canonical
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "uri",
    ["", " ", "s3://", "s3:///prefix", "s3:bucket", "s3://bucket//a", "s3://bucket/../x", "s3://bucket?x=y", "S3://bucket",
     "gs://bucket", "http://host/bucket", "file://host/x", "file://", "a\nb", "~nobody-of-this-name/x"],
)  # fmt: skip
def test_open_store_refuses_other_forms(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(uri)
    assert repr(uri) in str(caught.value) and "s3://bucket/prefix" in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    ["s3://user:hunter2@bucket/x", "https://user:hunter2@host/x", "s3://user:hunt/er2@bucket", "user:hunter2@host/x"],
)
def test_open_store_keeps_passwords_to_itself(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(uri)
    assert "hunt" not in str(caught.value) and "AWS_PROFILE" in str(caught.value)


def test_opening_imports_no_sdk() -> None:
    code = "import sys, cluster.storage as s; s.open_store('s3://bucket'); assert 'botocore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- folders


def test_reading_a_folder_changes_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "absent")
    assert store.list("t/") == []
    with pytest.raises(KeyAbsentError):
        store.get("t/x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["put", "put_if_absent"])
def test_a_killed_writer_leaves_nothing_visible(tmp_path: Path, verb: str) -> None:
    store = LocalStore(tmp_path / "store")
    store.put("k/old", b"old")
    target = {"put": "k/old", "put_if_absent": "k/new"}[verb]
    code = (
        "import os, sys, time, cluster.storage as s\n"
        "s.os.fsync = lambda _: (print('written', flush=True), time.sleep(60))\n"
        f"s.LocalStore({str(store.root)!r}).{verb}({target!r}, b'half' * 1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"written\n"
        child.send_signal(signal.SIGKILL)
    assert len(list((store.root / ".tmp").iterdir())) == 1
    assert store.list("") == ["k/old"]
    assert store.get("k/old") == b"old"
    assert store.put_if_absent("k/new", b"new")


def test_foreign_files_are_not_listed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("t/x", b"")
    (tmp_path / "t" / "a file ~").touch()
    assert store.list("") == ["t/x"]


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_bytes(b"secret")
    store = LocalStore(tmp_path / "store")
    store.put("t/y", b"")
    (tmp_path / "store" / "t" / "link").symlink_to(tmp_path / "outside")
    for call in (store.get, lambda key: store.put(key, b""), lambda key: store.put_if_absent(key, b""), store.list):
        with pytest.raises(StoreError, match="out of the folder"):
            call("t/link/x")
    assert store.list("") == ["t/y"]


@pytest.mark.parametrize("root", ["{tmp}/file", "{tmp}/file/below", "/proc/orthoplex-store", "/sys/orthoplex-store"])
def test_an_unwritable_folder_is_explained(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").touch()
    store = LocalStore(root.format(tmp=tmp_path))
    for call in (lambda: store.put("t/x", b""), lambda: store.put_if_absent("t/x", b""), lambda: probe(store)):
        with pytest.raises(StoreError) as caught:
            call()
        message = str(caught.value)
        assert str(store.root) in message and "another folder" in message and "\n" not in message
    if str(tmp_path) in store.uri:
        for read in (lambda: store.list(""), lambda: store.get("t/x")):
            with pytest.raises(StoreError, match="Not a directory"):
                read()


@pytest.mark.parametrize(
    ("function", "number", "expected"),
    [("fsync", errno.ENOSPC, "No space left.*another folder"), ("link", errno.EPERM, "hard links"),
     ("link", errno.EOPNOTSUPP, "hard links")],
)  # fmt: skip
def test_errors_of_the_filesystem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int, expected: str
) -> None:
    def fail(*paths: Any) -> None:
        raise OSError(number, os.strerror(number), *([str(paths[0]), None, str(paths[1])] if len(paths) == 2 else []))

    store = LocalStore(tmp_path)
    monkeypatch.setattr(f"cluster.storage.os.{function}", fail)
    with pytest.raises(StoreError, match=expected):
        store.put_if_absent("x", b"")
    assert list((tmp_path / ".tmp").iterdir()) == [] and store.list("") == []


# --- S3


def answer(status: int, code: str) -> Callable[..., Any]:
    """A `before-send` hook that answers in the server's place."""
    from botocore.awsrequest import AWSResponse

    class Raw:
        def stream(self, **_: Any) -> list[bytes]:
            quoted = os.environ["AWS_ACCESS_KEY_ID"]
            return [f"<Error><Code>{code}</Code><Message>you sent {quoted}</Message></Error>".encode()]

    return lambda request, **_: AWSResponse(request.url, status, {}, Raw())


def lose_the_answer(request: Any, **_: Any) -> None:
    """A `before-send` hook: the request reaches the server, the answer does not come back."""
    from botocore.exceptions import ConnectionClosedError

    headers = {name: value.decode() if isinstance(value, bytes) else value for name, value in request.headers.items()}
    headers = {"Content-Type": "application/octet-stream", **headers, "Expect": ""}
    body = request.body if isinstance(request.body, bytes) else request.body.read()
    urllib.request.urlopen(urllib.request.Request(request.url, body, headers, method=request.method)).read()
    raise ConnectionClosedError(endpoint_url=request.url)


@pytest.fixture
def intercept(s3: S3Store) -> Iterator[Callable[..., None]]:
    """Called with a list of hooks: each request of an operation meets the next one, then requests pass."""
    events, registered = s3.client.meta.events, []

    def start(hooks: list[Callable[..., Any]], operation: str = "before-send.s3.PutObject") -> None:
        registered.append((operation, lambda **given: hooks.pop(0)(**given) if hooks else None))
        events.register(*registered[-1])

    yield start
    for operation, handler in registered:
        events.unregister(operation, handler)


@pytest.mark.parametrize("failures", [1, 3, 7])
def test_refusals_that_pass_are_retried(
    s3: S3Store, intercept: Callable[..., None], quick: None, failures: int
) -> None:
    mixed = [answer(409, "ConditionalRequestConflict"), answer(500, "InternalError"), answer(503, "SlowDown")]
    intercept(left := (mixed * failures)[:failures])
    assert s3.put_if_absent("k", b"mine") and not left
    assert s3.get("k") == b"mine"


@pytest.mark.parametrize(("status", "code"), [(409, "ConditionalRequestConflict"), (500, "InternalError")])
def test_retries_end(s3: S3Store, intercept: Callable[..., None], quick: None, status: int, code: str) -> None:
    intercept(left := [answer(status, code)] * 100)
    with pytest.raises(StoreError, match=code):
        s3.put_if_absent("k", b"mine")
    assert 100 - len(left) == {409: 6, 500: 18}[status]  # 6 of ours, of 3 of the SDK's
    assert s3.list("") == []


def test_our_own_put_whose_answer_was_lost_is_a_win(s3: S3Store, intercept: Callable[..., None], quick: None) -> None:
    intercept(left := [lose_the_answer])
    assert s3.put_if_absent("k", b"mine, nonce 1") and not left
    assert s3.get("k") == b"mine, nonce 1"


def test_a_412_to_another_writer_is_a_defeat(s3: S3Store, intercept: Callable[..., None], quick: None) -> None:
    s3.put("k", b"theirs, nonce 2")
    intercept([answer(500, "InternalError")])
    assert not s3.put_if_absent("k", b"mine, nonce 1")
    assert s3.get("k") == b"theirs, nonce 2"


def test_the_last_answer_lost_is_read_back(s3: S3Store, intercept: Callable[..., None], quick: None) -> None:
    intercept([answer(500, "InternalError")] * 17 + [lose_the_answer])
    assert s3.put_if_absent("k", b"mine, nonce 1")


def failures(store: Store) -> list[str]:
    """The message of every verb, each of which must fail."""
    messages = []
    for call in (
        lambda: store.get("t/x"),
        lambda: store.put("t/x", b""),
        lambda: store.put("t/x", Path(__file__)),
        lambda: store.put_if_absent("t/x", b"1"),
        lambda: store.list("t/", limit=1),
        lambda: probe(store),
    ):
        with pytest.raises(StoreError) as caught:
            call()
        assert not isinstance(caught.value, KeyAbsentError)
        messages.append(str(caught.value))
    for message in messages:
        assert "\n" not in message and store.uri in message
        for secret in (os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY"), "hunter2"):
            assert not secret or secret not in message
    return messages


def test_no_such_bucket(s3_endpoint: str, s3_bucket: str) -> None:
    for message in failures(S3Store("no-such-bucket")):
        assert "no such bucket; create it" in message and s3_endpoint.removeprefix("http://") in message


def test_no_server(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hunter2@127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:9: cannot list 't/': cannot connect.*AWS_ENDPOINT_URL"):
        S3Store("bucket").list("t/")
    assert time.monotonic() - started < 6
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert all("cannot connect" in message for message in failures(S3Store("bucket")))


def test_no_credentials(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert all("no credentials found; set AWS_PROFILE" in message for message in failures(S3Store(s3_bucket)))


def test_a_profile_or_endpoint_that_is_wrong(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "user:hunter2@host")
    with pytest.raises(StoreError, match="AWS_ENDPOINT_URL is not a URL") as caught:
        S3Store(s3_bucket).get("x")
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreError, match="ProfileNotFound"):
        S3Store(s3_bucket).get("x")


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [(403, "AccessDenied", "allow s3:GetObject"), (403, "InvalidAccessKeyId", "credentials refused"),
     (403, "SignatureDoesNotMatch", "credentials refused"), (400, "ExpiredToken", "credentials refused"),
     (400, "SomethingElse", "SomethingElse")],
)  # fmt: skip
def test_refusals_are_explained_and_secrets_kept(
    s3: S3Store, intercept: Callable[..., None], status: int, code: str, expected: str
) -> None:
    intercept([answer(status, code)] * 10, "before-send.s3")
    assert all(expected in message for message in failures(s3))


def test_hostile_names_in_a_bucket_are_not_listed(s3: S3Store) -> None:
    for key in ("t/a/../b", "t/ä", "t/ok"):
        s3.client.put_object(Bucket=s3.bucket, Key=key, Body=b"")
    assert s3.list("t/") == ["t/ok"]
    assert s3.list("t/", limit=1) == ["t/ok"]
