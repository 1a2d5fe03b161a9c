"""The HTTP side: paths and what they answer, as an ASGI application that knows nothing of Ray.

POST /v1/classify  /v1/completions  /v1/chat/completions        GET /v1/models  /health  /metrics
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cluster.errors import ConfigError
from orchestrator.delivery.repertoire import Asked
from orchestrator.serve import bodies
from orchestrator.serve.batches import Batches
from orchestrator.serve.bodies import Envelope, Kind
from orchestrator.serve.counters import Counters
from orchestrator.serve.gate import Gate
from orchestrator.serve.held import Adapters, Held
from orchestrator.serve.problems import Problem, asked_wrongly
from orchestrator.serve.requests import ChatBody, ClassifyBody, CompletionBody, WriteBody, read_body, stand_alone
from orchestrator.serve.settings import ServeSettings
from orchestrator.serve.streams import Channel, events
from orchestrator.serve.ways import Labelling, Prompted, Text, Writing, asked_task, prompted
from trainers.config import GREEDY
from trainers.data.cleaning import encodes

Handler = Callable[[Request], Awaitable[Response]]
LOG = logging.getLogger("orthoplex.serve")


class Service:
    """Answers requests by `adapters`."""

    def __init__(self, adapters: Adapters, settings: ServeSettings, digests: Sequence[str]) -> None:
        self.adapters, self.settings = adapters, settings
        self.counters = Counters()
        self.counters.watch(lambda: len(adapters.loaded), lambda: len(adapters.problems))
        self.batches = Batches(self.counters.batches.observe)
        routes = [
            Route("/health", self.health),
            Route("/metrics", self.metrics),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", answered(self.model)),
            Route("/v1/classify", answered(self.classify), methods=["POST"]),
            Route("/v1/completions", answered(self.complete), methods=["POST"]),
            Route("/v1/chat/completions", answered(self.chat), methods=["POST"]),
        ]
        paths = Starlette(routes=routes, exception_handlers={HTTPException: not_there})
        self.app = Gate(paths, settings, digests, self.counters)

    @property
    def healthy(self) -> bool:
        """Whether the thread that computes is there."""
        return self.batches.thread.is_alive()

    def close(self) -> None:
        """Ends the threads."""
        self.adapters.close()
        self.batches.close()

    # ------------------------------------------------------------ what is asked of the server

    async def health(self, _: Request) -> Response:
        """`behind` counts adapters whose alias names a version that cannot answer; an older one answers."""
        told = {"status": "ok" if self.healthy else "failed", "behind": len(self.adapters.problems)}
        return JSONResponse(told, 200 if self.healthy else 503)

    async def metrics(self, _: Request) -> Response:
        """The counters of this replica."""
        return Response(self.counters.text(), media_type=CONTENT_TYPE_LATEST)

    async def models(self, _: Request) -> Response:
        """All adapters."""
        return JSONResponse({"object": "list", "data": [bodies.model(held) for held in self.adapters.held]})

    async def model(self, request: Request) -> Response:
        """One adapter."""
        return JSONResponse(bodies.model(self.adapters.find(request.path_params["name"])))

    # ------------------------------------------------------------ what is asked of adapters

    async def classify(self, request: Request) -> Response:
        """Labels."""
        body = read_body(ClassifyBody, await request.body())
        stand_alone(body.texts, "input", self.settings.max_texts)
        predictor = self.adapters.find(body.model).predictor
        way = Labelling.of(predictor, body.task, body.union)
        envelope = Envelope.of("classify", predictor)
        found = await asyncio.wrap_future(self.batches.ask(way, checked(body.texts)))
        self.counters.answers.labels(envelope.version).inc()
        return JSONResponse(bodies.labels(envelope, way.task, found), headers=envelope.headers)

    async def complete(self, request: Request) -> Response:
        """Texts that follow prompts."""
        body = read_body(CompletionBody, await request.body())
        stand_alone(body.prompts, "prompt", self.settings.max_texts)
        if body.stream and len(body.prompts) > 1:
            raise Problem(400, "stream: answers one prompt; send one, or leave stream out", param="stream")
        return await self.write("text_completion", body, body.prompts)

    async def chat(self, request: Request) -> Response:
        """The next turn of a conversation."""
        body = read_body(ChatBody, await request.body())
        return await self.write("chat.completion", body, [body.asked])

    async def write(self, kind: Kind, body: WriteBody, asked: Sequence[Asked]) -> Response:
        """Generated answers, whole or as a stream."""
        held = self.adapters.find(body.model)
        way = self.way(body, held)
        known = way.predictor.repertoire.tasks[way.task]
        envelope = Envelope.of(kind, way.predictor)
        channel = Channel() if body.stream else None
        told = None if channel is None else channel.told
        key = "prompt" if kind == "text_completion" else "messages"
        prompts = [prompted(known, each, key, number, told) for number, each in enumerate(asked, start=1)]
        if channel is not None:
            return await self.streamed(envelope, way, prompts, channel, body)
        texts = await asyncio.wrap_future(self.batches.ask(way, prompts))
        self.count(envelope, texts)
        return JSONResponse(envelope.chosen(texts), headers=envelope.headers)

    def way(self, body: WriteBody, held: Held) -> Writing:
        """How a request is answered. Raises ConfigError or Problem if it cannot be."""
        predictor = held.predictor
        known = asked_task(predictor, body.task)
        writer, most = predictor.writer(known), body.most
        if most is not None and most > self.settings.max_tokens:
            raise Problem(
                400, f"max_tokens: {most}, of which an answer may have {self.settings.max_tokens} here; lower it",
                param="max_tokens", code="invalid_value",
            )  # fmt: skip
        decoding = body.decoding(writer.decoding or GREEDY)
        return Writing(predictor, known.task.name, decoding, most or min(writer.most, self.settings.max_tokens))

    async def streamed(
        self, envelope: Envelope, way: Writing, prompts: Sequence[Prompted], channel: Channel, body: WriteBody
    ) -> Response:
        """An answer as events. What is wrong with the prompt is known before the first, and is a plain error."""
        answer = self.batches.ask(way, prompts)
        first = await channel.first(answer)
        answer.add_done_callback(lambda done: None if done.exception() else self.count(envelope, done.result()))
        sent = events(envelope, channel, first, answer, with_usage=body.include_usage)
        return StreamingResponse(sent, media_type="text/event-stream", headers=envelope.headers)

    def count(self, envelope: Envelope, texts: Sequence[Text]) -> None:
        """Counts an answer and its tokens."""
        self.counters.answers.labels(envelope.version).inc()
        for kind in ("prompt_tokens", "completion_tokens"):
            self.counters.tokens.labels(kind.removesuffix("_tokens")).inc(sum(getattr(text, kind) for text in texts))


def checked(texts: Sequence[str]) -> Sequence[str]:
    """The texts. Raises Problem if one has a half of a surrogate pair, which is no character."""
    for number, text in enumerate(texts, start=1):
        if not encodes(text):
            raise Problem(400, f"input: number {number} has half a character; repair it", param="input")
    return texts


def answered(handler: Handler) -> Handler:
    """The handler, with what it raises as an answer."""

    async def safely(request: Request) -> Response:
        try:
            return await handler(request)
        except Problem as problem:
            return refused(problem)
        except ConfigError as error:
            return refused(asked_wrongly(error))
        except Exception:
            LOG.exception("a request to %s failed", request.url.path)
            return refused(Problem(500, "the server failed; its log says how", kind="server_error"))

    return safely


async def not_there(_: Request, error: Exception) -> Response:
    """Paths and methods that there are not."""
    assert isinstance(error, HTTPException)
    return refused(Problem(error.status_code, f"{error.detail}: see /v1/models", headers=error.headers))


def refused(problem: Problem) -> Response:
    """A problem as an answer."""
    return JSONResponse(problem.body(), problem.status, problem.headers)


def in_process(settings: ServeSettings, digests: Sequence[str] = (), say: Callable[[str], None] = LOG.info) -> Service:
    """A service of these adapters, which follows their aliases. Raises as `Adapters`."""
    service = Service(Adapters(settings, say), settings, digests)
    service.adapters.follow()
    return service
