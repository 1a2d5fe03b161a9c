"""Padding of an encoder-decoder's batches by what rows are ordered by, on folders of SuperNI tasks.

    python benchmarks/padding.py DATA_DIR [BATCH]

Prints, per task, the share of tokens of a batch that are padding: prompts and answers together.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from trainers.data.batching import epoch_batches
from trainers.models.loading import resolve_name

MOST = 512  # tokens of a prompt; longer ones are left out


def padding(lengths: Sequence[np.ndarray], batches: Sequence[np.ndarray]) -> float:
    """1 − tokens / tokens of the padded batches."""
    padded = sum(each[batch].max() * len(batch) for each in lengths for batch in batches)
    return float(1 - sum(each.sum() for each in lengths) / padded)


def main(folder: Path, batch: int) -> None:
    """One line per task."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_name("minilm"))
    for path in sorted(folder.glob("*/train.json")):
        told = json.loads(path.read_text("utf-8"))
        texts = [f"{told['Definition'][0]} {each['input']}" for each in told["Instances"]]
        said = [each["output"] if isinstance(each["output"], str) else each["output"][0] for each in told["Instances"]]
        prompts, answers = (np.array([*map(len, tokenizer(part)["input_ids"])]) for part in (texts, said))
        prompts, answers = prompts[prompts <= MOST], answers[prompts <= MOST]
        then = np.lexsort((answers, prompts // 16)).argsort()
        keys = {"random": 0 * prompts, "prompt": prompts, "both": prompts + answers, "prompt, then answer": then}
        found = [
            f"{name} {padding((prompts, answers), epoch_batches(key, batch, 0, 0)):.1%}" for name, key in keys.items()
        ]
        print(f"{path.parent.name[:24]:24} {len(prompts):5} rows  {'  '.join(found)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 16)
