"""The scorer behind Ray Serve, with the routes and the settings of the image.

    serve run examples.ray_serve.scorer:build bundle=/path/to/bundle

Ray starts workers only in images that have its own version of Ray and Python, and the scorer's has no Ray. So each
replica runs, in the cluster's environment, the application that ``darl serve`` runs in the image.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application

from darl_opensearch import Bundle
from darl_opensearch.server import ServerConfig, Service, create_scorer_app
from darl_opensearch.server.run import open_ood_log, spool_path


@serve.deployment
@serve.ingress()
class Scorer:
    """A replica: Ray sends it requests once its model is loaded, and tells why if it cannot be loaded."""

    def __init__(self, bundle: str, settings: Mapping[str, Any]) -> None:
        config, opened = ServerConfig.read(settings), Bundle.open(bundle)
        spool = spool_path(config, opened)
        self.service = Service(config, opened, open_ood_log(config, opened, spool) if spool else None)

    def __serve_build_asgi_app__(self) -> Any:
        return create_scorer_app(self.service)

    async def check_health(self) -> None:
        """Wait for the model; Ray calls this before the first request, and then again and again."""
        while not self.service.ready:
            if self.service.failure is not None:
                raise self.service.failure
            await asyncio.sleep(0.01)


def build(args: Mapping[str, Any]) -> Application:
    """Build the Serve application.

    :param args: ``bundle``, its folder on every machine; ``replicas``, by default 1; and any setting of ``darl serve``
        by its name, such as ``int8`` or ``ood_log``. Each replica reserves ``threads`` cores, by default 2.
    """
    settings = {"threads": 2, **args}
    bundle, replicas = settings.pop("bundle"), settings.pop("replicas", 1)
    config = ServerConfig.read(settings)
    return Scorer.options(
        num_replicas=replicas,
        max_ongoing_requests=config.max_concurrent + config.max_queue,  # beyond these the scorer answers 503
        ray_actor_options={"num_cpus": settings["threads"]},
    ).bind(bundle, settings)
