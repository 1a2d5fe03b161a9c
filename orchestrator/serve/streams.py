"""An answer as server-sent events, piece by piece while it is generated."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from orchestrator.serve.bodies import Envelope, Json, usage
from orchestrator.serve.problems import Problem
from orchestrator.serve.ways import Text
from trainers.models.decoding import UnheardError

LOG = logging.getLogger("orthoplex.serve")
DONE = "data: [DONE]\n\n"


@dataclass(eq=False)
class Channel:
    """Pieces of one answer on their way from the thread that computes to the one that sends. To be made in the latter.

    Once `gone` is set, the next piece ends the computation.
    """

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    queue: "asyncio.Queue[str | None]" = field(default_factory=asyncio.Queue)
    gone: bool = False

    def told(self, piece: str) -> None:
        """Called by the thread that computes. Raises UnheardError if nobody waits any more."""
        if self.gone:
            raise UnheardError
        self.loop.call_soon_threadsafe(self.queue.put_nowait, piece)

    def ended(self, _: "Future[list[Text]]") -> None:
        """Called when the answer is whole, or has failed."""
        self.loop.call_soon_threadsafe(self.queue.put_nowait, None)

    async def first(self, answer: "Future[list[Text]]") -> str | None:
        """The first piece; None if there is none. Raises what the answer ends with if it fails before that."""
        answer.add_done_callback(self.ended)
        try:
            piece = await self.queue.get()
        except asyncio.CancelledError:
            self.leave(answer)
            raise
        if piece is None:
            answer.result()
        return piece

    def leave(self, answer: "Future[list[Text]]") -> None:
        """Nobody waits any more."""
        self.gone = True
        answer.cancel()


async def events(
    envelope: Envelope, channel: Channel, first: str | None, answer: "Future[list[Text]]", *, with_usage: bool
) -> AsyncIterator[str]:
    """The events of an answer whose first piece is there."""
    try:
        yield event(envelope.piece("", first=True)) if envelope.kind == "chat.completion" else ""
        piece, sent = first, ""
        while piece is not None:
            sent += piece
            yield event(envelope.piece(piece))
            piece = await channel.queue.get()
        try:
            (text,) = answer.result()
        except Exception:
            LOG.exception("a stream failed")
            yield event(Problem(500, "the answer failed", kind="server_error").body())
            return
        yield event(envelope.piece(text.text.removeprefix(sent), text.finish_reason))
        if with_usage:
            yield event(envelope.around({"choices": [], "usage": usage([text])}, chunk=True))
        yield DONE
    finally:
        channel.leave(answer)


def event(content: Json) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
