"""A chained log in a store. Many may write to it. Below `root`:

    log/<10^9 − seq, ten digits>.json   entries: {seq, prev_sha256, nonce, actor, time, op, …}, the newest listed first
    ckpt/<10^9 − seq>.parquet           an index of the entries up to seq, see `index`

Entries are canonical JSON and never change. Each holds the digest of the one before, so a chain vouches for all entries
but the newest. This machine's memory of the log (`seen`) tells whether the last entries were lost, and whether the
newest was edited; so does the newest entry's signature (`signing`).
"""

import logging
import random
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from cluster.errors import ConfigError, ConflictError, IntegrityError, KeyAbsentError
from cluster.storage import LocalStore, Store
from orchestrator.log import index, signing
from orchestrator.log.entry import FIELDS, SIGNATURE, Entry, JsonLike, actor, canonical, digest, parse_entry
from orchestrator.log.event import Anything, Event, Index, Requirement, Unchanged, Written, fault_of, well_formed
from orchestrator.log.index import Columns, Indexed
from orchestrator.log.seen import Seen
from orchestrator.log.signing import Trust

Says = Written | Callable[[Sequence[Entry]], Written]
LOG, INDICES, NEWEST_FIRST = "log", "ckpt", 10**9
READERS, BATCH = 16, 256
TRIES, BACKOFF_S, MOST_BACKOFF_S = 60, 0.01, 1.0
INDEX_EVERY = 200  # reading that many entries without an index takes about 0.2 s
MOST_ENTRY_BYTES, MOST_INDEX_BYTES = 64 << 20, 2 << 30  # no writer makes larger ones; entries have kilobytes
LOG_NAME, INDEX_NAME = (re.compile(rf"(\d{{10}})\.{suffix}") for suffix in ("json", "parquet"))
logger = logging.getLogger("orthoplex.log")


def log_start(root: str) -> str:
    """The prefix of every entry of the log below `root`."""
    return f"{root}/{LOG}/0"


