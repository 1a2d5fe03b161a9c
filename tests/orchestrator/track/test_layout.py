"""Where things stand in a store is a promise: stores that exist have them there."""

from fnmatch import fnmatch
from pathlib import Path

from cluster.storage import LocalStore
from orchestrator.log.chain import log_start
from orchestrator.log.entry import NAME
from orchestrator.sweeps.sweep_state import sweep_log
from orchestrator.track import layout
from orchestrator.track.rules import RulesLog
from orchestrator.track.track import Track


def test_keys(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    track = Track(store, "lab", "stream")
    assert (track.root, track.version_root, track.checkpoint_key) == (
        "t/lab/stream", "t/lab/stream/v", "t/lab/stream/checkpoint.safetensors",
    )  # fmt: skip
    assert (
        log_start(track.root) == "t/lab/stream/log/0" and track.index_key(200) == "t/lab/stream/ckpt/0999999800.parquet"
    )
    assert layout.manifest_key("t/lab/stream/v/1") == "t/lab/stream/v/1/manifest.json"
    assert RulesLog(store, "lab").root == "t/lab/.policy" and sweep_log(store, "lab", "s").root == "t/lab/.sweeps/s"
    assert layout.served_prefix(layout.SERVE_ROOT, "base", "lab-stream-v00000001") == "serve/base/lab-stream-v00000001"


def test_no_track_stands_where_rules_or_sweeps_do() -> None:
    assert not NAME.fullmatch(layout.RULES) and not NAME.fullmatch(layout.SWEEPS)


def test_patterns_cover_the_keys(tmp_path: Path) -> None:
    track = Track(LocalStore(tmp_path), "lab", "stream")

    def covers(pattern: str, key: str) -> bool:
        return fnmatch(key, pattern.format(t=layout.team_root("lab")))

    assert covers(layout.ANY_LOG, f"{log_start(track.root)}999999999.json")
    assert covers(layout.ANY_INDEX, track.index_key(200)) and covers(layout.ANY_CHECKPOINT, track.checkpoint_key)
    assert covers(layout.ANY_VERSION, layout.manifest_key(track.fresh_prefix()))
    rules = f"{log_start(layout.rules_root('lab'))}999999999.json"
    assert covers(layout.RULES_LOG, rules) and covers(layout.ANY_RULES, rules)
    assert not covers(layout.ANY_RULES, track.checkpoint_key) and not covers(layout.EVERYTHING, "t/other/x")
