"""Models in folders whose tokenizers or tasks are at odds with them, each with what is right: refused, or trained."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from orchestrator.config.run import RunConfig, parse_config
from tests.support.tiny_tokenizers import real

SHAPE = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
TARGETS = {"llama": ["o_proj"], "t5": ["wo"], "bert": ["output.dense"]}
TYPES = {"llama": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM", "bert": "LABEL_EMBEDDING"}
Change = Callable[[Any, Path], None]


@dataclass(frozen=True)
class TokenCase:
    """`said` is the message of a refusal, empty if the task is to be trained. `change` alters tokenizer or folder
    before the tokenizer is saved, after the model is."""

    name: str
    said: str = ""
    family: str = "llama"
    kind: str = "byte-level"
    ending: str = ""
    change: Change = lambda _tokenizer, _folder: None
    labels: tuple[str, str] = ("positive", "negative")
    text: str = "a bad film"
    model: dict[str, Any] = field(default_factory=dict)
    adapter: dict[str, Any] = field(default_factory=dict)
    ids: dict[str, int | None] = field(default_factory=dict)


def tokens(**named: str) -> Change:
    """Gives the tokenizer special tokens that the model has no embeddings for."""
    return lambda tokenizer, _folder: tokenizer.add_special_tokens(named)


def word(text: str) -> Change:
    """Adds a word to the tokenizer and not to the model."""
    return lambda tokenizer, _folder: tokenizer.add_tokens([text])


def without(*kinds: str) -> Change:
    """Takes special tokens away from the tokenizer."""

    def change(tokenizer: Any, _folder: Path) -> None:
        for kind in kinds:
            setattr(tokenizer, f"{kind}_token", None)

    return change


def every_text_gets(token: str) -> Change:
    """The tokenizer begins every text with a new token."""

    def change(tokenizer: Any, _folder: Path) -> None:
        from tokenizers.processors import TemplateProcessing

        tokenizer.add_special_tokens({"additional_special_tokens": [token]})
        added = (token, tokenizer.convert_tokens_to_ids(token))
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{token} $A", special_tokens=[added])

    return change


def generation(**keys: Any) -> Change:
    """Writes generation_config.json."""
    return lambda _tokenizer, folder: (folder / "generation_config.json").write_text(json.dumps(keys)) and None


NO_START = {"decoder_start_token_id": None}
ENCODER = ("bert", "wordpiece")
ALIKE = "are the same tokens to the model; rename one of them"
CASES = (
    TokenCase("plain"),
    TokenCase("byt5-long-text", family="t5", kind="byt5", text="so 🙂 läng " * 9),
    TokenCase("eos-appending-tokenizer", ending="bos eos"),
    TokenCase("bos twice", ending="bos", model={"prompt": "<s>Review: {text}\nAnswer:"}),
    TokenCase("space before the answer", model={"prompt": "Review: {text}\nAnswer: "}),
    TokenCase("pad-outside-vocab", ending="bos", change=tokens(pad_token="[PAD]")),
    TokenCase("pad-outside-vocab of an encoder", family="bert", kind="wordpiece", change=tokens(pad_token="[PAD]")),
    TokenCase("pad-outside-vocab, generated", change=tokens(pad_token="[PAD]"), model={"scoring": "generation"}),
    TokenCase("no pad token", change=without("pad")),
    TokenCase("no pad, no end", family="bert", kind="wordpiece", change=without("pad", "eos")),
    TokenCase("no end", r"tokenizer of .* has no eos_token", change=without("eos")),
    TokenCase("end outside", r"every answer ends with the token '<end>'", change=tokens(eos_token="<end>")),
    TokenCase("begin outside", r"every text gets the token '<new>', whose id \d+ is", change=every_text_gets("<new>")),
    TokenCase("label outside", r"task t: .*label 'positive' has the token ' ?positive'", "t5", change=word("positive")),
    TokenCase("text outside", r"task t: .*a text has the token 'film', whose id \d+ is beyond", change=word("film")),
    TokenCase("word outside that nobody writes", change=word("unwritten")),
    TokenCase("padding of the model outside", r"correct pad_token_id 999, or set it", ids={"pad_token_id": 999}),
    TokenCase("no first token", r"has a decoder_start_token_id", "t5", ids=NO_START),
    TokenCase("first token for generation", "", "t5", ids=NO_START, change=generation(decoder_start_token_id=3)),
    TokenCase("first token of texts", "", "t5", ids=NO_START, change=generation(bos_token_id=0)),
    TokenCase("first token outside", r"every answer begins with the token", "t5", ids={"decoder_start_token_id": 999}),
    TokenCase("labels-same-embedding", rf"task t: labels: '😀' and '😭' {ALIKE}", *ENCODER, labels=("😀", "😭")),
    TokenCase("one unknown label", r"task t: label '退款' says nothing", *ENCODER, labels=("good", "退款")),
    TokenCase("labels of one case", rf"'Positive' and 'positive' {ALIKE}", *ENCODER, labels=("Positive", "positive")),
    TokenCase(
        "long labels", r"same tokens .*raise model\.max_length, which cuts them after 6", *ENCODER,
        labels=("a very very very very bad film", "a very very very very bad film was good"), model={"max_length": 6},
    ),
    TokenCase(
        "joined with the text", r"task t: label 'negative' is joined with the text", kind="byte-level, unsplit",
        model={"prompt": "{text}"},
    ),
    TokenCase("prompt too long", r"tokens leave no room for a text", model={"max_length": 6}),
    TokenCase("beyond the positions", r"of an answer are beyond the model's 64 positions", model={"max_length": 63}),
    TokenCase("rank-pattern-no-match", r"'0\.o_prj' matches no", adapter={"rank_pattern": {"0.o_prj": 2}}),
)  # fmt: skip


def made(case: TokenCase, folder: Path) -> RunConfig:
    """Writes model, tokenizer and rows of the case into the folder; the run over them."""
    from copy import deepcopy

    tokenizer = deepcopy(real(case.kind, case.ending))
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 3, "eos_token_id": 1, "bos_token_id": 0}
    torch.manual_seed(0)
    if case.family == "t5":
        config: Any = transformers.T5Config(**{**T5, **ids, "decoder_start_token_id": 3, "bos_token_id": None})
        model: Any = transformers.T5ForConditionalGeneration(config)
    elif case.family == "bert":
        model = transformers.BertModel(config := transformers.BertConfig(**SHAPE, **ids))
    else:
        model = transformers.LlamaForCausalLM(config := transformers.LlamaConfig(**SHAPE, **ids))
    model.save_pretrained(folder)
    content = {**json.loads((folder / "config.json").read_text()), **case.ids}
    (folder / "config.json").write_text(json.dumps(content))
    if "decoder_start_token_id" in case.ids:
        (folder / "generation_config.json").unlink(missing_ok=True)
    case.change(tokenizer, folder)
    tokenizer.save_pretrained(folder)
    for split, count in (("train", 8), ("test", 4)):
        rows = [{"text": f"{case.text} {split} {n}", "label": case.labels[n % 2]} for n in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prompt = "{text}" if case.family == "bert" else "Review: {text}\nAnswer:"
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}
    return parse_config(
        {
            "name": "r",
            "store": str(folder / "store"),
            "model": {
                "name": str(folder), "task_type": TYPES[case.family], "max_length": 40, "prompt": prompt, **case.model,
            },
            "adapter": {"target_modules": TARGETS[case.family], "max_rank": 2, **case.adapter},
            "tasks": [{"name": "t", "source": "files", **files}],
        },
        "test",
    )  # fmt: skip
