"""The web judge: answers given on the page so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from darl_opensearch.settings import setting
from trainer.judging.base import JUDGES, JudgeAnswers, JudgingJob, Report, Task
from trainer.judging.web.store import AnswerStore, check_rater


@JUDGES.register("web", cite="ours")
@dataclass(frozen=True, kw_only=True)
class WebJudge:
    """People at the labelling page of ``darl judge --web``, each a rater of their own."""

    people: ClassVar[bool] = True
    free: ClassVar[bool] = False
    raters: str = setting("", "raters who must answer every task, such as ann,ben; empty: anyone who has started")
    images: str = setting(
        "", "where images of items are: a folder, or the URL that theirs begin with; empty: not shown"
    )

    def judge(self, tasks: Sequence[Task], job: JudgingJob, report: Report) -> JudgeAnswers:
        """Read the answers.

        :param job: grades, guideline and work folder.
        :return: by rater; pending until each has answered every task.
        """
        store = AnswerStore(job.file("web", ".sqlite"))
        try:
            raters = self.names() or store.raters()
            wanted = {task.task for task in tasks}
            answers = {
                rater: {name: a for name, a in store.answers(rater).items() if name in wanted} for rater in raters
            }
        finally:
            store.close()
        done = sum(map(len, answers.values()))
        total = len(tasks) * max(1, len(raters))
        report("answered", done, total)
        notes = (f"{total - done:,} answers are missing: darl judge --web --out {job.out} …",)
        return JudgeAnswers(answers, done < total, {"file": str(store.path)}, notes if done < total else ())

    def names(self) -> list[str]:
        """List the required raters; empty: anyone.

        :raises InputError: for an invalid name.
        """
        return [check_rater(name.strip()) for name in self.raters.split(",") if name.strip()]
