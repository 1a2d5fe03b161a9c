"""`orthoplex chat`: messages from the terminal, or from lines of standard input, and the answers of adapters."""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.errors import ConfigError, DataError, Interrupted, OrthoplexError
from cluster.leaving import forget
from cluster.words import did_you_mean
from orchestrator.cli import completion
from orchestrator.cli.answering import Device, MaxTokens, repertoire
from orchestrator.cli.common import DEFAULT_STORE, Model, StoreUri, only_our_output, tell

if TYPE_CHECKING:
    from orchestrator.delivery.chatting import Answer, Chat, Seat
    from orchestrator.delivery.predictor import Predictor

QUOTES = '"""'
COMMANDS = {
    "/adapter": "NAME ...    who answers: team/run@v2, or @v2 of the same run; several answer one below the other",
    "/task": "NAME           as which of its tasks; alone: which there are",
    "/system": "TEXT         a system turn before all turns; alone: that of the task again",
    "/reset": "              forget the conversation",
    "/help": "               this",
    "/quit": "               leave; so does Ctrl-D",
}
HELP = "\n".join([f"{name} {what}" for name, what in COMMANDS.items()]) + (
    f"\n{QUOTES} begins and ends a message of several lines; // begins one that starts with a slash"
    "\nCtrl-C stops an answer"
)
Ask = Callable[[str], str]


