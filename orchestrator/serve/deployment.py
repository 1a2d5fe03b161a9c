"""The Ray Serve application: `serve run orchestrator.serve.deployment:application adapters=a/b@live,a/c@v1`.

    applications:
      - name: orthoplex
        route_prefix: /
        import_path: orchestrator.serve.deployment:application
        args: {adapters: [team/run@production], store: s3://bucket/prefix}

Importing this imports Ray Serve, and no torch.
"""

import logging
import os
from collections.abc import Mapping, Sequence

from pydantic import ValidationError
from ray import serve
from starlette.types import ASGIApp

from cluster.errors import ConfigError
from cluster.session import on_this_machine
from orchestrator.log.entry import JsonLike
from orchestrator.serve.settings import KEYS, ServeSettings, key_digests, on_gpu

NAME = "orthoplex"


class Replica:
    """A replica: one base, and all adapters over it."""

    def __init__(self, settings: Mapping[str, JsonLike], digests: Sequence[str]) -> None:
        """`settings` are those of ServeSettings; `digests` of API keys. Raises as `Adapters`."""
        from orchestrator.serve.app import in_process

        listen_on_loopback()
        if os.environ.get("OMP_NUM_THREADS", "").isdigit():  # which Ray sets to the replica's cores
            import torch

            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        self.service = in_process(
            ServeSettings.model_validate(settings), digests, logging.getLogger("ray.serve").warning
        )

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """What Ray Serve sends requests to."""
        return self.service.app

    def standing(self) -> dict[str, tuple[str, str | None]]:
        """By adapter, the version that answers, and what is wrong with the one that should, if so."""
        return {held.name: (held.predictor.reference, held.problem) for held in self.service.adapters.held}

    def check_health(self) -> None:
        """Raises RuntimeError if the replica cannot answer any more, so that Ray replaces it."""
        if not self.service.healthy:
            raise RuntimeError("the thread that computes has ended")


def listen_on_loopback() -> None:
    """Ray Serve has each replica listen to other deployments on every interface. If all of Ray is on this machine, the
    replica of this process, which has not begun to, does so on loopback."""
    from ray.serve._private import replica

    if on_this_machine():
        listen = replica.add_port_to_grpc_server
        replica.add_port_to_grpc_server = lambda server, _: listen(server, "127.0.0.1:0")


ADAPTERS = serve.deployment(
    serve.ingress()(Replica), name="Adapters", max_constructor_retry_count=1, graceful_shutdown_timeout_s=60
)


def application(arguments: Mapping[str, JsonLike]) -> serve.Application:
    """The application of these arguments, see ServeSettings. API keys are those of the environment of this process.

    Raises:
        ConfigError: an argument is wrong, or there are no API keys and `open` is not set.
    """
    try:
        settings = ServeSettings.model_validate(arguments)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"serve: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    digests = key_digests(os.environ)
    if not digests and not settings.open:
        raise ConfigError(
            f"serve: ${KEYS} is not set; set it to keys with commas between them, or pass open: true if nothing but "
            "trusted clients reaches the port"
        )
    bound = ADAPTERS.options(
        max_ongoing_requests=2 * settings.max_concurrent + 16,  # beyond `max_concurrent` the replica itself says 429
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": int(on_gpu(settings.device))},
    )
    return bound.bind(settings.model_dump(mode="json"), list(digests))
