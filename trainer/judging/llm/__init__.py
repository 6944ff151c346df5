"""Judge ``llm``: a chat endpoint that returns a grade and its probability."""

from trainer.judging.llm.asking import KEY_VARIABLE
from trainer.judging.llm.judge import LlmJudge

__all__ = ["KEY_VARIABLE", "LlmJudge"]