def chat(
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER…",
            help="team/run@vN; several answer one below the other",
            autocompletion=completion.adapters,
        ),
    ],
    *,
    task: Annotated[str | None, typer.Option("--task", metavar="T", help="the task; default: the newest")] = None,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="a system turn")] = None,
    max_new_tokens: MaxTokens = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0, max=100, help="draw answers; 0 takes the likeliest tokens")
    ] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="draw from the likeliest tokens of this share")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="of what is drawn")] = None,
    store: StoreUri = DEFAULT_STORE,
    model: Model = None,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="print an object per answer")] = False,
) -> None:
    """Talk to adapters. Answers come as they are generated; /help lists what can be typed."""
    from orchestrator.delivery.chatting import Chat, Settings, Shelf

    settings = Settings(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    shelf = Shelf(model=model, device=device, say=tell)

    def predictor(reference: str) -> "Predictor":
        version = repertoire(reference, store).version
        with only_our_output():
            return shelf.predictor(version)

    talk, terminal = Chat(predictor, settings), sys.stdin.isatty()
    talk.use(references, task)
    talk.instruct(system or "")
    screen = Screen(talk, as_json=as_json, terminal=terminal)
    for seat in talk.seats:
        tell(seat.told)
    if code := screen.converse(typed if terminal else piped):
        raise typer.Exit(code)


def typed(prompt: str) -> str:
    """A line that is typed. Raises EOFError at the end of the input."""
    return input(prompt)


def piped(prompt: str) -> str:  # noqa: ARG001
    """A line of standard input. Raises EOFError at its end."""
    if not (line := sys.stdin.readline()):
        raise EOFError
    return line.rstrip("\r\n")


def messages(ask: Ask) -> Iterator[str]:
    """Messages and commands, until the input ends. Empty lines are left out; Ctrl-C gives up what was typed."""
    while True:
        try:
            text = message(ask)
        except EOFError:
            if ask is typed:
                typer.echo()  # Ctrl-D leaves the cursor behind the prompt
            return
        except KeyboardInterrupt:
            if ask is not typed:
                raise Interrupted("interrupted") from None
            forget()
            tell("Ctrl-D or /quit leaves")
            continue
        if text.strip():
            yield text


def message(ask: Ask) -> str:
    """A line, or the lines between two marks of several lines. Raises EOFError at the end of the input."""
    line = ask(">>> ")
    if not line.lstrip().startswith(QUOTES):
        return line
    lines = [line.lstrip().removeprefix(QUOTES)]
    while not lines[-1].rstrip().endswith(QUOTES):
        try:
            lines.append(ask("... "))
        except EOFError:
            raise ConfigError(f"the input ends within a message that {QUOTES} began; end it with {QUOTES}") from None
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    return "\n".join(lines[1:] if len(lines) > 1 and not lines[0] else lines).removesuffix("\n")


class Screen:
    """Carries a chat on: messages are answered on standard output, all else goes to standard error."""

    def __init__(self, chat: "Chat", *, as_json: bool, terminal: bool) -> None:
        self.chat, self.as_json, self.terminal = chat, as_json, terminal
        self.stream = sys.stdout  # also while libraries print elsewhere
        self.code = 0

    def converse(self, ask: Ask) -> int:
        """Answers until the input ends. Returns the exit code: without a terminal that of the first error, else 0."""
        for text in messages(ask):
            try:
                if text.startswith("/") and not text.startswith("//"):
                    if not self.obeyed(text):
                        break
                else:
                    self.answered(text.removeprefix("/") if text.startswith("//") else text)
            except Interrupted:
                raise
            except OrthoplexError as error:
                self.failed(error)
        return 0 if self.terminal else self.code

    def failed(self, error: OrthoplexError) -> None:
        """Says why something was not done; the chat goes on."""
        typer.echo(f"orthoplex: {error}", err=True)
        self.code = self.code or error.exit_code

    def obeyed(self, text: str) -> bool:
        """Carries out a command; False if it is to leave. Raises ConfigError if it is none, or cannot be done."""
        name, _, rest = text.partition(" ")
        rest = rest.strip()
        match name:
            case "/quit":
                return False
            case "/help":
                typer.echo(HELP, err=True)
            case "/reset":
                self.chat.reset()
            case "/system":
                self.chat.instruct(rest)
            case "/task" if rest:
                self.chat.task(rest)
            case "/task":
                for seat in self.chat.seats:
                    tell(f"{seat.reference} has {', '.join(seat.predictor.repertoire.tasks)}")
            case "/adapter":
                self.chat.use(rest.split() or [seat.reference for seat in self.chat.seats])
            case _:
                hint = did_you_mean(name, COMMANDS) or f"there are {', '.join(COMMANDS)}"
                raise ConfigError(f"{name}: no such command; {hint}; // begins a message that starts with a slash")
        if name in ("/task", "/adapter"):
            for seat in self.chat.seats:
                tell(seat.told)
        return True

    def answered(self, text: str) -> None:
        """The answers of all adapters to a message, one below the other. Ctrl-C ends them."""
        for seat in self.chat.seats:
            if len(self.chat.seats) > 1 and not self.as_json:
                self.put(f"{seat.reference}{self.task_of(seat)}:\n")
            try:
                answer = self.answer_of(seat, text)
            except KeyboardInterrupt:
                if not self.terminal:
                    raise Interrupted("interrupted") from None
                forget()
                self.put("\n")
                tell("stopped; the conversation goes on from here")
                return
            except DataError as error:
                self.failed(error)
                if seat.converses and seat.turns:
                    tell("/reset forgets the conversation")
                if self.as_json:
                    self.put_json(seat, text, {"error": str(error)})
                continue
            self.show(seat, text, answer)

    def task_of(self, seat: "Seat") -> str:
        """The task as which an adapter answers, if others answer as another one."""
        names = {each.known.task.name for each in self.chat.seats}
        return f", task {seat.known.task.name}" if len(names) > 1 else ""

    def answer_of(self, seat: "Seat", text: str) -> "Answer":
        """One adapter's answer, shown as it comes unless it is printed as JSON."""
        from orchestrator.console.samples import visible

        def piece(more: str) -> None:
            if not self.as_json:
                self.put(visible(more))

        with only_our_output():
            return self.chat.answer(seat, text, piece)

    def show(self, seat: "Seat", text: str, answer: "Answer") -> None:
        """What is shown of an answer that is there as a whole."""
        told = dataclasses.asdict(answer)
        if self.as_json:
            self.put_json(seat, text, told)
        elif seat.known.generative:
            cut = self.terminal and told["finish_reason"] == "length"
            self.put("   (cut: no more tokens were allowed)\n" if cut else "\n")
        else:
            from orchestrator.console.answering import print_answer

            print_answer({**told, "scores": told["scores"] or None}, generated=False)

    def put_json(self, seat: "Seat", text: str, told: Mapping[str, Any]) -> None:
        """One line for one adapter's answer to a message."""
        whole = {"adapter": seat.reference, "task": seat.known.task.name, "message": text, **told}
        self.put(json.dumps(whole, ensure_ascii=False) + "\n")

    def put(self, text: str) -> None:
        """Writes at once."""
        self.stream.write(text)
        self.stream.flush()
