"""Options and arguments shared by several commands."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from darl_opensearch.errors import UsageError
from darl_opensearch.settings import InputFile, Settings, setting
from darl_opensearch.settings.secrets import first_key
from darl_opensearch.spans import ago, parse_span

if TYPE_CHECKING:
    from darl_opensearch.cluster.connector import ScorerAddress

Mode = Literal["local", "connector"]

JSON: Any = setting(False, "Print the result as one JSON object.", flag="--json")
CLUSTER: Any = setting(..., "the cluster")
LOGIN: Any = setting(..., "the cluster, whose URL is given otherwise", without=("url",))
MODEL_PLACE: Any = setting(..., "where the model runs")
STREAM: Any = setting("darl-ood", "Name of the OOD data stream.", env="DARL_OOD_STREAM")
DRY_RUN: Any = setting(False, "Print the requests that would change the cluster as JSON, and send none of them.")
THREADS: Any = setting(
    None, "Batches scored in parallel.  [default: the cores available to this process]", least=1, env="DARL_THREADS"
)


class ModelPlace(Settings):
    """Where a model runs: in the cluster, or behind a scorer that the cluster calls."""

    mode: Mode = setting(
        "local", "Run the model in the cluster, or call a scorer (darl serve) through a connector.", env="DARL_MODE"
    )
    scorer_url: str = setting(
        "http://127.0.0.1:8091/v1/rerank",
        "URL of the scorer's rerank route as the cluster's nodes reach it (--mode connector).", env="DARL_SCORER_URL",
    )  # fmt: skip
    scorer_key: str | None = setting(None, "API key of the scorer.", env="DARL_API_KEY", secret=True)
    scorer_key_file: InputFile | None = setting(
        None, "The scorer's file of API keys, of which the first is sent; or set DARL_API_KEY to one. ML Commons "
        "stores it encrypted.", env="DARL_API_KEY_FILE", metavar="FILE",
    )  # fmt: skip
    scorer_timeout: int = setting(
        5, "Seconds to wait for the scorer before the search falls back to its first-stage order.", least=1, most=60,
        env="DARL_SCORER_TIMEOUT",
    )  # fmt: skip

    @property
    def scorer(self) -> ScorerAddress | None:
        """The scorer to call; None if the model runs in the cluster."""
        if self.mode == "local":
            return None
        from darl_opensearch.cluster.connector import ScorerAddress

        key = first_key(self.scorer_key, self.scorer_key_file)
        return ScorerAddress(self.scorer_url, key, answer_seconds=self.scorer_timeout)


bundle_argument = click.argument(
    "bundle", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="DARL_BUNDLE"
)


def parse_pairs(option: str, texts: tuple[str, ...]) -> dict[str, str]:
    """Parse ``KEY=VALUE`` pairs.

    :param option: for messages.
    :raises UsageError: for a text without ``=``, or a key that is set twice.
    """
    pairs = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise UsageError(f"{option} {text!r} has no =", todo=f"write {option} key=value")
        if key.strip() in pairs:
            raise UsageError(f"{option} sets {key.strip()!r} twice", todo="keep one of the two")
        pairs[key.strip()] = value.strip()
    return pairs


def parse_since(text: str) -> datetime | None:
    """Parse ``--since``: a span before now, or a date.

    :raises ValueError: for anything else.
    """
    if (span := parse_span(text)) is not None:
        return ago(span)
    from darl_opensearch.ood.record import parse_timestamp

    try:
        return parse_timestamp(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is neither a span (30m, 12h, 7d, 4w) nor a date (2026-03-01).") from None
