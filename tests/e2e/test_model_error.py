"""A model that raises in the middle of training ends its run at once; the command line end to end."""

import json
import re
from pathlib import Path

import yaml

from cluster.storage import LocalStore
from orchestrator.track.track import Track
from tests.support.nodes import Nodes
from tests.support.tiny_models import MODELS, SHAPE, tokenizer
from tests.support.tiny_run import call

ROWS, BATCH = 40, 8


def save_model(folder: Path) -> Path:
    """A Llama whose dropout is impossible, which shows once it trains."""
    made_by, config, shape = MODELS["llama"]
    words = tokenizer()
    made_by(
        config(
            **{**shape, **SHAPE},
            vocab_size=len(words),
            attention_dropout=1.5,
            pad_token_id=words.pad_token_id,
            eos_token_id=words.eos_token_id,
        )
    ).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def config_file(folder: Path) -> Path:
    for split, rows in (("train", ROWS), ("test", BATCH)):
        texts = [f"{word} water {'and ' * (i % 3)}{i}" for i in range(rows // 2) for word in ("cold", "hot")]
        lines = [json.dumps({"text": text, "label": text.split()[0]}) for text in texts]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    content = {
        "name": "wrong",
        "store": str(folder / "store"),
        "model": {"name": str(save_model(folder / "model")), "task_type": "CAUSAL_LM", "max_length": 16},
        "adapter": {"target_modules": ["q_proj"], "max_rank": 2},
        "train": {"epochs": 1, "batch_size": BATCH, "logging_steps": 1},
        "cluster": {"num_workers": 2},
        "tasks": [{"name": "water", "source": "files"} | {s: str(folder / f"{s}.jsonl") for s in ("train", "test")}],
    }
    path = folder / "wrong.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_model_s_own_error_ends_the_run_and_says_where(nodes: Nodes, tmp_path: Path) -> None:
    run = nodes.run(str(config_file(tmp_path)))
    assert run.returncode == 1, run.stdout + run.stderr
    entries = Track(LocalStore(tmp_path / "store"), "default", "wrong").entries()
    ops = [entry.op for entry in entries]
    assert ops.count("workers") == 1 and "retry" not in ops, ops
    fail = entries[-1].body
    said = re.search(
        r"task 'water': rank [01] failed in train step \d: RuntimeError: dropout probability has to be between 0 "
        r"and 1, but got 1\.5 \((transformers/integrations/sdpa_attention\.py:\d+, \w+)\)", fail["reason"],
    )  # fmt: skip
    assert ops[-1] == "fail" and said is not None, fail
    assert "Traceback" not in run.stdout + run.stderr and said[0] in " ".join((run.stdout + run.stderr).split())
    evidence = fail["evidence"]
    assert (evidence["task"], evidence["place"]) == ("task 'water'", said[1])
    assert "Traceback" in evidence["traceback"] and "sdpa_attention.py" in evidence["traceback"]
    status = call("status", "wrong", "--store", str(tmp_path / "store"), "--json")
    state = json.loads(status.stdout)
    assert (state["state"], state["reason"]) == ("failed", fail["reason"])
