"""The labelling application: the page, the pairs, the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from darl_opensearch.errors import DarlError, InputError
from darl_opensearch.scores import GradeScale
from darl_opensearch.web.api import answer_json, error_answer
from darl_opensearch.web.guard import Guard
from darl_opensearch.web.page import headers, page
from trainer.judging.agreement import compare_raters
from trainer.judging.base import Task
from trainer.judging.grades import grade_key
from trainer.judging.scoring import keep_graded
from trainer.judging.web.guideline import render_guideline
from trainer.judging.web.images import KINDS, Images
from trainer.judging.web.store import AnswerStore, check_rater

STATIC = Path(__file__).parent / "static"
NO_IMAGES = Images()
_MARK = "<!-- guideline -->"


class Labelling:
    """State shared by the handlers.

    :param tasks: in display order; only query, information need, text and image are shown.
    :param raters: who may answer; empty: anyone.
    :param images: where images may come from.
    """

    def __init__(
        self, tasks: Sequence[Task], scale: GradeScale, guideline: str, store: AnswerStore, *,
        raters: Sequence[str] = (), rater: str = "rater", images: Images = NO_IMAGES,
    ) -> None:  # fmt: skip
        self.tasks, self.scale, self.store, self.images = tasks, scale, store, images
        self.raters, self.rater = tuple(raters), raters[0] if raters else rater
        self.places = {task.task: place for place, task in enumerate(tasks)}
        text = guideline.strip() or "There is no guideline. Judge how well the item serves a person with this query."
        body, style, script = ((STATIC / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
        body = body.replace(_MARK, render_guideline(text))
        self.html = page("Judging", [body], style=style, scripts=[script], fetches=True, images=images.source)

    def rater_of(self, name: str | None) -> str:
        """Return the rater of a request.

        :param name: as given; None or empty: the default rater.
        :raises InputError: for an invalid or unlisted name.
        """
        rater = check_rater(name or self.rater)
        if self.raters and rater not in self.raters:
            raise InputError(f"{rater!r} is not among the raters", todo=f"open ?rater={self.raters[0]}")
        return rater

    def image_of(self, task: Task) -> str | None:
        """Return the address of a task's image, for the page; None: none is shown."""
        if not self.images.shows(task):
            return None
        return task.image if self.images.start else f"image/{task.task}"

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


def create_judging_app(labelling: Labelling) -> Starlette:
    """Make the ASGI application.

    :param labelling: pairs, grades and answers.
    """

    def job(request: Request) -> Response:
        grades = [{"grade": n, "name": name, "key": grade_key(n)} for n, name in enumerate(labelling.scale.names)]
        return JSONResponse(
            {"grades": grades, **labelling.progress(labelling.rater_of(request.query_params.get("rater")))}
        )

    def task(request: Request) -> Response:
        rater = labelling.rater_of(request.query_params.get("rater"))
        place = _place(request.query_params.get("place"), len(labelling.tasks))
        shown = labelling.tasks[place]
        answer = labelling.store.answers(rater).get(shown.task)
        return JSONResponse({
            "place": place, "task": shown.task, "query": shown.query, "need": shown.information_need,
            "item": shown.text, "image": labelling.image_of(shown),
            "answered": answer is not None, "grade": answer.grade if answer else None,
        })  # fmt: skip

    def answer(body: Mapping[str, Any]) -> dict[str, Any]:
        rater, name, grade = labelling.rater_of(_name(body)), body.get("task"), body.get("grade")
        if not isinstance(name, str) or name not in labelling.places:
            raise InputError("there is no such task", todo="reload the page")
        if grade is not None and (
            not isinstance(grade, int) or isinstance(grade, bool) or not 0 <= grade < labelling.scale.k
        ):
            raise InputError(f"grade is not in 0..{labelling.scale.k - 1}", todo="reload the page")
        labelling.store.answer(rater, name, grade)
        return {"next": labelling.next_place(rater, labelling.places[name]), **labelling.progress(rater)}

    def undo(body: Mapping[str, Any]) -> dict[str, Any]:
        rater = labelling.rater_of(_name(body))
        name = labelling.store.undo(rater)
        place = labelling.places.get(name) if name else None
        return {"undone": place is not None, "next": place, **labelling.progress(rater)}

    def agreements(request: Request) -> Response:
        return JSONResponse({"agreement": labelling.agreements()})

    def front(request: Request) -> Response:
        return HTMLResponse(labelling.html, headers=headers(labelling.html))

    def image(request: Request) -> Response:
        place = labelling.places.get(request.path_params["task"])
        path = None if place is None else labelling.images.file(labelling.tasks[place].image)
        if path is None:
            return JSONResponse({"error": "there is no such image"}, 404)
        return FileResponse(path, media_type=KINDS[path.suffix.lower()])

    return Starlette(
        routes=[
            Route("/", front),
            Route("/image/{task}", image),
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
