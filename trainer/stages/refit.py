"""Stage: refit the head on old and new samples, the default training of a cycle."""

from __future__ import annotations

from trainer.config import Config
from trainer.stages.head_stage import bind_fit, encode_for_head
from trainer.stages.registry import STAGES, Context, Outcome, Stage, require_key


@STAGES.register("refit", cite="Liu and Nocedal 1989, doi:10.1007/BF01589116 (L-BFGS); pooling: ours")
class RefitStage(Stage):
    """Fit the head on old and new samples together, with equal weight per query; the gate decides whether it serves

    A head that starts from a bundle has already been fitted on the old samples, so they cannot show a gain, and one
    cycle has too few OOD dev queries. So it is always kept, and the cycle's gate compares it with the serving version.
    """

    judged_on = ("dev", "ood_dev")

    def check(self, config: Config) -> None:
        """Require new samples."""
        todo = "set it to the new samples' judgments, or use the stage head"
        require_key(config.data.new, "refit", "[data] new", todo)

    def run(self, context: Context) -> Outcome:
        """Fit the head."""
        data, steps = context.data, context.config.stages.head_steps
        train, dev = (
            encode_for_head(context, queries, data.judged(queries))
            for queries in ([*data.sampled, *data.new], [*data.dev, *data.ood_dev])
        )
        history = bind_fit(context, dev)(
            context.model.head, train, advance=lambda step, loss: context.report("stage refit", step + 1, steps)
        )
        return Outcome(history, decided="the gate", learnt_new=True)