class Log:
    """The log below `root`. Messages name it by `label`, and signatures are bound to that name."""

    columns = Columns()  # the parts of a body that an index keeps
    kinds: Mapping[str, type[Event]] = {Index.op: Index}  # the operations that are known, each with its body

    def __init__(self, store: Store, root: str, label: str) -> None:
        self.store, self.root, self.label = store, root, label
        self.seen = Seen(store.uri, root)

    def check(self, entries: Sequence[Entry]) -> None:
        """Raises IntegrityError, which names entry and key, if the body of one of these entries is malformed, or if
        they do not meet the team's rules. Here there are no rules. An operation that is not known is no fault: readers
        leave it out."""
        for entry in entries:
            kind = self.kinds.get(entry.op)
            if kind and (fault := fault_of(entry, kind)):
                raise self._broken(entry.seq, f"is malformed: {entry.op}: {fault}")

    @property
    def trust(self) -> Trust:
        """The team's requirements on the signature of the next entry. Here there are none."""
        return Trust()

    def head(self) -> Entry | None:
        """The newest entry, from one LIST and one GET; None in an empty log.

        Raises IntegrityError if it is malformed, unsigned against the rules, or older than what was seen here.
        """
        seen = self.seen.recall()  # before the log is read: another process may add entries meanwhile and note them
        keys = self.store.list(log_start(self.root), limit=1)
        if not keys:
            self._nothing(seen[0])
            return None
        if not (match := LOG_NAME.fullmatch(keys[0].rpartition("/")[2])):
            raise IntegrityError(f"store {self.store.uri}: {keys[0]} is not a log entry; remove it from the log")
        head = self._read(NEWEST_FIRST - int(match[1]))
        self.check([head])
        if head.seq < seen[0]:
            raise self._older(seen[0])
        self._same(head.seq, head.sha256, seen)
        return head

    def entries(self) -> list[Entry]:
        """The whole log, oldest first: seq is 1, 2, … and prev_sha256 the digest of the entry before, "" in the first.

        Entries below an index are read from it. Raises IntegrityError, which names the entry, if one is missing,
        malformed, was changed or is not signed as the rules require, or if this machine has seen a longer or another
        log.
        """
        seen, (below, above) = self.seen.recall(), self._read_all(index.decode)
        entries = [*below.entries, *above]
        self.check(entries)
        self._same_chain([*below.digests, *(entry.sha256 for entry in above)], seen)
        return entries

    def catch_up(self) -> list[Entry]:
        """`entries`, as far as they are not known already."""
        return self.entries()

    def brief(self) -> tuple[Indexed, list[Entry]]:
        """`entries` in the short form that a list of versions needs, see `index.brief`. Entries below an index are
        trusted as its writer stored them."""
        seen, (below, above) = self.seen.recall(), self._read_all(lambda data: index.brief(data, self.columns))
        self.check(above)
        self._same_chain([*below.digests, *(entry.sha256 for entry in above)], seen)
        return below, above

    def raw_entries(self) -> list[Entry]:
        """`entries`, with every entry read from the log itself."""
        seen, head = self.seen.recall(), self.head()
        entries = self._span(None, head.seq) if head else []
        self.check(entries)
        self._same_chain([entry.sha256 for entry in entries], seen)
        return entries

    def since(self, after: Entry | None) -> list[Entry]:
        """The entries after `after`, which must be in the log. Errors are those of `entries`."""
        head, first = self.head(), after.seq + 1 if after else 1
        if head is None or head.seq < first - 1:
            raise self._older(first - 1)
        found = self._span(after, head.seq)
        self.check(found)
        return found

    def append(self, says: Says, *, after: Entry | None, requires: Requirement | None = None) -> Entry:
        """Commits an entry on top of the log. `after` is the newest entry its writer has read (None: an empty log).

        `requires` is checked before each attempt against the entries that others wrote since, in order. If it raises
        ConflictError, nothing was written. By default nobody may have written. `says` may be a function of those
        entries, if it depends on them.

        Raises:
            ValueError: the body holds the name of a field, NaN or infinity.
            ConfigError: readers would reject the entry, and with it the whole log.
        """
        requires, since = requires or Unchanged(), list[Entry]()
        for attempt in range(TRIES):
            requires.check(since)
            newest = since[-1] if since else after
            data = self._composed(says(since) if callable(says) else says, newest)
            if len(data) > MOST_ENTRY_BYTES:
                raise ConfigError(f"{self.label}: an entry of {len(data):,} bytes is more than readers take; say less")
            entry = parse_entry(data)
            self._refuse_unbelieved(entry)
            self._refuse_headless(newest)
            if self.store.put_if_absent(self._key(entry.seq), data):
                self.seen.remember(entry.seq, entry.sha256)
                self._maybe_index(entry)
                return entry
            if attempt:
                time.sleep(random.uniform(0, min(BACKOFF_S * 2**attempt, MOST_BACKOFF_S)))
            since += self.since(newest)
        raise ConflictError(f"{self.label}: others wrote {TRIES} entries before this one could be; run again")

    def write_index(self) -> int:
        """Puts an index of the whole log next to it and an entry that names its digest; returns how many it holds."""
        entries = self.catch_up()
        if not entries:
            return 0
        data, upto = index.encode(entries, self.columns), entries[-1].seq
        if self.store.put_if_absent(self.index_key(upto), data):
            self.append(Index(upto=upto, index_sha256=digest(data)), after=entries[-1], requires=Anything())
        return upto

    def index_key(self, seq: int) -> str:
        """The key of the index that reaches up to `seq`."""
        return f"{self.root}/{INDICES}/{NEWEST_FIRST - seq:010d}.parquet"

    def indices(self) -> list[int]:
        """The last seq of each index, the newest first."""
        names = (key.rpartition("/")[2] for key in self.store.list(f"{self.root}/{INDICES}/0"))
        return [NEWEST_FIRST - int(match[1]) for name in names if (match := INDEX_NAME.fullmatch(name))]

    def _maybe_index(self, entry: Entry) -> None:
        """Writes an index after every INDEX_EVERY entries.

        An index only saves time, and `entry` is already committed. A failure is therefore a warning, and the next
        multiple tries again.
        """
        if entry.seq % INDEX_EVERY or entry.op == Index.op:
            return
        try:
            self.write_index()
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            following = entry.seq + INDEX_EVERY
            logger.warning(
                "%s: no index at entry %d (%s); entry %d tries again", self.label, entry.seq, said, following
            )

    def _read_all(self, decode: Callable[[bytes], Indexed]) -> tuple[Indexed, list[Entry]]:
        """The content of an index, and the entries after it, chained."""
        if (head := self.head()) is None:
            return Indexed(), []
        for upto in self.indices()[:2] if head.seq > INDEX_EVERY else ():
            tail = self._span(None, head.seq, first=upto + 1)
            if tail and (below := self._below(upto, tail, decode)):
                return below, tail
        return Indexed(), self._span(None, head.seq)

    def _below(self, upto: int, tail: list[Entry], decode: Callable[[bytes], Indexed]) -> Indexed | None:
        """The content of the index. None if the log names another digest, since it cannot be relied on then."""
        named = [event.index_sha256 for _, event in well_formed(tail, Index) if event.upto == upto]
        try:
            data = self.store.get(self.index_key(upto), MOST_INDEX_BYTES)
            found = decode(data) if digest(data) in named else Indexed()
        except (KeyAbsentError, IntegrityError, ValueError):
            return None
        whole = len(found.digests) == upto and found.digests[-1] == tail[0].prev_sha256
        return found if whole else None

    def _same_chain(self, digests: Sequence[str], seen: tuple[int, str]) -> None:
        """Raises if the entry seen before is not in the chain of these digests. Remembers the chain's end."""
        if 0 < seen[0] <= len(digests):
            self._same(seen[0], digests[seen[0] - 1], seen)
        if digests:
            self.seen.remember(len(digests), digests[-1])

    def _same(self, seq: int, sha256: str, seen: tuple[int, str]) -> None:
        if seq == seen[0] and sha256 != seen[1]:
            fault = f"is not the one seen here before (sha256 {seen[1]}); if that was meant, remove {self.seen.path}"
            raise self._broken(seq, fault)

    def _span(self, after: Entry | None, last: int, *, first: int = 1) -> list[Entry]:
        """Entries seq(after) + 1 (or `first`) to `last`. Each is chained to the one before."""
        found = list[Entry]()
        before = after
        start = after.seq + 1 if after else first
        with ThreadPoolExecutor(READERS) as pool:
            for begin in range(start, last + 1, BATCH):
                for entry in pool.map(self._read, range(begin, min(begin + BATCH, last + 1))):
                    known = before is not None or entry.seq == 1
                    if known and entry.prev_sha256 != (before.sha256 if before else ""):
                        raise self._broken(entry.seq, "does not follow the one before; one of the two was changed")
                    found.append(entry)
                    before = entry
        return found

    def _composed(self, says: Written, newest: Entry | None) -> bytes:
        op, body = says.op, says.body()
        if clash := sorted({*FIELDS, SIGNATURE} & body.keys()):
            raise ValueError(f"entry {op!r}: the body may not hold {', '.join(clash)}")
        seq, before = (newest.seq + 1, newest.sha256) if newest else (1, "")
        chained: dict[str, JsonLike] = {"seq": seq, "prev_sha256": before, "nonce": uuid.uuid4().hex}
        written = {"actor": actor(), "time": datetime.now(UTC).isoformat(timespec="milliseconds"), "op": op}
        content: dict[str, JsonLike] = {**body, **chained, **written}
        data = canonical(content)
        signature = signing.sign(self.label, digest(data))
        return canonical({**content, SIGNATURE: signature}) if signature else data

    def _refuse_unbelieved(self, entry: Entry) -> None:
        if fault := signing.entry_fault(entry, self.label, self.trust):
            raise ConfigError(
                f"{signing.KEY_VARIABLE}: an entry of {self.label} ({entry.op}) {fault}; nothing was written. Name the "
                "PEM file, on this machine, of a key that the rules list in that role"
            )

    def _refuse_headless(self, newest: Entry | None) -> None:
        """Raises IntegrityError if the entry that the next one follows is gone from a folder, as if that was removed or
        unmounted while a run went on: the next one would be the beginning of another log."""
        if newest is None or not isinstance(self.store, LocalStore):
            return
        try:
            self.store.get(self._key(newest.seq), MOST_ENTRY_BYTES)
        except KeyAbsentError:
            raise IntegrityError(
                f"store {self.store.uri}: entry {newest.seq} of {self.label} is not there any more: the folder was "
                "removed, unmounted or replaced; put it back and run again"
            ) from None

    def _nothing(self, seen: int) -> None:
        """An empty folder was removed, and serves nothing old. An empty bucket was taken back."""
        if isinstance(self.store, LocalStore):
            self.seen.forget()
        elif seen:
            raise self._older(seen)

    def _older(self, seq: int) -> IntegrityError:
        return IntegrityError(
            f"store {self.store.uri}: the log of {self.label} ends before entry {seq}, which was seen here before: it "
            f"was taken back; restore it, or, if that was meant, remove {self.seen.path}"
        )

    def _key(self, seq: int) -> str:
        return f"{self.root}/{LOG}/{NEWEST_FIRST - seq:010d}.json"

    def _read(self, seq: int) -> Entry:
        try:
            entry = parse_entry(self.store.get(self._key(seq), MOST_ENTRY_BYTES))
        except KeyAbsentError:
            raise self._broken(seq, "is missing") from None
        except (ValueError, RecursionError) as error:
            raise self._broken(seq, f"is malformed ({error})") from None
        if entry.seq != seq:
            raise self._broken(seq, f"says that it is entry {entry.seq}")
        return entry

    def _broken(self, seq: int, fault: str) -> IntegrityError:
        return IntegrityError(f"store {self.store.uri}: entry {seq} ({self._key(seq)}) {fault}; restore a backup of it")
