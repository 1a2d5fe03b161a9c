"""`orthoplex adapters verify`, `gc`, `rules` and `policy`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.support.command_line import Orthoplex


def test_verify_and_gc(orthoplex: Orthoplex, begun: Any) -> None:
    store = ("--store", begun.root)
    code, out, err = orthoplex("adapters", "verify", *store)
    assert (code, err) == (0, "") and out.startswith("default/stream: 4 entries, 2 versions, 2 files, ")
    orphan = begun.root / begun.track.fresh_prefix() / "file"
    orphan.parent.mkdir()
    orphan.touch()
    assert (
        "would remove 0 versions that no commit names, 0 old indices; 1 more in 24h"
        in orthoplex("adapters", "gc", *store).out
    )
    found = json.loads(orthoplex("adapters", "gc", "--json", *store).out)
    assert found == {
        "done": False, "temporary_files": 0,
        "tracks": [{"track": "default/stream", "deleted_versions": [], "removed": [], "removed_indices": [],
                    "waiting": [str(orphan.parent.relative_to(begun.root))], "given_up": []}],
    }  # fmt: skip
    assert "would remove 1 versions" in orthoplex("adapters", "gc", "--grace", "0s", *store).out and orphan.exists()
    assert "removed 1 versions" in orthoplex("adapters", "gc", "--grace", "0s", "--yes", *store).out
    assert not orphan.exists() and orthoplex("adapters", "verify", "stream", *store).code == 0
    assert "would delete v2" in orthoplex("adapters", "gc", "stream", "--delete", 2, *store).out
    assert len(orthoplex("adapters", "list", *store).out.splitlines()) == 2
    assert "deleted v2" in orthoplex("adapters", "gc", "stream", "--delete", 2, "--yes", *store).out
    assert len(orthoplex("adapters", "list", *store).out.splitlines()) == 1
    (begun.root / begun.state.commits[0].prefix / "training.parquet").write_bytes(b"x")
    code, out, err = orthoplex("adapters", "verify", *store)
    assert code == 1 and "1 fault found" in err and "training.parquet: differs" in err
    assert json.loads(orthoplex("adapters", "verify", "--json", *store).out)[0]["faults"]


def test_rules_and_policy(
    orthoplex: Orthoplex, refused: Callable[..., tuple[int, str]], begun: Any, tmp_path: Path
) -> None:
    store = ("--store", begun.root)
    (tmp_path / "rules.yaml").write_text("promotion: {production: {min_average_accuracy: 0.99}}")
    out = orthoplex("adapters", "rules", "default", "--set", tmp_path / "rules.yaml", *store).out
    assert out == "default: revision 1 of the rules holds now\n"
    shown = json.loads(orthoplex("adapters", "rules", "default", "--json", *store).out)
    text = orthoplex("adapters", "rules", "default", *store).out
    assert text.startswith("# rules of default, revision 1\n") and yaml.safe_load(text) == shown["rules"]
    (tmp_path / "again.yaml").write_text(text)
    assert orthoplex("adapters", "rules", "default", "--set", tmp_path / "again.yaml", *store).code == 0
    assert json.loads(orthoplex("adapters", "rules", "default", "--json", *store).out)["rules"] == shown["rules"]
    assert shown["revision"] == 1 and shown["rules"]["promotion"]["production"]["min_average_accuracy"] == 0.99
    code, said = refused("adapters", "promote", "stream@v2", "--alias", "production", *store)
    assert code == 3 and "is below min_average_accuracy 0.99" in said
    code, said = refused("adapters", "rules", "default", "--set", tmp_path / "rules.yaml", "--expect", 0, *store)
    assert code == 1 and "at revision 2" in said
    made = json.loads(orthoplex("adapters", "policy", "--team", "default", "--role", "gc", "--bucket", "abc").out)
    assert made["Version"] == "2012-10-17" and len(made["Statement"]) == 6
    for grace in ("1", "h", "-1h", "1w"):
        assert refused("adapters", "gc", "--grace", grace, *store)[0] == 2
