"""Stage 3: train on newly judged samples with a replay of old ones."""

from __future__ import annotations

from darl_opensearch.records.judgments import JudgedQuery
from trainer.config import Augment, Config
from trainer.stages.full_stage import choose_loss, descend, dev_rps, fit_settings
from trainer.stages.registry import STAGES, Context, Outcome, Stage, require_key
from trainer.stages.robust import find_groups
from trainer.training_data.mixing import Replayed
from trainer.training_data.source import JudgedSource


@STAGES.register(
    "augmented",
    cite="Rolnick et al. 2019, arXiv:1811.11682 (replay); Li et al. 2018, arXiv:1802.01483 (L2 to the start)",
    table=Augment,
)
class AugmentedStage(Stage):
    """Train on new samples with a replay of old ones, near the initial weights

    Stops by the mean of the RPS on ID and OOD dev queries, and both sets decide with equal weight whether the
    weights are kept. If an interpolation follows, that decides; after refit, the gate does.
    """

    judged_on = ("dev", "ood_dev")

    def check(self, config: Config) -> None:
        """Require new samples."""
        require_key(config.data.new, "augmented", "[data] new", "set it to the judgments of the new samples")

    def run(self, context: Context) -> Outcome:
        """Train."""
        config, data, own = context.config, context.data, context.config.augment
        new, old = (
            JudgedSource(queries, data.items, cap=config.stages.items_per_query, seed=context.seed)
            for queries in (data.new, data.train)
        )
        source = Replayed(new, old, ratio=own.replay, seed=context.seed)
        replayed = data.train if source.replayed and config.loss.groups else []
        weights = [1.0] * len(data.new) + [source.replayed / len(data.train)] * len(replayed)
        loss = choose_loss(context.objective, find_groups(config.loss, [*data.new, *replayed], weights))
        settings = fit_settings(
            config, epochs=own.epochs, learning_rate=own.learning_rate, head_learning_rate=own.head_learning_rate,
            rate_key="[augment] learning_rate", ema=own.ema, l2_to_start=own.l2_to_start,
        )  # fmt: skip
        parts: dict[str, list[JudgedQuery]] = {"dev": data.dev}
        if data.ood_dev:
            parts["ood_dev"] = data.ood_dev
        history = descend(context, loss, dev_rps(context, parts), settings, source)
        decided = "interpolate" if "interpolate" in context.later else ""
        if not decided and "refit" in config.stages.run:
            decided = "the gate"  # of the cycle, as for the head: docs/decisions/0021-the-gate-decides.md
        return Outcome(history, decided=decided, learnt_new=True, figures={"replayed": source.replayed})
