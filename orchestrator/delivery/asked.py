"""How an exported folder asks each of its tasks, as plain data: `tasks.json`, which its `predict.py` reads.

Whatever needs the run's own code is worked out here, with the base alone: the tokens that a tokenizer adds, those in
which prompt and answer meet, the ids of label words as answers, and how long prompts and answers may be.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from cluster.errors import ConfigError
from orchestrator.delivery.repertoire import Known, Repertoire, generative
from orchestrator.log.entry import JsonLike
from trainers.config import GREEDY
from trainers.data.generative.asking import asking_text
from trainers.data.prompts import Prompt
from trainers.models.base import Backbone
from trainers.models.causal import Causal
from trainers.models.seq2seq import Seq2Seq
from trainers.models.text_to_text import TextToText
from trainers.models.words import frame_of, seam, twice, usable

How = dict[str, JsonLike]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Per task, how it is asked; of an encoder also the label words as the base embeds them. `left_out` has tasks that
    cannot be asked in this way, each with the reason."""

    tasks: Mapping[str, How]
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of its tasks."""
        return frozenset(str(how["kind"]) for how in self.tasks.values())

    @property
    def plain(self) -> bool:
        """Whether no text stands in a prompt."""
        return all(how.get("prompt", ["", ""]) == ["", ""] for how in self.tasks.values())


def asked_of(repertoire: Repertoire, names: frozenset[str], base: Backbone) -> Asked:
    """How the named tasks are asked. To be called before any task is in the weights."""
    tasks: dict[str, How] = {}
    vectors: dict[str, Tensor] = {}
    left_out = {name: "the log does not describe it" for name in names if name not in repertoire.tasks}
    for name, known in repertoire.tasks.items():
        if name not in names:
            continue
        try:
            tasks[name] = written(base, known) if known.generative else labelled(base, repertoire, known)
            if not isinstance(base, TextToText):
                vectors[name] = embedded(base, repertoire, known)
        except ConfigError as error:
            tasks.pop(name, None)
            left_out[name] = str(error)
    return Asked(tasks=tasks, vectors=vectors, left_out=left_out)


def embedded(base: Backbone, repertoire: Repertoire, known: Known) -> Tensor:
    """Unit embeddings (C, D) of a task's label words by the base."""
    way = repertoire.labels_of(known)
    found = base.cut_at(way.max_length).encode_labels(way.words, way.prompt)
    assert isinstance(found, Tensor)
    return found.cpu().contiguous()


def labelled(base: Backbone, repertoire: Repertoire, known: Known) -> How:
    """How a text gets a label. Raises ConfigError if the log or the tokenizer lacks what that takes."""
    way = repertoire.labels_of(known)
    base = base.cut_at(way.max_length)
    told: How = {"labels": [*way.words], "prompt": [way.prompt.before, way.prompt.after], **framed(base, way.prompt)}
    if not isinstance(base, TextToText):
        return {"kind": "nearest", **told}
    answers = base.encode_answers(way.words, way.prompt)
    dropped = seam(base.tokenizer, way.prompt, way.words).dropped if isinstance(base, Causal) else 0
    told |= {"dropped": dropped, "answers": answers}
    if base.scoring == "likelihood":
        return {"kind": "likeliest", **told}
    generated: How = {"new": max(map(len, answers)), "ends": [base.tokenizer.eos_token_id], "beams": 1}
    return {"kind": "named", **told, **generated, "said": base.text(answers)}


def framed(base: Backbone, prompt: Prompt) -> How:
    """The token ids around a text's own, how many there may be of these, and what stands for a text without any.
    Special tokens that the prompt spells out are there once."""
    own, frame = base.tokenizer, frame_of(base.tokenizer)
    first, last = twice(own, frame, prompt)
    around = [[] if first else [*frame.before], [] if last or not base.closes_text else [*frame.after]]
    nothing = usable([own.eos_token_id, own.sep_token_id, own.bos_token_id, own.unk_token_id], base.embeddings)
    return {"around": around, "room": base.max_length - sum(map(len, around)), "nothing": [nothing]}


def written(base: Backbone, known: Known) -> How:
    """How a text is answered with a text. Raises ConfigError if the log does not say it, or plain text asks nothing."""
    task, told = generative(known), known.description.answers
    if told is None:
        raise ConfigError("the log does not say how long its answers may be")
    assert isinstance(base, TextToText)
    how, limit = task.decoding or GREEDY, task.max_length or base.max_length
    chat, cuts = "messages" in asking_text(task.form, "a"), task.too_long == "cut"
    if not base.closes_text:
        cuts = cuts and not chat
        limit = limit - limit // 4 if cuts else limit - 1
    end = base.tokenizer.eos_token_id
    return {
        "kind": "text", "chat": chat, "special": base.closes_text, "template": told.template,
        "system": [] if task.system is None else [{"role": "system", "content": task.system}],
        "most": limit, "cut": cuts, "new": told.max_new_tokens, "ends": sorted({end, *told.ends}), "beams": how.beams,
        "stop": [*how.stop], "temperature": how.temperature, "top_k": how.top_k or 0, "top_p": how.top_p,
    }  # fmt: skip


def model_told(base: Backbone) -> How:
    """What generation needs to know of the model: the padding, and the decoder's first token."""
    start = base.start if isinstance(base, Seq2Seq) else None
    return {"pad": base.pad_id, "start": start}
