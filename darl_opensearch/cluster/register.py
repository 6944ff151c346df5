"""Registering a bundle: preflight, model, deployment, comparison, pipelines."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster import connector, models, pipelines
from darl_opensearch.cluster.calls import Cluster
from darl_opensearch.cluster.connector import ScorerAddress
from darl_opensearch.cluster.models import FoundModel, OnChunk
from darl_opensearch.cluster.pipelines import Change, PipelineOptions
from darl_opensearch.cluster.preflight import Mode, preflight
from darl_opensearch.cluster.switching import switch
from darl_opensearch.cluster.verify import READY_SECONDS, verify
from darl_opensearch.errors import ClusterError, UsageError
from darl_opensearch.settings import Settings, setting


class NotVerified(ClusterError):
    """The deployed model does not answer like its bundle."""


class RegisterOptions(Settings):
    """Options of ``darl register``.

    :param mode: ``local`` runs the model in the cluster, ``connector`` calls a scorer.
    :param scorer: address of the scorer, for ``connector``.
    """

    mode: Mode = "local"
    scorer: ScorerAddress | None = None
    pipeline: PipelineOptions = PipelineOptions()
    apply_settings: bool = setting(False, "change cluster settings as required", flag="--apply-settings")
    replace: bool = setting(False, "register again, and remove the existing model of this version", flag="--replace")
    verify: bool = setting(
        True, "compare the model's answers with the bundle's before changing a pipeline", flag="--verify/--no-verify"
    )
    deploy_timeout: float = setting(300.0, "seconds to wait for the model to load", least=1, env="DARL_DEPLOY_TIMEOUT")
    switch: bool = setting(
        True, "write the search pipelines; otherwise only deploy the model, for darl release to switch to later",
        flag="--pipelines/--no-pipelines",
    )  # fmt: skip

    def check(self) -> None:
        """Refuse incomplete modes, and removing a model that unchanged pipelines keep using."""
        if self.replace and not self.switch:
            raise UsageError(
                "--replace removes a model that pipelines may use, and --no-pipelines leaves them unchanged",
                todo="omit one of the two, or give the bundle another version",
            )
        if self.mode == "connector" and self.scorer is None:
            raise UsageError("--mode connector requires --scorer-url", todo="pass the URL of darl serve")
        if self.mode == "local" and self.switch and self.pipeline.with_query_id:
            raise UsageError("--with-query-id requires --mode connector", todo="omit it")


@dataclass(frozen=True)
class Registration:
    """Outcome of a registration.

    :param reused: whether the model was already registered, so that nothing was uploaded.
    :param rekeyed: whether its connector was given another API key.
    :param deviation: largest difference from the bundle's own answers; None if not compared.
    :param warning: what of the bundle a model in the cluster does not serve.
    """

    name: str
    version: str
    mode: Mode
    model_id: str
    reused: bool
    rekeyed: bool
    deviation: float | None
    pipelines: Mapping[str, Change]
    settings: Mapping[str, Any]
    removed: tuple[str, ...]
    warning: str = ""

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        return dict(vars(self)) | {"pipelines": dict(self.pipelines), "settings": dict(self.settings)}


def register(
    bundle: Bundle | str | os.PathLike[str],
    cluster: Cluster,
    options: RegisterOptions | None = None,
    *,
    on_chunk: OnChunk | None = None,
) -> Registration:
    """Register a bundle in ML Commons and set up its search pipelines.

    Repeating it changes nothing; after an interruption it finishes the work. Pipelines are written last, so that
    searches never meet a model that does not answer.

    :param bundle: the bundle, or its folder.
    :param on_chunk: called after each uploaded chunk with chunks done and chunks in all.
    :return: the outcome; in a dry run the expected one, with the requests in ``cluster.calls``.
    :raises NotVerified: if the deployed model does not answer like its bundle.
    """
    options = options or RegisterOptions()
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if options.mode == "local":
        models.check_local_size(opened)
    # Rendered once before anything is sent: a wrong option is found before a model is uploaded for nothing.
    pipelines.render_pipelines(opened.card, options.mode, models.PENDING_ID, options.pipeline)
    scorer_url = options.scorer.url if options.scorer else None
    checked = preflight(cluster, options.mode, scorer_url=scorer_url, apply_settings=options.apply_settings)
    if options.switch:
        pipelines.check_ours(cluster, options.pipeline)

    current, stale = _sort_out(cluster, opened, options)
    if current is not None:
        model_id = current.model_id
    elif options.scorer is not None and options.mode == "connector":
        model_id = connector.create_model(cluster, opened, options.scorer)
    else:
        model_id = models.upload(cluster, opened, on_chunk)
    if current is None and not cluster.dry_run:
        _give_way(cluster, opened, options, model_id, stale)
    if fresh := current is None or current.state != "DEPLOYED":
        models.deploy(cluster, model_id, timeout=options.deploy_timeout)
    with _right_key(cluster, opened, options, current) as rekeyed:
        deviation = _compare(cluster, opened, options, model_id, fresh=fresh)

    changes: Mapping[str, Change] = {}
    if options.switch:
        changes = switch(cluster, pipelines.render_pipelines(opened.card, options.mode, model_id, options.pipeline))
    for model in stale:
        models.remove_model(cluster, model)
    return Registration(
        name=opened.card.name,
        version=opened.card.version,
        mode=options.mode,
        model_id=model_id,
        reused=current is not None,
        rekeyed=rekeyed,
        deviation=deviation,
        pipelines=changes,
        settings={setting.name: setting.wanted for setting in checked.changed},
        removed=tuple(model.model_id for model in stale),
        warning=models.find_local_limits(opened.card) if options.mode == "local" else "",
    )


def _sort_out(cluster: Cluster, bundle: Bundle, options: RegisterOptions) -> tuple[FoundModel | None, list[FoundModel]]:
    """Return the model to reuse and those to remove at the end; remove leftovers of an interrupted run."""
    if options.scorer is not None and options.mode == "connector":
        name, digest = models.connector_name(bundle.card), connector.digest_connector(bundle, options.scorer)
    else:
        name, digest = models.local_name(bundle.card), bundle.identity
    named = models.find_models(cluster, name)
    for model in named:
        if model.half_registered and model.digest:
            models.remove_model(cluster, model)
    whole = [model for model in named if not model.half_registered]
    if options.mode == "connector":
        connector.remove_orphans(cluster, bundle, whole)
    if options.replace:
        return None, [model for model in whole if model.digest]
    if other := [model for model in whole if model.digest != digest]:
        differs = "another scorer or configuration" if options.mode == "connector" else "another content"
        raise ClusterError(
            f"{name} is already registered with {differs} (model {other[0].model_id})",
            where=cluster.url,
            todo="give the bundle another version, or run again with --replace",
        )
    return (whole[0] if whole else None), []


def _give_way(
    cluster: Cluster, bundle: Bundle, options: RegisterOptions, model_id: str, stale: Sequence[FoundModel]
) -> None:
    """Remove the new model if another command was registering the same bundle: the one that began first goes on.

    :param stale: models that this command replaces.
    :raises ClusterError: if it was.
    """
    name = (models.local_name if options.mode == "local" else models.connector_name)(bundle.card)
    replaced = {model.model_id for model in stale}
    found = [model for model in models.find_models(cluster, name) if model.digest and model.model_id not in replaced]
    if not found or found[0].model_id == model_id:
        return
    for model in found:
        if model.model_id == model_id:
            models.remove_model(cluster, model)
    raise ClusterError(
        f"another command is registering {name} at the same time (model {found[0].model_id})",
        where=cluster.url,
        todo="run this again when it is done: the same bundle is then not uploaded again",
    )


@contextlib.contextmanager
def _right_key(cluster: Cluster, bundle: Bundle, options: RegisterOptions, model: FoundModel | None) -> Iterator[bool]:
    """Give a model that is reused a connector with the key of the options, and the old one back if that fails.

    The model stays deployed, so that searches are reranked throughout while the scorer accepts both keys.
    """
    scorer = options.scorer if options.mode == "connector" else None
    old = model.connector_id if model is not None else None
    if scorer is None or model is None or old is None or connector.has_key(cluster, bundle, scorer, old):
        yield False
        return
    new = connector.create_connector(cluster, bundle, scorer)
    connector.use_connector(cluster, model.model_id, new, timeout=options.deploy_timeout)
    try:
        yield True
    except BaseException:
        connector.use_connector(cluster, model.model_id, old, timeout=options.deploy_timeout)
        models.delete_connector(cluster, new)
        raise
    models.delete_connector(cluster, old)


def _compare(cluster: Cluster, bundle: Bundle, options: RegisterOptions, model_id: str, *, fresh: bool) -> float | None:
    if not options.verify or cluster.dry_run:
        return None
    try:
        return verify(cluster, bundle, options.mode, model_id, ready_within=READY_SECONDS if fresh else 0.0)
    except ClusterError as err:
        if fresh:
            raise _explained(err, options) from err
    # It is said to be deployed, but after a restart of a node it may not be: load it once more.
    models.deploy(cluster, model_id, timeout=options.deploy_timeout)
    try:
        return verify(cluster, bundle, options.mode, model_id, ready_within=READY_SECONDS)
    except ClusterError as err:
        raise _explained(err, options) from err


def _explained(err: ClusterError, options: RegisterOptions) -> NotVerified:
    if options.scorer is None or options.mode == "local" or err.todo:
        return NotVerified(err.what, where=err.where, todo=err.todo)
    refused = "401" in err.what or "403" in err.what or "api key" in err.what.lower()
    if refused:
        return NotVerified(
            f"the scorer does not accept the API key ({err.what})",
            where=options.scorer.url,
            todo="set DARL_API_KEY to its key, or DARL_API_KEY_FILE to a file that begins with it",
        )
    return NotVerified(
        f"the cluster could not reach the scorer ({err.what})",
        where=options.scorer.url,
        todo="start darl serve where the nodes can reach it, then run this again, or pass --no-verify",
    )
