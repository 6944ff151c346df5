"""The option by which commands notify a webhook."""

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
    metavar="URL", env="DARL_WEBHOOK", secret=True, argument=True,
)  # fmt: skip


def announce(webhook: Webhook | None, event: str, data: Mapping[str, Any]) -> None:
    """Notify a webhook, and print a note if that fails.

    :param webhook: None: no notification.
    """
    if webhook is None:
        return
    delivery = tell(webhook, event, data)
    if not delivery.delivered:
        note(
            f"the webhook was not notified ({delivery.reason}, {delivery.attempts} attempts); nothing else is affected"
        )


@contextlib.contextmanager
def refusal_announced(webhook: Webhook | None, *, dry_run: bool) -> Iterator[None]:
    """Notify a webhook of a release or rollback refused within, and re-raise the refusal.

    :param webhook: None: no notification.
    :param dry_run: no notification either.
    """
    from darl_opensearch.cluster.release import ReleaseRefused

    try:
        yield
    except ReleaseRefused as err:
        if not dry_run:
            announce(webhook, "refused", err.event.to_json() | {"message": str(err)})
        raise
