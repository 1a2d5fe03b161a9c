"""The decoder that ships: it loads offline, it knows how docstrings read, and its card says what it was trained on."""

import importlib.util
import json
import math
import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks.docs_lm import card, corpus
from trainers.config import ModelConfig
from trainers.data.docstrings import LIBRARIES, docstring_rows
from trainers.folders import model_folder
from trainers.models.causal import Causal
from trainers.models.loading import load_backbone, resolve_name

FOLDER = Path(resolve_name("docs-lm"))
PACKAGES = json.loads((FOLDER / "packages.json").read_text())
UNSEEN = '''def percentile(values, share):
    """Return the value below which a given share of the values falls.

    Parameters
    ----------
    values : array_like
        Input values.
    share : float
        Share of the values, between 0 and 1.

    Returns
    -------
    float
        The value.
    """'''


def test_it_loads_as_a_causal_model_and_reads_docstrings() -> None:
    backbone = load_backbone(ModelConfig(name="docs-lm", task_type="CAUSAL_LM", dtype="bfloat16"))
    assert isinstance(backbone, Causal)
    ids = torch.tensor([backbone.tokenizer(UNSEEN)["input_ids"]])
    with torch.no_grad():
        loss = float(backbone.model(input_ids=ids, labels=ids).loss)
    assert math.exp(loss) < 6, "the held-out perplexity on the card is 5.2; weights or tokenizer are not those"


def test_its_tokenizer_gives_every_text_back_and_has_a_chat_template() -> None:
    tokenizer = load_backbone(ModelConfig(name="docs-lm", task_type="CAUSAL_LM")).tokenizer
    text = "def f(x, y=12):\n        return x  # é 你 \U0001f600\n\n\t- a  b"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    shown = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert shown == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    assert len(tokenizer("<|im_start|><|im_end|><|pad|>")["input_ids"]) == 3


def test_a_folder_of_its_name_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("docs-lm").mkdir()
    assert model_folder("docs-lm") is None


def test_it_is_small_and_its_card_is_what_the_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (FOLDER / "model.safetensors").stat().st_size < 12e6
    for name in ("training.json", "packages.json"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    monkeypatch.setattr("sys.argv", ["card", str(tmp_path)])
    card.main()
    assert (tmp_path / "README.md").read_text() == (FOLDER / "README.md").read_text()


def test_no_package_that_tasks_draw_from_was_read_and_all_are_openly_licensed() -> None:
    names = [package["name"] for package in PACKAGES]
    assert len(names) > 250
    assert not [name for name in names if corpus.held_out(name)]
    assert all(corpus.held_out(name) for name in LIBRARIES)
    assert all(corpus.OPEN.search(package["licence"]) for package in PACKAGES)


@pytest.fixture
def protected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects the rows of one built-in task alone: shingles of all libraries take a minute."""
    _, train, test = docstring_rows("library", seed=0)
    marks = frozenset(mark for text, _ in [*train, *test] for mark in corpus.shingles(text))
    monkeypatch.setattr(corpus, "protected", lambda: marks)


def wheel(folder: Path, name: str, source: str, fields: str = "License-Expression: MIT") -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Name: {name}\nVersion: 1.0\n{fields}\n\nA readme.")
        archive.writestr(f"{name}/__init__.py", source)
    return path


@pytest.mark.usefixtures("protected")
def test_a_passage_that_a_task_draws_from_is_dropped_from_another_package(tmp_path: Path) -> None:
    _, _, test = docstring_rows("library", seed=0)
    copied = next(text for text, _ in test if "_" not in text and len(text.split()) > 14)
    own = "Do something that no library under test has ever documented in these very words, I hope."
    source = f"def a():\n    {copied + '.'!r}\n\ndef b(x: int = 1) -> str:\n    {own!r}\n"
    package, texts = corpus.documents(wheel(tmp_path, "somebody", source))
    assert package is not None
    assert [text for text in texts if own in text] == [f'def b(x: int=1) -> str:\n    """{own}\n    """']
    assert not [text for text in texts if copied in text]


@pytest.mark.usefixtures("protected")
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("numpy", "License-Expression: MIT"),
        ("networkx", "License-Expression: BSD-3-Clause"),  # held out by hash
        ("somebody", "License-Expression: GPL-3.0-only"),
        ("somebody", "Classifier: License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)"),
        ("somebody", "License: Proprietary"),
        ("somebody", "Summary: says nothing"),
    ],
)
def test_what_is_held_out_or_not_openly_licensed_is_not_read(tmp_path: Path, name: str, fields: str) -> None:
    assert corpus.documents(wheel(tmp_path, name, '"""A module docstring long enough to be read."""', fields)) == (
        None,
        [],
    )


@pytest.mark.parametrize("name", ["peft", "click", "moto", "accelerate"])
def test_no_row_of_the_tasks_stands_in_a_package_that_was_read(name: str) -> None:
    """On what is installed here: the docstrings that the corpus takes contain no test text of a built-in task."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{name} is not installed")
    assert name in {package["name"].lower() for package in PACKAGES}
    _, _, test = docstring_rows("section", seed=0)
    marks = frozenset(mark for text, _ in test for mark in corpus.shingles(text))
    files = sorted(Path(spec.submodule_search_locations[0]).rglob("*.py"))[:60]
    taken = [text for file in files for text in corpus.definitions(file.read_text(errors="replace"))]
    assert taken
    kept = [text for text in taken if not marks & set(corpus.shingles(text))]
    joined = " ".join(" ".join(text.split()) for text in kept)
    assert not [text for text, _ in test if len(text.split()) > corpus.SHINGLE and text in joined]
