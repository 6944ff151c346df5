"""The option by which commands tell a webhook what they did."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from darl_opensearch.cli.output import note
from darl_opensearch.settings import setting
from darl_opensearch.webhook import Webhook, tell

WEBHOOK: Any = setting(
    None,
    "Also POST the result as JSON to this URL, signed with DARL_WEBHOOK_SECRET if set; a failure is only a warning.",
    metavar="URL", env="DARL_WEBHOOK",
)  # fmt: skip


def announce(webhook: Webhook | None, event: str, data: Mapping[str, Any]) -> None:
    """Tell a webhook, and say so where it does not take it.

    :param webhook: where; None: nobody is told.
    """
    if webhook is None:
        return
    found = tell(webhook, event, data)
    if not found.delivered:
        note(f"the webhook could not be notified ({found.reason}, {found.attempts} attempts); nothing else is affected")


@contextlib.contextmanager
def refusal_announced(webhook: Webhook | None, *, dry_run: bool) -> Iterator[None]:
    """Tell a webhook of a release or a rollback that is refused within, and let the refusal pass.

    :param webhook: where; None: nobody is told.
    :param dry_run: whether nothing is in earnest; nobody is told then either.
    """
    from darl_opensearch.cluster.release import ReleaseRefused

    try:
        yield
    except ReleaseRefused as err:
        if not dry_run:
            announce(webhook, "refused", err.event.to_json() | {"message": str(err)})
        raise
