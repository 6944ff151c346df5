"""The head on old and new samples together: what a cycle trains first, and often all that it needs."""

from __future__ import annotations

from trainer.config import Config
from trainer.stages.head_stage import bind_fit, encode_for_head
from trainer.stages.registry import STAGES, Context, Outcome, Stage, need


@STAGES.register("refit", cite="Liu and Nocedal 1989, doi:10.1007/BF01589116 (L-BFGS); pooling: ours")
class RefitStage(Stage):
    """Fit the head on old and new samples together, each query weighing alike; the gate decides whether it serves

    A head that starts from a bundle has been fitted on the old samples already: on them no gain can show, and the few
    OOD dev queries of one cycle cannot tell. So it stays, and the gate of the cycle compares it with what serves.
    """

    judged_on = ("dev", "ood_dev")

    def check(self, config: Config) -> None:
        """Ask for new samples.

        :raises UsageError: where there are none.
        """
        need(config.data.new, "refit", "[data] new", "set it to the new samples' judgments, or use the stage head")

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
