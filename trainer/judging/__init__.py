"""Judges: who says how relevant a selected pair is, one kind a file, in a registry. Nothing here needs torch."""

from trainer.judging.base import JUDGES, Answer, Job, Judge, Task, Verdict  # isort: skip
from trainer.judging import file, known, llm, web
from trainer.judging.config import JudgeConfig

__all__ = ["JUDGES", "Answer", "Job", "Judge", "JudgeConfig", "Task", "Verdict", "file", "known", "llm", "web"]
