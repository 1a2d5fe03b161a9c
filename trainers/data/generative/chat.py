"""Conversations as text: which template, and where the assistant's turns begin and end in what it writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import ConfigError
from cluster.text_files import at_home
from trainers.data.generative.rows import ROLES, RowFault, Turn, Values
from trainers.data.sources import did_you_mean, lacking, shown

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMED = {"chatml": CHATML}
FROM_TOKENIZER = "default"
HELD = ("system", "developer", "user")  # roles whose text a template must write as it stands


def find_template(task: str, name: str | None, tokenizer: Any) -> str | None:
    """The template that `chat_template` means; None if none is named and the tokenizer has none.

    Raises:
        ConfigError: no template has the name, or the file cannot be read.
    """
    own = getattr(tokenizer, "chat_template", None)
    own = own if isinstance(own, Mapping) else {FROM_TOKENIZER: own} if own else {}
    if name is None:
        return own.get(FROM_TOKENIZER)
    known = {**NAMED, **own}
    if name in known:
        return str(known[name])
    path = at_home(name)
    if lacking(path):
        raise ConfigError(
            f"task {task}: chat_template {shown(name)} is neither a file nor one of {', '.join(known)}"
            f"{did_you_mean(name, known)}"
        )
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"task {task}: chat_template {name!r} cannot be read ({error}); repair the file") from None


@dataclass(frozen=True)
class Rendered:
    """A conversation as text.

    cuts: per trained part, the prefix of `whole` up to its beginning, and that up to its end; None is all of it.
    asked: the prefix from which an answer is generated.
    """

    whole: str
    cuts: list[tuple[str, str | None]]
    asked: str


@dataclass(frozen=True)
class Chat:
    """A tokenizer's way to write conversations."""

    tokenizer: Any
    template: str | None
    system: str | None = None

    def write(self, turns: Sequence[Turn], values: Values, *, asks: bool = False) -> str:
        """The turns as text; with `asks`, up to where the assistant's next turn begins.

        Raises:
            RowFault: there is no template, or it cannot write the turns.
        """
        if self.template is None:
            raise RowFault(
                "is a conversation, and the tokenizer has no chat template",
                f"set chat_template to {' or '.join(NAMED)}, or to a file with a Jinja template",
            )
        try:
            text = self.tokenizer.apply_chat_template(
                list(turns), tools=values.get("tools"), chat_template=self.template, add_generation_prompt=asks,
                tokenize=False, **values.get("chat_template_kwargs", {}),
            )  # fmt: skip
        except Exception as error:  # whatever a template's code raises
            raise self.unwritten(turns, error) from None
        return str(text)

    def unwritten(self, turns: Sequence[Turn], error: Exception) -> RowFault:
        """The fault of turns that the template refuses."""
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        roles = ", ".join(dict.fromkeys(str(turn["role"]) for turn in turns))
        return RowFault(
            f"the chat template cannot write its turns of {roles} ({said[:200]})",
            "change their roles or order, or set chat_template to one that knows them",
        )

    def check_roles(self, turns: Sequence[Turn]) -> None:
        """Raises RowFault for a role that neither is usual nor stands in the template."""
        for index, turn in enumerate(turns):
            role = turn["role"]
            if role not in ROLES and not any(f"{quote}{role}{quote}" in (self.template or "") for quote in "'\""):
                raise RowFault(
                    f"turn {index + 1} has the role {shown(role)}, which the chat template does not know",
                    f"use one of {', '.join(ROLES)}{did_you_mean(role, ROLES)}",
                )

    def check_whole(self, turns: Sequence[Turn], whole: str) -> None:
        """Raises RowFault if the template has left out a turn."""
        for index, turn in enumerate(turns):
            if turn["role"] in HELD and turn["content"].strip() not in whole:
                raise RowFault(
                    f"the chat template drops turn {index + 1}, of {turn['role']}",
                    "set chat_template to one that writes it, or remove such turns",
                )

    def render(self, values: Values, train_on: str) -> Rendered:
        """A row of turns as text.

        Raises:
            RowFault: as above, or no turn is the assistant's.
        """
        before = self.with_system(values.get("prompt") or values["messages"])
        turns = [*before, *values.get("completion", [])]
        self.check_roles(turns)
        whole = self.write(turns, values)
        self.check_whole(turns, whole)
        if "completion" in values:
            asked = self.write(before, values, asks=True)
            return Rendered(whole, [(asked, None)], asked)
        places = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
        if not places:
            raise RowFault(
                "no turn is the assistant's, so no token would be trained",
                "add one, or remove the row",
                "nothing_trained",
            )
        places = places[-1:] if train_on in ("last_assistant", "all") else places
        cuts = [self.around(turns, place, values, whole) for place in places]
        return Rendered(whole, cuts, cuts[-1][0])

    def around(self, turns: Sequence[Turn], place: int, values: Values, whole: str) -> tuple[str, str | None]:
        """The conversation before a turn of the assistant, and with it. The end must be more than the turn's text."""
        last = place == len(turns) - 1
        after = whole if last else self.write(turns[: place + 1], values)
        said = turns[place]["content"].strip()
        if said and after.rstrip().endswith(said) and not turns[place].get("tool_calls"):
            raise RowFault(
                f"the chat template writes no end token after turn {place + 1}, so none would be trained",
                "set chat_template to one that ends the assistant's turns",
                "end_untrained",
            )
        return self.write(turns[:place], values, asks=True), None if last else after

    def with_system(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns, with the task's system turn before them if they have none."""
        if self.system is None or turns[0]["role"] in ("system", "developer"):
            return list(turns)
        return [{"role": "system", "content": self.system}, *turns]
