"""Options and arguments that several commands have."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from darl_opensearch.settings import Settings, setting
from darl_opensearch.spans import ago, parse_span

if TYPE_CHECKING:
    from darl_opensearch.cluster.connector import ScorerAddress

Mode = Literal["local", "connector"]

JSON: Any = setting(False, "Print one JSON object for machines.", flag="--json")
CLUSTER: Any = setting(..., "the cluster")
LOGIN: Any = setting(..., "the cluster, whose URL is given otherwise", without=("url",))
MODEL_PLACE: Any = setting(..., "where the model runs")
STREAM: Any = setting("darl-ood", "Name of the data stream.", env="DARL_OOD_STREAM")
HISTORY: Any = setting("darl-releases", "Index of the releases.", env="DARL_RELEASES")
DRY_RUN: Any = setting(False, "Print the requests as JSON and send none that changes anything.")
PIPELINE: Any = setting("darl", "Name of the search pipeline; NAME-plain goes with it.", env="DARL_PIPELINE")
THREADS: Any = setting(
    None, "Batches scored at the same time.  [default: the cores of this process]", least=1, env="DARL_THREADS"
)
SEED: Any = setting(0, "Seed of everything random.", least=0, env="DARL_SEED")


class ModelPlace(Settings):
    """Where a model runs: in the cluster, or behind a scorer that the cluster asks."""

    mode: Mode = setting(
        "local", "Run the model in the cluster, or ask a scorer (darl serve) from it.", env="DARL_MODE"
    )
    scorer_url: str = setting(
        "http://127.0.0.1:8091/v1/rerank",
        "The scorer's rerank route, as the cluster's nodes see it (--mode connector).",
        env="DARL_SCORER_URL",
    )
    scorer_key: str | None = setting(
        None,
        "The scorer's API key; kept encrypted by ML Commons. Prefer the variable.",
        env="DARL_API_KEY",
        secret=True,
    )
    scorer_timeout: int = setting(
        5,
        "Seconds a search waits for the scorer before it keeps its first-stage order.",
        least=1,
        most=60,
        env="DARL_SCORER_TIMEOUT",
    )

    @property
    def scorer(self) -> ScorerAddress | None:
        """The scorer that the cluster asks; None: the model runs in the cluster."""
        if self.mode == "local":
            return None
        from darl_opensearch.cluster.connector import ScorerAddress

        return ScorerAddress(self.scorer_url, self.scorer_key or None, answer_seconds=self.scorer_timeout)


bundle_argument = click.argument(
    "bundle", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="DARL_BUNDLE"
)


def parse_since(text: str) -> datetime | None:
    """Read ``--since``: a span before now, or a date.

    :raises ValueError: for anything else.
    """
    if (span := parse_span(text)) is not None:
        return ago(span)
    from darl_opensearch.ood.record import parse_timestamp

    try:
        return parse_timestamp(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is neither a span (30m, 12h, 7d, 4w) nor a date (2026-03-01).") from None
