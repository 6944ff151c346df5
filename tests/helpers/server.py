"""An application without a socket."""

from __future__ import annotations

import time
import warnings
from contextlib import contextmanager

from darl_opensearch.server import ServerConfig, Service, create_scorer_app

with warnings.catch_warnings():  # Starlette would rather have a successor of httpx; httpx does
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient


class RecordingLog:
    """Takes the place of the OOD log."""

    def __init__(self):
        self.offered, self.closed = [], False

    def offer(self, request):
        self.offered.append(request)
        return True

    def counters(self):
        return {"offered": len(self.offered), "dropped_queue": 0, "queued": 0}

    def close(self):
        self.closed = True


@contextmanager
def running(bundle, *, ready=True, **settings):
    """A client of an application that serves a bundle."""
    service = Service(ServerConfig(**({"threads": 2} | settings)), bundle, RecordingLog())
    with TestClient(create_scorer_app(service)) as client:
        client.service, client.log = service, service._ood_log
        while ready and not service.ready:
            if service.failure:
                raise service.failure
            time.sleep(0.005)
        yield client
