"""What people say of versions: that one waits for approval, is approved, or rejected; with who and why."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.errors import ConfigError
from orchestrator.log.decision import Decision
from orchestrator.log.entry import Entry
from orchestrator.log.event import Json, events
from orchestrator.track.aside import Approval, ApprovalState
from orchestrator.track.events import Commit, refuse_unknown
from orchestrator.track.requirements import Stands
from orchestrator.track.state import replay
from orchestrator.track.track import Track


@dataclass(frozen=True, kw_only=True)
class Word:
    """The last word on a version: entry `seq`, by `actor`."""

    state: ApprovalState
    actor: str
    time: str
    why: str
    seq: int

    def shown(self) -> Json:
        """The form that `--json` prints."""
        return {**vars(self)}

    @property
    def told(self) -> str:
        """For people."""
        return f"{self.state} by {self.actor}, {self.time}{f': {self.why}' if self.why else ''}"


def word_on(entries: Sequence[Entry], commit: Commit) -> Word | None:
    """The last word on a version, None if nobody has said anything. A word on other bytes is none."""
    said = [(entry, event) for entry, event in events(entries, Approval) if event.version == commit.version]
    mine = [each for each in said if each[1].manifest_sha256 == commit.manifest_sha256]
    if not mine:
        return None
    entry, event = mine[-1]
    return Word(state=event.state, actor=entry.actor, time=entry.time, why=event.why, seq=entry.seq)


def say(track: Track, version: int, state: ApprovalState, why: str = "") -> Entry:
    """Asks for approval of a version (`pending`), or gives or refuses it, which needs a reason.

    Raises:
        ConfigError: there is no such version, or no reason. StoreError: a newer Orthoplex wrote to the log.
    """
    if state != "pending" and not why.strip():
        raise ConfigError(f"{track.label}@v{version}: say why it is {state}, with --why")
    entries = track.entries()
    refuse_unknown(track.label, entries)
    commit = replay(track.team, track.name, entries).version(version)
    event = Approval(version=version, manifest_sha256=commit.manifest_sha256, state=state, why=why)
    stands = Stands(label=track.label, version=version, entries=tuple(entries))
    return track.append(event, after=entries[-1], requires=stands)


def judge_word(word: Word | None, version: int, *, needed: bool) -> list[Decision]:
    """Whether a version may be promoted, as far as people say: one that was rejected may not, and one that nobody has
    approved of may not if that is `needed`. None if nothing is needed and nothing was said."""
    if word is None and not needed:
        return []
    state = word.state if word else "pending"
    stops = state == "rejected" or (needed and state != "approved")
    told = word.told if word else "not approved by anybody yet; `orthoplex adapters approve` says so"
    return [
        Decision(
            rule="approval", subject=f"v{version}", measured=state, bound="approved" if needed else None,
            verdict="stop" if stops else "go_on", reason=f"v{version} is {told}",
        )
    ]  # fmt: skip
