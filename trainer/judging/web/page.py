"""The labelling application: the page, the pairs, the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from darl_opensearch.errors import DarlError, InputError
from darl_opensearch.scores import GradeScale
from darl_opensearch.web.api import answer_json, error_answer
from darl_opensearch.web.guard import Guard
from trainer.judging.agreement import compare_raters
from trainer.judging.base import Task
from trainer.judging.scoring import keep_graded
from trainer.judging.web.guideline import render_guideline
from trainer.judging.web.store import AnswerStore, check_rater

STATIC = Path(__file__).parent / "static"
_KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
_MARK = "<!-- guideline -->"


class Page:
    """State shared by the handlers.

    :param tasks: in display order; only query and text are shown.
    :param raters: who may answer; empty: anyone.
    """

    def __init__(
        self, tasks: Sequence[Task], scale: GradeScale, guideline: str, store: AnswerStore, *,
        raters: Sequence[str] = (), rater: str = "rater",
    ) -> None:  # fmt: skip
        self.tasks, self.scale, self.store = tasks, scale, store
        self.raters, self.rater = tuple(raters), raters[0] if raters else rater
        self.places = {task.task: place for place, task in enumerate(tasks)}
        text = guideline.strip() or "There is no guideline. Judge how well the item serves a person with this query."
        html = (STATIC / "page.html").read_text(encoding="utf-8")
        self.html = html.replace(_MARK, render_guideline(text))

    def rater_of(self, name: str | None) -> str:
        """Return the rater of a request.

        :param name: as given; None or empty: the default rater.
        :raises InputError: for an invalid or unlisted name.
        """
        rater = check_rater(name or self.rater)
        if self.raters and rater not in self.raters:
            raise InputError(f"{rater!r} is not among the raters", todo=f"open ?rater={self.raters[0]}")
        return rater

    def progress(self, rater: str) -> dict[str, Any]:
        """Return a rater's JSON-ready counts, and the first unanswered place (None if there is none)."""
        answers = self.store.answers(rater)
        grades = [answers[task.task].grade for task in self.tasks if task.task in answers]
        first = next((place for place, task in enumerate(self.tasks) if task.task not in answers), None)
        skipped = sum(grade is None for grade in grades)
        return {"rater": rater, "total": len(self.tasks), "graded": len(grades) - skipped, "skipped": skipped,
                "first": first}  # fmt: skip

    def next_place(self, rater: str, place: int) -> int | None:
        """Return the next unanswered place, or None.

        :param place: where to start after; the search wraps around.
        """
        answers, n = self.store.answers(rater), len(self.tasks)
        order = (p % n for p in range(place + 1, place + n + 1))
        return next((p for p in order if self.tasks[p].task not in answers), None)

    def agreements(self) -> list[dict[str, Any]]:
        """Return the JSON-ready agreement of every two raters on pairs that both graded."""
        queries = {task.task: task.query for task in self.tasks}
        grades = {rater: keep_graded(self.store.answers(rater)) for rater in self.store.raters()}
        grades = {rater: {t: g for t, g in answers.items() if t in queries} for rater, answers in grades.items()}
        compared = compare_raters(grades, queries, self.scale.k, draws=1000, seed=0)
        return [{"raters": [first, second]} | agreement.to_json() for first, second, agreement in compared]


def create_judging_app(page: Page) -> Starlette:
    """Make the ASGI application.

    :param page: pairs, grades and answers.
    """

    def job(request: Request) -> Response:
        grades = [{"grade": n, "name": name, "key": _key(n)} for n, name in enumerate(page.scale.names)]
        return JSONResponse({"grades": grades, **page.progress(page.rater_of(request.query_params.get("rater")))})

    def task(request: Request) -> Response:
        rater = page.rater_of(request.query_params.get("rater"))
        place = _place(request.query_params.get("place"), len(page.tasks))
        shown = page.tasks[place]
        answer = page.store.answers(rater).get(shown.task)
        return JSONResponse({
            "place": place, "task": shown.task, "query": shown.query, "item": shown.text,
            "answered": answer is not None, "grade": answer.grade if answer else None,
        })  # fmt: skip

    def answer(body: Mapping[str, Any]) -> dict[str, Any]:
        rater, name, grade = page.rater_of(_name(body)), body.get("task"), body.get("grade")
        if not isinstance(name, str) or name not in page.places:
            raise InputError("there is no such task", todo="reload the page")
        if grade is not None and (
            not isinstance(grade, int) or isinstance(grade, bool) or not 0 <= grade < page.scale.k
        ):
            raise InputError(f"grade is not in 0..{page.scale.k - 1}", todo="reload the page")
        page.store.answer(rater, name, grade)
        return {"next": page.next_place(rater, page.places[name]), **page.progress(rater)}

    def undo(body: Mapping[str, Any]) -> dict[str, Any]:
        rater = page.rater_of(_name(body))
        name = page.store.undo(rater)
        place = page.places.get(name) if name else None
        return {"undone": place is not None, "next": place, **page.progress(rater)}

    def agreements(request: Request) -> Response:
        return JSONResponse({"agreement": page.agreements()})

    def front(request: Request) -> Response:
        return HTMLResponse(page.html)

    def static(request: Request) -> Response:
        path = STATIC / Path(request.url.path).name
        return Response(path.read_bytes(), media_type=_KINDS[path.suffix])

    return Starlette(
        routes=[
            Route("/", front),
            Route("/page.css", static),
            Route("/page.js", static),
            Route("/api/job", job),
            Route("/api/task", task),
            Route("/api/agreement", agreements),
            Route("/api/answer", answer_json(answer), methods=["POST"]),
            Route("/api/undo", answer_json(undo), methods=["POST"]),
        ],
        middleware=[Middleware(Guard)],
        exception_handlers={InputError: error_answer(400), DarlError: error_answer(507)},
    )


def _name(body: Mapping[str, Any]) -> str | None:
    rater = body.get("rater")
    if rater is not None and not isinstance(rater, str):
        raise InputError("rater is not text")
    return rater


def _place(value: str | None, total: int) -> int:
    text = value or "0"
    place = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1
    if not 0 <= place < total:
        raise InputError(f"place is not in 0..{total - 1}", todo="reload the page")
    return place


def _key(grade: int) -> str:
    """Return a grade's key: 1 to 9, then 0."""
    return str((grade + 1) % 10) if grade < 10 else ""
