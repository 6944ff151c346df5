"""Judge ``web``: a page on this machine where people grade pairs by keyboard."""

from trainer.judging.web.judge import WebJudge

__all__ = ["WebJudge"]
