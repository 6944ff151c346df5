"""The environment of a cycle: log, drift tests, cluster, webhook. The cycle itself is ``trainer.cycle``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster.calls import Cluster
from darl_opensearch.cluster.connector import ScorerAddress
from darl_opensearch.cluster.deployment import ClusterDeployment, NoCluster
from darl_opensearch.cluster.item_index import make_first_stage
from darl_opensearch.cluster.release import ReleaseOptions
from darl_opensearch.cluster.switching import read_now
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import UsageError, load
from darl_opensearch.monitor.drift import DriftConfig, drift
from darl_opensearch.ood.store import OodStore, SpoolStore, StreamStore, join_texts
from darl_opensearch.settings.secrets import first_key, read_secret
from darl_opensearch.warm import WarmOptions, warm_index
from darl_opensearch.webhook import Webhook, tell

if TYPE_CHECKING:
    from trainer.cycle.config import CycleConfig
    from trainer.cycle.ports import World

Report = Callable[[str, int, int], object]


@dataclass(frozen=True)
class Surroundings:
    """What a ``cycle.toml`` names outside its own folder.

    :param base: folder that its paths are relative to.
    :param cluster: how to connect; its URL is replaced by that of ``[release]``.
    :param apply_settings: change cluster settings as a release requires.
    :param say: called with each message.
    :param report: called with the step's name, steps done and steps in all.
    """

    config: CycleConfig
    base: Path
    cluster: ClusterOptions
    apply_settings: bool = False
    say: Callable[[str], object] = lambda line: None
    report: Report = lambda what, done, total: None

    def world(self) -> World:
        """Build the environment; only the URLs are checked yet.

        :raises UsageError: for tables that do not fit together.
        """
        ports = load("trainer.cycle.ports", "train")
        table = self.config.release
        if not self.config.log.spool and not table.url:
            raise UsageError("neither [log] spool nor [release] url is set", todo="set one to where the log is")
        settings = DriftConfig.read(self.config.drift, "cycle.toml")
        webhook = Webhook.of(table.webhook or read_secret("DARL_WEBHOOK"))
        cluster = Cluster.open(self._options()) if table.url else None

        def texts(ids: Sequence[str]) -> Mapping[str, str]:
            if cluster is None or not table.index:
                return {}
            return join_texts(cluster.client, table.index, list(ids), where=cluster.url).texts

        def start(bundle: Bundle) -> Any:
            self._check_serving(cluster, bundle)
            if self.config.start.when == "always":
                return ports.StartDecision(True, ("[start] when = always",))
            with self._store(cluster) as store:
                report = drift(store, bundle, settings, since=self.config.log.begin(), texts=texts, report=self.report)
            reasons = report.reasons or (report.why_not,)
            if not report.windows and not self.config.log.spool:
                reasons += ("darl ship sends spooled records to the stream",)
            return ports.StartDecision(report.start_cycle, reasons)

        def notify(event: str, figures: Mapping[str, Any], delivery: str) -> bool:
            if webhook is None:
                return True
            outcome = tell(webhook, event, figures, delivery=delivery)
            if not outcome.delivered:
                self.say(f"the webhook was not notified: {outcome.reason}; the next darl cycle tries again")
            return outcome.delivered

        deployment: NoCluster | ClusterDeployment = NoCluster()
        if cluster is not None:
            warm = partial(self._warm, cluster) if self.config.warm.items else None
            deployment = ClusterDeployment(cluster, self._release(), warm, self.report)
        world: World = ports.World(
            store=lambda: self._store(cluster), start=start, deployment=deployment, item_texts=texts, tell=notify,
            report=self.report, item_search=make_first_stage(cluster, table.index) if cluster and table.index else None,
        )  # fmt: skip
        return world

    def _check_serving(self, cluster: Cluster | None, bundle: Bundle) -> None:
        """Refuse to train for days what could not be released, because someone has switched to another version."""
        pipeline = self.config.release.pipeline
        served = read_now(cluster, pipeline).served if cluster is not None else None
        card = bundle.card
        if cluster is None or served is None or (served.name, served.version) == (card.name, card.version):
            return
        raise UsageError(
            f"pipeline {pipeline} serves {served.label}, but the cycle starts from {card.name} {card.version} "
            f"({bundle.path})", where=cluster.url,
            todo=
                f"switch to {card.name} {card.version} (darl rollback or darl release), or name the serving bundle "
                f"in {self.base / self.config.folder / 'current.json'}",
        )  # fmt: skip

    def _warm(self, cluster: Cluster, bundle: Bundle) -> Mapping[str, Any]:
        """Encode items of the index for a new version."""
        table = self.config.warm
        options = WarmOptions(states=self.base / (table.states or ""), states_bytes=table.states_bytes, int8=table.int8)
        warmed = warm_index(
            bundle, cluster, self.config.release.index, table.items, options, stream=self.config.log.stream,
            on_item=partial(self.report, "encoding items"),
        )  # fmt: skip
        warmed.check(options.states)
        return warmed.to_json()

    def _options(self) -> ClusterOptions:
        return dataclasses.replace(self.cluster, url=self.config.release.url)

    def _store(self, cluster: Cluster | None) -> AbstractContextManager[OodStore]:
        if self.config.log.spool:
            path = self.base / self.config.log.spool
            if not path.is_file():
                raise UsageError("the spool does not exist", where=str(path), todo="correct [log] spool")
            return SpoolStore(path)
        if cluster is None:
            raise UsageError("[release] url is empty", todo="set it to the cluster that holds the log")
        return nullcontext(StreamStore(cluster.client, stream=self.config.log.stream, where=cluster.url))

    def _release(self) -> ReleaseOptions:
        table = self.config.release
        scorer = None
        if table.mode == "connector":
            file = os.environ.get("DARL_API_KEY_FILE")
            key = first_key(os.environ.get("DARL_API_KEY"), Path(file) if file else None)
            scorer = ScorerAddress(table.scorer_url, key)
        return ReleaseOptions(
            pipeline=table.pipeline, mode="connector" if scorer else "local", scorer=scorer, keep=table.keep,
            index=table.index or None, apply_settings=self.apply_settings,
        )  # fmt: skip
