"""`from orthoplex import Predictor`: answers new texts with a committed stream, as its run's own evaluation does."""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch

from cluster.errors import ConfigError, DataError
from cluster.storage import open_store
from orchestrator.delivery.export import artifacts, base_of, gpu_or_cpu, load_base, refuse_other
from orchestrator.delivery.load import store_uri, warn_of_skipped
from orchestrator.delivery.repertoire import Asked, Known, Repertoire, columns_of, generative, source_row, version_of
from orchestrator.registry.references import Version
from orchestrator.run.workers import told_of
from orchestrator.track.events import AnswersTold
from trainers.config import GREEDY, DecodingConfig
from trainers.data.cleaning import encodes
from trainers.data.examples import Renderer, SourceRow, settings_for
from trainers.data.generative.config import GenerativeTask
from trainers.data.prompts import Prompt
from trainers.data.sources import shown
from trainers.methods.beside import Answers, put_beside, view_of
from trainers.methods.registry import method_for
from trainers.models.base import Backbone
from trainers.models.causal import Causal
from trainers.models.decoding import Piece
from trainers.models.text_to_text import TextToText
from trainers.models.tokens import examples_of
from trainers.objectives.answering import Classifier, Labelled, Told, Writer, Written, nobody
from trainers.objectives.generation import Generation

TooLong = Literal["refuse", "cut"]


