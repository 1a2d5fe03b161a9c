"""A store in an S3 bucket, AWS's or any other that honours `If-None-Match: *`, through boto3.

The SDK is told to try once: `retry` decides what is repeated, and for how long. Objects above ONE_PUT_BYTES are sent in
parts of PART_BYTES, STREAMS at a time. An object is fetched in one stream. If that is slow or breaks off, the rest is
fetched in parts. A part that broke off is fetched or sent again by itself.
"""

import hashlib
import os
import time
import uuid
from base64 import b64encode
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import cached_property, partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

from cluster.errors import KeyAbsentError, StoreError
from cluster.storage.interface import Content, Keys, checked, is_key, refuse_larger
from cluster.storage.retry import PassingError, patiently
from cluster.storage.s3_errors import S3Error, S3PassingError, translated
from cluster.storage.s3_options import S3Options
from cluster.storage.transfer import CACHED_BYTES, CHUNK_BYTES, Digest, Target, filling, reading

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5, 60
ONE_PUT_BYTES, PART_BYTES, STREAMS, MOST_PARTS = 64 << 20, 16 << 20, 4, 9_000
SAMPLE_BYTES, NEAR_BYTES_PER_S = 8 << 20, 120e6  # AWS gives one connection some 90 MB/s, and many connections more
NONCE = "orthoplex-upload"  # metadata of an object sent in parts, by which its writer knows it again


class Span(NamedTuple):
    """Bytes start to stop − 1 of an object."""

    start: int
    stop: int


