"""`plan` lets pass exactly what a run of two steps can do, over classes of many kinds. `make test-models` runs all."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests import model_table
from trainers.models.checks import UNFIT

ENCODERS = ["bert", "roberta", "mpnet", "xlnet", "albert", "distilbert", "electra", "deberta-v2", "longformer"]
ENCODERS += ["modernbert", "squeezebert"]
DECODERS = ["llama", "gpt2", "gpt_neox", "opt", "bloom", "falcon", "gemma3", "mixtral", "deepseek_v3", "llama4_text"]
DECODERS += ["mamba", "lfm2", "jamba", "granitemoehybrid", "rwkv", "openai-gpt", "bart"]
ENCODER_DECODERS = ["t5", "bart", "mbart", "led", "fsmt", "t5gemma", "switch_transformers"]
REFUSED = [("clip", "LABEL_EMBEDDING"), ("vit", "LABEL_EMBEDDING"), ("bros", "LABEL_EMBEDDING"),
           ("prophetnet", "SEQ_2_SEQ_LM"), ("xlnet", "CAUSAL_LM"), ("bert-generation", "CAUSAL_LM"),
           ("llama4", "LABEL_EMBEDDING"), ("t5", "LABEL_EMBEDDING"), ("roberta", "CAUSAL_LM"),
           ("xlm", "CAUSAL_LM")]  # fmt: skip
RUN = [*((kind, "LABEL_EMBEDDING") for kind in ENCODERS), *((kind, "CAUSAL_LM") for kind in DECODERS),
       *((kind, "SEQ_2_SEQ_LM") for kind in ENCODER_DECODERS)]  # fmt: skip
QUICK = ("bert", "roberta", "llama", "gpt2", "bart", "t5")  # in `make test-fast` too
GENERATIVE = ["gpt2", "jamba", "mamba", "granitemoehybrid", "bart", "t5", "led"]  # also tried on generative tasks

NAMES: dict[str, dict[str, str | tuple[str, ...]]] = {
    "LABEL_EMBEDDING": modeling_auto.MODEL_MAPPING_NAMES,
    "SEQ_2_SEQ_LM": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "CAUSAL_LM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, one_process: None) -> Iterator[Path]:
    """Rows to train on; and one process that is a group of its own, as DeepSpeed asks for."""
    folder = tmp_path_factory.mktemp("data")
    model_table.write_data(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_SIZE": 1}.items():
            patch.setenv(name, str(value))
        yield folder


@pytest.mark.parametrize(
    ("kind", "task_type"), [pytest.param(*each, marks=() if each[0] in QUICK else pytest.mark.slow) for each in RUN]
)
def test_what_plan_lets_pass_runs(kind: str, task_type: str, data: Path) -> None:
    row = model_table.row(CONFIG_MAPPING[kind], task_type, data, generates=kind in GENERATIVE)
    assert row is not None and (row.plan, row.run) == ("yes", "yes"), row
    generates = kind in GENERATIVE and task_type != "LABEL_EMBEDDING"
    assert (row.answers_plan, row.answers_run) == (("yes", "yes") if generates else ("", "")), row


@pytest.mark.parametrize(("kind", "task_type"), REFUSED)
def test_what_cannot_run_is_refused(kind: str, task_type: str, data: Path) -> None:
    """Some could run, and would not do what they are asked for; `plan` then gives the reason."""
    row = model_table.row(CONFIG_MAPPING[kind], task_type, data, generates=False)
    assert row is not None and row.plan == "no" and row.reason.startswith("model."), row
    assert row.run != "yes" or "does not fit" in row.reason or (kind, task_type) in UNFIT, row


def test_forty_classes_are_tried() -> None:
    assert len({*RUN, *REFUSED}) >= 40


def test_the_committed_table_has_no_row_that_disagrees() -> None:
    text = model_table.DOCUMENT.read_text("utf-8")
    assert "| gpt2 | GPT2LMHeadModel | CAUSAL_LM | yes | yes |" in text and "**!**" not in text


@pytest.mark.slow
def test_the_committed_table_has_every_class() -> None:
    """Of the version of transformers that it was made with."""
    text = model_table.DOCUMENT.read_text("utf-8")
    if f"of transformers {transformers.__version__}, and what a run does, with" not in text:
        pytest.skip("it was made with another version of transformers or of its script: make test-models")
    written = {tuple(line.split(" | ")[:3]) for line in text.splitlines()}
    for task_type, names in NAMES.items():
        for kind in {*names} & {*CONFIG_MAPPING.keys()}:
            known = CONFIG_MAPPING[kind].model_type  # GPT-SW3 is a GPT-2
            there = classes(names[kind])
            assert not there or any((f"| {known}", name, task_type) in written for name in there), (kind, task_type)


def classes(names: str | tuple[str, ...]) -> tuple[str, ...]:
    """One or more names of classes that are there: a mapping may name one that is not."""
    return tuple(name for name in ((names,) if isinstance(names, str) else names) if hasattr(transformers, name))
