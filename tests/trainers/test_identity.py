"""A base is told by its weights and by its tokenizer's files, wherever they lie."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.support.tiny_models import tokenizer
from trainers.config import ModelConfig
from trainers.identity import Identity, digests_again, tokenizer_differences, tokenizer_digests, tokenizer_files
from trainers.models.loading import load_tokenizer

TEMPLATE = "additional_chat_templates/short.jinja"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tokenizer with templates, beside files that are not its own."""
    folder = tmp_path / "base"
    words = tokenizer()
    words.chat_template = {"default": "{{ messages }}", "short": "{{ messages[0] }}"}
    words.save_pretrained(folder)
    for name in ("README.md", "config.json", "vocab.txt", "special_tokens_map.json"):
        (folder / name).write_text('{"model_type": "bert"}')
    return folder


def digests(where: str | Path) -> dict[str, str]:
    return tokenizer_digests(str(where), None, load_tokenizer(ModelConfig(name=str(where))))


def test_the_files_of_a_tokenizer(base: Path, tmp_path: Path) -> None:
    """Those that are read, each by its bytes. A vocabulary counts if there is no tokenizer.json, or one that is not
    used; other files and places do not."""
    found = digests(base)
    read = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", TEMPLATE}
    assert found == {name: hashlib.sha256((base / name).read_bytes()).hexdigest() for name in sorted(read)}
    assert set(tokenizer_files(str(base), None)) == {*read, "vocab.txt"}
    moved = Path(shutil.copytree(base, tmp_path / "moved"))
    (moved / "README.md").write_text("another")
    (moved / "vocab.txt").unlink()
    assert digests(moved) == found == digests_again(str(moved), None, found)
    (moved / "vocab.txt").write_text("\n".join(tokenizer().get_vocab()))
    (moved / "tokenizer.json").unlink()
    told = tokenizer_digests(str(moved), None, tokenizer())
    assert "vocab.txt" in told and "tokenizer.json" not in told


def test_a_hub_id_has_the_digests_of_its_folder(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the hub's cache lays it out: links to blobs, below the commit of a revision."""
    from huggingface_hub import constants

    root = tmp_path / "cache/models--team--words"
    shutil.copytree(base, root / "snapshots" / ("c" * 40))
    (root / "refs").mkdir()
    (root / "refs/main").write_text("c" * 40)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert digests_again("team/words", None, digests(base)) == digests(base)


def test_what_differs_is_named() -> None:
    was, now = {"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "9", "d": "4"}
    assert tokenizer_differences(was, now) == [
        "its tokenizer's b has sha256 9, not 2",
        "its tokenizer has no c any more",
        "its tokenizer has a d, which it had not",
    ]
    assert Identity("x", was).differences(Identity("y", was)) == ["its weights have sha256 y, not x"]
    assert len(Identity("x", was).differences(Identity("y", now))) == 4


@pytest.mark.parametrize("unknown", [Identity(), Identity("x"), Identity(None, {"a": "1"})])
def test_what_is_not_known_is_not_compared(unknown: Identity) -> None:
    known = Identity("x", {"a": "1"})
    assert unknown.differences(known) == known.differences(unknown) == known.differences(known) == []


def test_nothing_is_loaded_to_compare_again(base: Path) -> None:
    found = digests(base)
    (base / "tokenizer.json").write_text("no tokenizer")
    (base / TEMPLATE).unlink()
    now = digests_again(str(base), None, found)
    assert tokenizer_differences(found, now) == [
        f"its tokenizer has no {TEMPLATE} any more",
        f"its tokenizer's tokenizer.json has sha256 {now['tokenizer.json']}, not {found['tokenizer.json']}",
    ]
    assert digests_again("./nowhere/at/all", None, found) == {}
    assert json.loads(json.dumps(found)) == found  # as a log keeps it
