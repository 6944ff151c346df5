"""Judge ``llm``: a chat endpoint that is asked for a grade, and for how sure it is."""

from trainer.judging.llm.asking import KEY_VARIABLE
from trainer.judging.llm.judge import LlmJudge

__all__ = ["KEY_VARIABLE", "LlmJudge"]