class S3Store:
    """A store in a bucket, below `prefix`. Copies and pickles leave the client behind."""

    def __init__(self, bucket: str, prefix: str = "", options: S3Options | None = None) -> None:
        self.bucket, self.prefix, self.options = bucket, f"{prefix}/" if prefix else "", options or S3Options()
        self.uri = f"s3://{bucket}/{prefix}".removesuffix("/") + str(self.options)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("client", "bulk")}

    @cached_property
    def client(self) -> Any:
        """This process's boto3 client, made at first use."""
        return self._connect()

    @cached_property
    def bulk(self) -> Any:
        """As `client`, for large bodies. It does not sign them, since that would digest each a second time. Every read
        compares the digest of the whole object."""
        return self._connect(payload_signing_enabled=False)

    def _connect(self, **options: Any) -> Any:
        import boto3
        from botocore.config import Config

        custom = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=32,
            retries={"mode": "standard", "total_max_attempts": 1},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={**({"addressing_style": "path"} if custom else {}), **options},
        )
        return boto3.session.Session().client("s3", config=config)

    def get(self, key: str, most: int | None = None) -> bytes:
        """See Store."""
        return patiently(lambda: self._get(checked(key), most))

    def put(self, key: str, data: bytes) -> None:
        """See Store."""
        patiently(lambda: self._put(checked(key), data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See Store. Repeating is safe: if a repeated put gets 412, the object holds our own bytes."""
        try:
            patiently(lambda: self._put(checked(key), data, IfNoneMatch="*"))
            return True
        except S3Error as error:
            failure = error
        if failure.status != 412 and not isinstance(failure, PassingError):
            raise failure
        read = partial(patiently, partial(self._get, key)) if failure.status == 412 else partial(self._get, key)
        try:
            return read() == data
        except (KeyAbsentError, S3PassingError):
            raise failure from None

    def upload(self, key: str, path: Path) -> Content:
        """See Store. The file is digested while it is sent."""
        with reading(path) as source:
            size = os.fstat(source.fileno()).st_size
            if size > ONE_PUT_BYTES:
                return self._send_parts(checked(key), source, max(PART_BYTES, -(-size // MOST_PARTS)))
            data = read_whole(source, size)
        digest = Digest()
        digest.add(data)
        patiently(lambda: self._put(checked(key), data, self.bulk if size > CHUNK_BYTES else self.client))
        return digest.content()

    def download(self, key: str, path: Path, most: int | None = None) -> Content:
        """See Store. The object is digested as it arrives. Parts that arrive in parallel are digested from the file."""
        checked(key)
        with filling(path) as target:
            answer, digest = patiently(lambda: self._open(key)), Digest()
            refuse_larger(self.uri, key, answer["ContentLength"], most)
            with suppress(PassingError):  # what is missing is fetched in parts
                self._pour(key, answer, target, digest)
            if digest.size < answer["ContentLength"]:
                self._receive_parts(key, answer, target, digest)
            return digest.content()

    def list(self, prefix: str, limit: int | None = None) -> Keys:
        """See Store."""
        return patiently(lambda: self._list(checked(prefix, "prefix"), limit))

    def list_folders(self, prefix: str) -> Keys:
        """See Store. One request per thousand folders, whatever they hold."""
        folder = checked(prefix, "prefix").removesuffix("/")
        return patiently(lambda: self._list_folders(f"{folder}/" if folder else ""))

    def delete(self, key: str) -> None:
        """See Store. In a versioned bucket old versions stay."""
        with suppress(KeyAbsentError):
            patiently(lambda: self._request("delete", checked(key), "delete_object"))

    # --- one attempt each

    def _get(self, key: str, most: int | None = None) -> bytes:
        with self._explained("read", key) as target:
            answer = self.client.get_object(**target)
            with closing(answer["Body"]) as body:
                refuse_larger(self.uri, key, answer["ContentLength"], most)
                return bytes(body.read())

    def _put(self, key: str, data: bytes, client: Any = None, **condition: str) -> None:
        with self._explained("write", key) as target:
            put = (client or self.client).put_object
            put(**target, **self._body(data), **self.options.arguments(), **condition)

    def _list(self, prefix: str, limit: int | None) -> Keys:
        pages = self._pages(prefix, PaginationConfig={"PageSize": min(limit or 1000, 1000)})
        keys = (item["Key"].removeprefix(self.prefix) for page in pages for item in page.get("Contents", ()))
        return list(islice(filter(is_key, keys), limit))

    def _list_folders(self, prefix: str) -> Keys:
        pages = self._pages(prefix, Delimiter="/")
        found = (item["Prefix"].removeprefix(self.prefix) for page in pages for item in page.get("CommonPrefixes", ()))
        return sorted(f.removeprefix(prefix).removesuffix("/") for f in found if is_key(f.removesuffix("/")))

    def _pages(self, prefix: str, **how: Any) -> Iterator[Any]:
        with self._explained("list", prefix) as target:
            paginator = self.client.get_paginator("list_objects_v2")
            yield from paginator.paginate(Bucket=self.bucket, Prefix=target["Key"], **how)

    # --- sending in parts

    def _send_parts(self, key: str, source: IO[bytes], part_bytes: int) -> Content:
        nonce = uuid.uuid4().hex
        wanted = {"Metadata": {NONCE: nonce}, **self.options.arguments()}
        upload = patiently(lambda: self._request("write", key, "create_multipart_upload", **wanted))["UploadId"]
        try:
            content, tags = self._send_each(key, source, part_bytes, upload)
            parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
            patiently(lambda: self._complete(key, upload, parts, nonce))
        except BaseException:
            with suppress(StoreError):
                self._request("write", key, "abort_multipart_upload", UploadId=upload)
            raise
        return content

    def _send_each(self, key: str, source: IO[bytes], part_bytes: int, upload: str) -> tuple[Content, Keys]:
        """Reads part after part, and digests each while earlier ones are sent; returns their ETags, in order."""
        digest, size, tags, sending = hashlib.sha256(), 0, Keys(), deque[Future[str]]()
        with ThreadPoolExecutor(STREAMS) as pool:
            try:
                for number, data in enumerate(iter(partial(read_whole, source, part_bytes), b""), 1):
                    sending.append(pool.submit(patiently, partial(self._send_part, key, upload, number, data)))
                    digest.update(data)
                    size += len(data)
                    if len(sending) > STREAMS:
                        tags.append(sending.popleft().result())
                tags += [future.result() for future in sending]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return Content(size, digest.hexdigest()), tags

    def _send_part(self, key: str, upload: str, number: int, data: bytes) -> str:
        body = self._body(data)
        with self._explained("write", key) as target:
            return str(self.bulk.upload_part(**target, UploadId=upload, PartNumber=number, **body)["ETag"])

    def _complete(self, key: str, upload: str, parts: Any, nonce: str) -> None:
        """Makes the object from its parts. If an answer was lost, the upload is gone and our own object is there."""
        try:
            self._request("write", key, "complete_multipart_upload", UploadId=upload, MultipartUpload={"Parts": parts})
        except S3Error as error:
            if error.code != "NoSuchUpload":
                raise
            try:
                mine = self._request("read", key, "head_object")["Metadata"].get(NONCE) == nonce
            except KeyAbsentError:
                mine = False
            if not mine:
                raise

    def _body(self, data: bytes) -> dict[str, Any]:
        """A large body goes as a file: the socket's timeout then counts per block, not for the whole body."""
        digest = hashlib.md5(data, usedforsecurity=False).digest() if self.options.lock_mode else b""
        body = BytesIO(data) if len(data) > CHUNK_BYTES else data
        return {"Body": body, **({"ContentMD5": b64encode(digest).decode()} if digest else {})}

    # --- receiving

    def _open(self, key: str, span: Span | None = None, tag: str = "") -> Any:
        """The answer to a GET of all or of a span, its body unread. `tag` is the ETag to be met; "": any."""
        which = {"Range": f"bytes={span.start}-{span.stop - 1}"} if span else {}
        answer = self._request("read", key, "get_object", **which)
        if tag and answer["ETag"] != tag:
            raise StoreError(f"store {self.uri}: {key!r} was replaced while it was read; run again")
        return answer

    def _pour(self, key: str, answer: Any, target: Target, digest: Digest) -> None:
        """Writes an object as it arrives, to its end or until parts would be faster."""
        started, size = time.monotonic(), answer["ContentLength"]
        with self._explained("read", key), closing(answer["Body"]) as body:
            for chunk in iter(partial(body.read, CHUNK_BYTES), b""):
                target.write_at(digest.size, chunk)
                digest.add(chunk)
                if size - digest.size > PART_BYTES and is_slow(digest.size, time.monotonic() - started):
                    break

    def _receive_parts(self, key: str, first: Any, target: Target, digest: Digest) -> None:
        """Fetches the rest of the object, from `digest.size` on. `first` is the answer to the whole object."""
        size = first["ContentLength"]
        rest = [Span(at, min(size, at + PART_BYTES)) for at in range(digest.size, size, PART_BYTES)]

        def receive(span: Span) -> Span:
            answer = self._open(key, span, first["ETag"])
            with self._explained("read", key), closing(answer["Body"]) as body:
                came = drain(body, target, span)
            if came != span.stop - span.start:
                raise S3PassingError(f"store {self.uri}: {key!r}: {came} bytes came for {span}; run again")
            return span

        with ThreadPoolExecutor(STREAMS) as pool:
            arriving = [pool.submit(patiently, partial(receive, span)) for span in rest]
            try:
                for future in arriving:
                    digest.add_from(target, future.result().stop)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    # --- the SDK

    def _request(self, action: str, key: str, operation: str, **arguments: Any) -> Any:
        """One request about an object: the operation's answer, or a StoreError."""
        with self._explained(action, key) as target:
            return getattr(self.client, operation)(**target, **arguments)

    @contextmanager
    def _explained(self, action: str, key: str) -> Iterator[dict[str, str]]:
        """Yields the SDK's names for the object; explains the SDK's errors."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            yield {"Bucket": self.bucket, "Key": self.prefix + key}
        except (BotoCoreError, ClientError, ResponseParserError, OSError, ValueError) as error:
            url = self.client.meta.endpoint_url if "client" in self.__dict__ else "//no endpoint"
            at = urlsplit(url).netloc.rpartition("@")[2]
            raise translated(error, action, key, self.uri, at) from None


def read_whole(source: IO[bytes], size: int) -> bytes:
    """`size` bytes of an unbuffered file, fewer only at its end."""
    parts = list[bytes]()
    while size and (data := source.read(size)):
        parts.append(data)
        size -= len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def is_slow(size: int, seconds: float) -> bool:
    """Whether a stream that brought `size` bytes so far is slower than a nearby server would be."""
    return size >= SAMPLE_BYTES and size < NEAR_BYTES_PER_S * seconds


def drain(body: Any, target: Target, span: Span) -> int:
    """Writes a body to its span of the file, and nothing beyond; returns the number of bytes that came."""
    at = span.start
    for chunk in iter(partial(body.read, CACHED_BYTES), b""):
        target.write_at(at, chunk[: span.stop - at])
        at += len(chunk)
    return at - span.start
