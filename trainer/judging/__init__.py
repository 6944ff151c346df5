"""Judges, which grade selected pairs: one kind per file, in a registry. Nothing here needs torch."""

from trainer.judging.base import JUDGES, Answer, JudgingJob, Judge, Task, JudgeAnswers  # isort: skip
from trainer.judging import file, known, label_studio, llm, web
from trainer.judging.config import JudgeConfig

__all__ = [
    "JUDGES",
    "Answer",
    "JudgingJob",
    "Judge",
    "JudgeConfig",
    "Task",
    "JudgeAnswers",
    "file",
    "known",
    "label_studio",
    "llm",
    "web",
]
