"""What an exported folder is told of its tasks."""

from pathlib import Path

import pytest

from cluster.storage import LocalStore
from orchestrator.delivery.asked import asked_of, framed, model_told
from orchestrator.delivery.repertoire import Repertoire, version_of
from orchestrator.track.state import RunState
from tests.support.untrained_runs import WORDS
from trainers.config import ModelConfig
from trainers.data.prompts import Prompt
from trainers.models.base import Backbone
from trainers.models.loading import load_backbone

Run = tuple[RunState, Path]


def base_of(run: Run) -> tuple[Repertoire, Backbone]:
    found = Repertoire(version_of(LocalStore(run[1] / "store"), "team/run"))
    return found, load_backbone(found.run.model)


def test_of_an_encoder(labels_run: Run) -> None:
    """Label words, and their embeddings by the base; tasks that are not asked for are not there."""
    repertoire, base = base_of(labels_run)
    asked = asked_of(repertoire, frozenset("a"), base)
    (how,) = asked.tasks.values()
    assert how["kind"] == "nearest" and how["labels"] == sorted(WORDS[0]) and asked.plain
    assert how["room"] == 16 - 2 and len(asked.vectors["a"]) == 3
    assert asked.kinds == {"nearest"} and not asked.left_out


def test_of_a_decoder(texts_run: Run) -> None:
    """Its prompt stands around labels; a template that the task names comes along, and the tokens that end answers."""
    repertoire, base = base_of(texts_run)
    asked = asked_of(repertoire, frozenset(repertoire.tasks), base)
    assert asked.kinds == {"likeliest", "text"} and not asked.plain
    assert asked.tasks["a"]["prompt"] == ["text : ", " answer :"]
    end, chat = base.tokenizer.eos_token_id, asked.tasks["chat"]
    assert all(answer[-1] == end for answer in asked.tasks["a"]["answers"])  # type: ignore[union-attr, index]
    assert chat["chat"] and "assistant" in str(chat["template"]) and chat["stop"] == ["a"] and chat["new"] == 3
    assert asked.tasks["qa"]["ends"] == [end] and not asked.tasks["qa"]["chat"] and asked.tasks["qa"]["most"] == 63
    assert model_told(base) == {"pad": base.pad_id, "start": None}


def test_a_task_that_cannot_be_asked(texts_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of an older log; the others stay."""
    repertoire, base = base_of(texts_run)
    known = repertoire.tasks["qa"]
    bare = known.description.model_copy(update={"answers": None})
    tasks = {**repertoire.tasks, "qa": type(known)(index=1, task=known.task, description=bare)}
    monkeypatch.setitem(repertoire.__dict__, "tasks", tasks)
    asked = asked_of(repertoire, frozenset([*tasks, "gone"]), base)
    assert {*asked.tasks} == {"a", "chat"}
    assert "how long its answers may be" in asked.left_out["qa"] and "gone" in asked.left_out


def test_special_tokens_that_the_prompt_spells_out() -> None:
    """They are there once."""
    base = load_backbone(ModelConfig(max_length=32))
    first, last = base.tokenizer.cls_token_id, base.tokenizer.sep_token_id
    assert framed(base, Prompt("a ", " b"))["around"] == [[first], [last]]
    spelled = Prompt("[CLS] a ", " b [SEP]")
    told = framed(base, spelled)
    assert told["around"] == [[], []] and told["room"] == 32
    ids = base.tokenizer("[CLS] a x b [SEP]", add_special_tokens=False).input_ids
    assert ids == base.tokenize(["x"], spelled)[0]
