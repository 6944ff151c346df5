"""What ``darl setup`` can be told."""

from __future__ import annotations

import re
from typing import Literal, get_args

from darl_opensearch.cluster.history import INDEX
from darl_opensearch.errors import UsageError
from darl_opensearch.ood.stream import STREAM
from darl_opensearch.settings import Settings, setting

Part = Literal["ism", "monitors", "roles", "dashboards"]
PARTS: tuple[Part, ...] = get_args(Part)
_ID = re.compile(r"[A-Za-z0-9-]+")  # an underscore would end the prefix of a saved object's id


class SetupOptions(Settings):
    """Options of ``darl setup``."""

    stream: str = setting(STREAM, "name of the OOD data stream", env="DARL_OOD_STREAM")
    history: str = setting(INDEX, "index that holds the release history", env="DARL_RELEASES")
    index: tuple[str, ...] = setting((), "item index, or pattern, that the roles give access to", env="DARL_INDEX")
    retention_days: int = setting(
        90, "days that records of the OOD log are kept after their backing index was rolled over", least=1, most=3650,
        env="DARL_RETENTION_DAYS",
    )  # fmt: skip
    share_limit: float | None = setting(
        None, "share OOD that raises an alert.  [default: twice the records' alpha]", above=0, below=1,
        env="DARL_SHARE_LIMIT",
    )  # fmt: skip
    drift_z: float = setting(
        4.0, "standard errors by which the share OOD of a day must differ from the week before to raise an alert",
        above=0, env="DARL_DRIFT_Z",
    )  # fmt: skip
    not_reranked_limit: float = setting(
        0.01,
        "share of searches without reranking that raises an alert",
        least=0,
        below=1,
        env="DARL_NOT_RERANKED_LIMIT",
    )
    lag_minutes: int = setting(
        60, "minutes without a request record that raise an alert", least=1, most=100_000, env="DARL_LAG_MINUTES"
    )
    min_requests: int = setting(
        30, "requests below which a share OOD raises no alert", least=1, env="DARL_ALERT_MIN_REQUESTS"
    )
    channel: str | None = setting(
        None, "id of the notification channel that alerts are sent to.  [default: alerts are only listed]",
        env="DARL_ALERT_CHANNEL",
    )  # fmt: skip
    data_source: str | None = setting(
        None, "id of the data source in Dashboards that is this cluster.  [default: Dashboards' own cluster]",
        env="DARL_DATA_SOURCE",
    )  # fmt: skip
    workspace: str | None = setting(None, "id of the workspace in Dashboards to import into", env="DARL_WORKSPACE")

    def check(self) -> None:
        """Refuse ids that saved objects could not be named by."""
        for flag, value in (("--data-source", self.data_source), ("--workspace", self.workspace)):
            if value is not None and not _ID.fullmatch(value):
                raise UsageError(
                    f"{flag} {value!r} is not an id", todo="use letters, digits and '-', as in its address"
                )
