"""Writes docs-lm's model card from `training.json` and `packages.json` beside it.

python -m benchmarks.docs_lm.card FOLDER
"""

import json
import sys
from pathlib import Path

from benchmarks.docs_lm.corpus import held_out
from benchmarks.docs_lm.pretrain import BATCH, CHAT_SHARE, LENGTH, SHAPE
from trainers.data.docstrings import LIBRARIES

ASKED = Path(__file__).with_name("packages.txt")
CARD = Path(__file__).with_name("card.md")


def licences(packages: list[dict[str, str | int]]) -> str:
    """Kinds of licence, with how many packages have each."""
    kinds = {"MIT": 0, "BSD": 0, "Apache": 0, "MPL": 0}
    other = 0
    for package in packages:
        words = str(package["licence"]).replace("Mozilla", "MPL")
        kind = next((kind for kind in kinds if kind.lower() in words.lower()), None)
        if kind:
            kinds[kind] += 1
        else:
            other += 1
    return ", ".join(f"{kind} {count}" for kind, count in [*kinds.items(), ("other open ones", other)])


def main() -> None:
    """See the head of this module."""
    folder = Path(sys.argv[1])
    packages = json.loads((folder / "packages.json").read_text())
    figures = json.loads((folder / "training.json").read_text())
    asked = sorted(name for name in ASKED.read_text().split() if held_out(name))
    values = {
        **SHAPE, **figures, "length": LENGTH, "batch": BATCH, "chat": CHAT_SHARE, "count": len(packages),
        "characters": sum(package["characters"] for package in packages), "libraries": ", ".join(LIBRARIES),
        "held_out": ", ".join(asked), "licences": licences(packages),
    }  # fmt: skip
    (folder / "README.md").write_text(CARD.read_text().format(**values))


if __name__ == "__main__":
    main()
