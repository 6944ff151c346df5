"""The model that training starts from: a base checkpoint, or a bundle's trained model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import CHECKPOINT, Bundle
from darl_opensearch.errors import InputError, UsageError
from trainer.config import Config
from trainer.losses import GRADE_LOSSES
from trainer.models.base import Backbone

BUNDLE = "bundle:"


def load_starting_model(config: Config, base: Path, make: Any) -> Backbone:
    """Load the model ``[model] base``, in evaluation mode.

    :param base: folder that a bundle's path is relative to.
    :param make: the backbone's class.
    :raises DarlError: if it cannot be loaded, or does not fit the configuration.
    """
    head = GRADE_LOSSES[config.loss.grade].head
    if not config.model.base.startswith(BUNDLE):
        model: Backbone = make.from_base(config, head)
        return model
    folder = base / config.model.base.removeprefix(BUNDLE)
    bundle = Bundle.open(folder)
    if not (folder / CHECKPOINT).is_dir():
        raise InputError(
            "the bundle has no checkpoint to go on from", where=str(folder),
            todo="export its run again without --no-checkpoint",
        )  # fmt: skip
    _check_same(config, bundle, head)
    continued: Backbone = make.load(folder / CHECKPOINT, config)
    return continued


def _check_same(config: Config, bundle: Bundle, head: str) -> None:
    """Refuse a configuration whose model would differ from the bundle's."""
    card = bundle.card
    trained = json.loads((bundle.path / CHECKPOINT / "backbone.json").read_text(encoding="utf-8"))
    pairs = {
        "[model] backbone": (config.model.backbone, card.backbone),
        "[model] query_cap": (config.model.query_cap, card.query_cap),
        "[model] item_cap": (config.model.item_cap, card.item_cap),
        "[grades] gains": (tuple(config.grades.scale.gains), tuple(card.scale.gains)),
        "[template]": (config.template.item_template, card.template),
        "head of [loss] grade": (head, trained.get("head", head)),
    }
    if llm := trained.get("llm"):
        for name, bundled in llm.items():
            configured = getattr(config.llm, name)
            pairs[f"[llm] {name}"] = (configured, tuple(bundled) if isinstance(bundled, list) else bundled)
    for half, prompt in (("query", config.model.query_prompt), ("item", config.model.item_prompt)):
        if prompt is not None:
            pairs[f"[model] {half}_prompt"] = (prompt, trained.get("prompts", {}).get(half, ""))
    for name, (configured, bundled) in pairs.items():
        if configured != bundled:
            raise UsageError(
                f"{name} is {configured!r}, and the bundle's is {bundled!r}", where=str(bundle.path),
                todo="keep what the bundle was trained with, or start from a base checkpoint",
            )  # fmt: skip
