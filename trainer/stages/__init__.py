"""The training plan: stages in order, each kept only if it improves on the dev set."""

from trainer.stages.registry import STAGES  # isort: skip
from trainer.stages import head_stage, full_stage, distillation, refit, augmented, interpolation  # isort: skip  in a plan's order

__all__ = ["STAGES", "augmented", "distillation", "full_stage", "head_stage", "interpolation", "refit"]
