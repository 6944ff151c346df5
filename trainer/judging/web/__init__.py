"""Judge ``web``: a local page on which people grade pairs by keyboard."""

from trainer.judging.web.judge import WebJudge

__all__ = ["WebJudge"]