class Predictor:
    """The stream up to a version in its base, with all that is needed to answer as in training.

    Label words are encoded by the base alone, before a task is in its weights; prompts, `max_length`, chat templates
    and decoding are those of the run's configuration, how long answers may be is what its log says. Weights, tokenizer
    and configuration of the base are compared with the log, and every file of the stream with its manifest.
    """

    def __init__(
        self,
        reference: str | Version,
        *,
        store: str | None = None,
        model: str | None = None,
        device: str | None = None,
        batch_size: int | None = None,
        max_new_tokens: int | None = None,
        too_long: TooLong | None = None,
        say: Callable[[str], None] | None = None,
        base: Backbone | None = None,
    ) -> None:
        """Loads the base, and puts the stream into it.

        Args:
            reference: team/run@v3, team/run@ALIAS, or a run, whose newest version is taken.
            store: a folder or s3://bucket/prefix. Default: $ORTHOPLEX_STORE, else .orthoplex/store.
            model: the base's folder or hub id, if it has moved.
            device: default: a GPU if there is one.
            batch_size: texts per forward pass. Default: the run's `train.eval_batch_size`.
            max_new_tokens: tokens of an answer at most. Default: as in the run.
            too_long: whether prompts beyond `max_length` are refused or lose their middle. Default: as in the run.
            say: is told what cannot be compared; by default that is a warning.
            base: a loaded base without tasks that others answer over too. It is left as it is: updates are computed
                beside its weights in float32, so that answers can differ in the last digits. Needs a `Version`, and is
                in the place of `model` and `device`.

        Raises:
            ConfigError: no such version or model, or a package that its method needs is not installed.
            IntegrityError: the base is another, or a stored file was changed.
        """
        version = version_of(open_store(store_uri(store)), reference) if isinstance(reference, str) else reference
        if isinstance(reference, str):
            warn_of_skipped(version.track.label, version.entries)
        self.repertoire = Repertoire(version)
        run = self.repertoire.run
        self.batch_size = batch_size or run.train.eval_batch_size
        self.max_new_tokens, self.too_long = max_new_tokens, too_long
        if version.state.not_compared:
            (say or warnings.warn)(version.state.not_compared)
        self._writers: dict[str, Writer] = {}
        if base is None:
            self._own_base(version, model, gpu_or_cpu(device))
        else:
            self._view_of(base, version)

    def _own_base(self, version: Version, model: str | None, device: str) -> None:
        """Loads the base, and puts the tasks into it as training has it."""
        run = self.repertoire.run
        run.adapter.check_installed()
        self.base = load_base(base_of(version, model), version, device)
        method = method_for(self.base.model, run.adapter, getattr(torch, run.model.dtype))
        method.reset(run.adapter)
        self._of_the_base_alone()
        method.extend(artifacts(version, version.stream))
        self.method: Answers = method

    def _view_of(self, base: Backbone, version: Version) -> None:
        """Puts the tasks beside a base that others share."""
        run = self.repertoire.run
        refuse_other(version, run.model.name, base.identity)
        self.base = replace(
            base, model=view_of(base.model), tokenizer=copy.deepcopy(base.tokenizer),
            max_length=run.model.max_length, scoring=run.model.scoring,
        )  # fmt: skip
        self._of_the_base_alone()
        method = method_for(self.base.model, run.adapter, getattr(torch, run.model.dtype))
        self.method = put_beside(method, run.adapter, artifacts(version, version.stream))

    def __repr__(self) -> str:
        return f"Predictor({self.reference!r}, tasks: {', '.join(self.tasks)})"

    @property
    def reference(self) -> str:
        """team/run@vN, the version that answers."""
        return self.repertoire.reference

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks that it has learned, in order."""
        return tuple(self.repertoire.tasks)

    def _of_the_base_alone(self) -> None:
        """Encodes all label words and tries what the model can do, before a task is in the weights."""
        knows = self.repertoire
        self._classifiers = {known.task.name: self._classifier(known) for known in knows.classifying}
        try:
            way = knows.union()
            self._union: Classifier | ConfigError = Classifier.of(self.base, way.words, way.prompt, way.max_length)
        except ConfigError as error:
            self._union = error
        if isinstance(self.base, TextToText) and len(knows.classifying) < len(knows.tasks):
            _ = isinstance(self.base, Causal) and self.base.reading
            self.base.find_out(generates=True)

    def _classifier(self, known: Known) -> Classifier:
        way = self.repertoire.labels_of(known)
        return Classifier.of(self.base, way.words, way.prompt, way.max_length)

    # ------------------------------------------------------------ labels

    def classify(
        self, texts: Sequence[str], *, task: str | None = None, union: bool = False, told: Told = nobody
    ) -> list[Labelled]:
        """The label of each text, its probability, and that of every label.

        Args:
            texts: without their prompt, which is put around them.
            task: whose labels are chosen from; needed if the stream has learned several tasks with other labels.
            union: choose from the labels of all tasks, for texts whose task is not known.
            told: is told how many more texts are done.

        Raises:
            ConfigError: the task is not known, has no labels, or cannot be told. DataError: a text is no string.
        """
        check_list(texts)
        for number, text in enumerate(texts, start=1):
            if not isinstance(text, str) or not encodes(text):
                raise DataError(
                    f"texts: number {number} is {shown(text)}, which is not a string; repair it, or leave it out"
                )
        if union:
            if isinstance(self._union, ConfigError):
                raise self._union
            return self._labelled(self._union, None, texts, told)
        known = self.repertoire.choose(task)
        self.repertoire.labels_of(known)
        return self._labelled(self._classifiers[known.task.name], known.index, texts, told)

    def _labelled(self, by: Classifier, index: int | None, texts: Sequence[str], told: Told) -> list[Labelled]:
        with self.method.answering(index):
            return by.answer(texts, self.batch_size, told)

    # ------------------------------------------------------------ texts

    def generate(self, prompts: Sequence[Asked], *, task: str | None = None, told: Told = nobody) -> list[Written]:
        """The answer to each prompt, generated as the task's `decoding` says.

        Args:
            prompts: strings; conversations, as lists of {"role", "content"}; or rows of the task's format.
            task: as which task they are answered; needed if the stream has learned several.
            told: is told how many more are done.

        Raises:
            ConfigError: the task is not known, generates nothing, or cannot be told. DataError: a prompt does not fit.
        """
        check_list(prompts)
        known = self.repertoire.choose(task)
        columns = columns_of(known.task)
        rows = [source_row(known, columns, "prompts", number, each) for number, each in enumerate(prompts, start=1)]
        return self.answer_rows(rows, known, told)

    def stream(
        self, prompt: Asked, told: Piece, *, task: str | None = None, decoding: DecodingConfig | None = None
    ) -> Written:
        """The answer to one prompt, as `generate` has it; `told` gets its text in pieces while it is generated.

        `decoding` is in the place of the task's; without `max_new_tokens` answers are as long as in the run. Raises as
        `generate`.
        """
        known = self.repertoire.choose(task)
        row, writer = source_row(known, columns_of(known.task), "prompt", 1, prompt), self.writer(known)
        if decoding is not None:
            writer = replace(writer, decoding=decoding, most=decoding.max_new_tokens or writer.most)
        with self.method.answering(known.index):
            return writer.stream(row, told)

    def answer_rows(self, rows: Sequence[SourceRow], known: Known, told: Told = nobody) -> list[Written]:
        """The answers to rows in their plain form. Raises DataError as `generate`."""
        writer = self.writer(known)
        with self.method.answering(known.index):
            return writer.answer(rows, self.batch_size, told)

    def writer(self, known: Known) -> Writer:
        """What answers a generative task."""
        if known.task.name not in self._writers:
            self._writers[known.task.name] = self._made(generative(known), known.description.answers, known)
        return self._writers[known.task.name]

    def _made(self, task: GenerativeTask, told: AnswersTold | None, known: Known) -> Writer:
        base = self.base
        assert isinstance(base, TextToText)
        told = told or self._from_data(task, known)
        plain = task if told.template is None else task.model_copy(update={"chat_template": None})
        settings = settings_for(
            plain, base.tokenizer, base.max_length, vocabulary=base.embeddings, encoder_decoder=base.closes_text
        )
        settings = replace(
            settings,
            template=settings.template if told.template is None else told.template,
            shorten=settings.shorten if self.too_long is None else self.too_long == "cut",
        )
        return Writer(
            base=base, renderer=Renderer(base.tokenizer, settings), most=self.max_new_tokens or told.max_new_tokens,
            ends=told.ends, decoding=task.decoding or GREEDY,
        )  # fmt: skip

    def _from_data(self, task: GenerativeTask, known: Known) -> AnswersTold:
        """How a run of an older Orthoplex, or a trial, answers: its log does not say it, so that data are read."""
        run, objective = self.repertoire.run, Generation()
        try:
            data = objective.prepare(known.task, run.data, run.data_folder, run.train.seed)
            if data.fingerprint != known.description.fingerprint:
                raise DataError("its rows differ from those the run was begun with")
        except DataError as error:
            if self.max_new_tokens:
                return AnswersTold(max_new_tokens=self.max_new_tokens)
            raise ConfigError(
                f"{self.reference}: its log does not say how long answers to {task.name} may be, and the data that do "
                f"cannot be read ({error}); give max_new_tokens"
            ) from None
        return told_of(task, examples_of(self.base, objective.rows(known.task, data, Prompt())), self.base)


def check_list(asked: object) -> None:
    """Raises DataError if it is one string, whose characters would be taken for texts, or one row."""
    if isinstance(asked, str | bytes | Mapping):
        raise DataError(f"{shown(asked)} is one of what is asked for in a list; write [{shown(asked)}]")
