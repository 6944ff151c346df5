"""Label Studio: what it gets, and what comes back from it, in the form that its documentation gives."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from darl_opensearch.errors import InputError
from darl_opensearch.scores import GradeScale
from tests.helpers.judging import SCALE, job, project, silent, task, truth
from trainer.judging import JudgeConfig
from trainer.judging.base import Answer
from trainer.judging.label_studio import LabelStudioJudge, read_export, render_interface
from trainer.judging.run import judge

TASKS = [
    task("stolen bike", "a", "Covers <theft>", arm="gold", slice="pets", other_fields={"score": 0.9371}),
    task("stolen bike", "b", information_need="Wants it paid for.", image="https://example.org/b.jpg"),
]


def annotated(one, *choices, by=1, **fields):
    """A task as it is exported, with an annotation."""
    result = [{"id": "x", "from_name": "grade", "to_name": "item", "type": "choices", "value": {"choices": [*choices]}}]
    note = {"id": 7, "completed_by": by, "result": result if choices else [], "was_cancelled": False}
    return {"id": 3, "data": {"task": one.task, "query": one.query, "item": one.text}, "annotations": [note | fields]}


def export(folder, *tasks):
    path = folder / "label-studio-export.json"
    path.write_text(json.dumps(tasks))
    return path


def test_what_goes_out_holds_nothing_that_a_rater_must_not_know(tmp_path):
    waiting = LabelStudioJudge().judge(TASKS, job(tmp_path), silent)
    assert waiting.pending and waiting.answers == {} and "2 answers are missing: import " in waiting.notes[0]
    text = (tmp_path / "label-studio-tasks.json").read_text()
    assert [one["data"] for one in json.loads(text)] == [
        {"task": TASKS[0].task, "query": "stolen bike", "information_need": "", "item": "Covers <theft>"},
        {"task": TASKS[1].task, "query": "stolen bike", "information_need": "Wants it paid for.",
         "item": "Covers theft", "image": "https://example.org/b.jpg"},
    ]  # fmt: skip
    assert not any(word in text for word in ("gold", "pets", "9371", '"a"'))


def test_the_interface_has_a_choice_for_each_grade_and_only_what_the_tasks_have():
    odd = GradeScale(('"A" & <b>', "no"), (0.0, 1.0))
    root = ET.fromstring(render_interface(TASKS, odd))
    assert [(c.get("value"), c.get("alias"), c.get("hotkey")) for c in root.iter("Choice")] == [
        ('"A" & <b>', "0", "1"), ("no", "1", "2"), ("cannot be judged", "skip", "s"),
    ]  # fmt: skip
    assert [one.get("value") for one in root.iter("Text")] == ["$query", "$information_need", "$item"]
    assert not list(root.iter("Image"))  # the first task has none
    assert next(root.iter("Choices")).get("toName") == "item"
    plain = ET.fromstring(render_interface(TASKS[1:], SCALE))
    assert [one.get("value") for one in plain.iter("Image")] == ["$image"]
    assert "$information_need" not in render_interface(TASKS[:1], SCALE)


def test_answers_come_back_by_rater(tmp_path):
    first, second = TASKS
    path = export(
        tmp_path, annotated(first, "2"), annotated(first, "0", by={"id": 5, "email": "ben@example.org"}),
        annotated(second, "skip"), annotated(second, by=5, was_cancelled=True), annotated(second, by=6),
        annotated(first, "2"),
    )  # fmt: skip
    assert read_export(path, TASKS, SCALE) == {
        "user-1": {first.task: Answer(2), second.task: Answer(None)},
        "user-5": {first.task: Answer(0), second.task: Answer(None)},
    }
    done = LabelStudioJudge().judge(TASKS, job(tmp_path), silent)
    assert not done.pending and done.notes == ()
    export(tmp_path, annotated(first, "2"), annotated(second))
    waiting = LabelStudioJudge().judge(TASKS, job(tmp_path), silent)
    assert waiting.pending and waiting.notes[0].startswith("1 answers are missing")


@pytest.mark.parametrize(
    ("exported", "message"),
    [
        (b"grade,query\n", r"export\.json: not JSON\. Export it from Label Studio as JSON, not as JSON-MIN or CSV"),
        ([{"id": 1, "task": TASKS[0].task, "grade": "2", "annotator": 1}],
         r"export\.json, task 1: not a task with data and annotations\. Export it from Label Studio as JSON"),
        ([annotated(TASKS[0], "2"), annotated(task("other", "x"), "2")], r"task 2: task '\w{16}' is not one of these"),
        ([annotated(TASKS[0], "fits")], r"the answer \['fits'\] is not a grade\. Keep the labelling interface"),
        ([annotated(TASKS[0], "0", "1")], r"the answer \['0', '1'\] is not a grade"),
        ([annotated(TASKS[0], "3")], r"the answer \['3'\] is not a grade"),
        ([annotated(TASKS[0], "0"), annotated(TASKS[0], "1")],
         r"task 2: user-1 gives task \w{16} both 0 and 1\. Delete one of the two annotations"),
    ],
)  # fmt: skip
def test_an_export_that_is_none(tmp_path, exported, message):
    path = tmp_path / "label-studio-export.json"
    path.write_bytes(exported if isinstance(exported, bytes) else json.dumps(exported).encode())
    with pytest.raises(InputError, match=message):
        read_export(path, TASKS, SCALE)


def test_from_tasks_to_judgments(tmp_path):
    project(tmp_path)
    config = JudgeConfig(judges=("label-studio",), gold_pairs=36)
    where = {"scale": SCALE, "out": tmp_path / "out", "base": tmp_path}
    paths = [tmp_path / "tasks.jsonl"], tmp_path / "gold.jsonl"
    assert judge(config, *paths, **where).pending
    written = json.loads((tmp_path / "out" / "label-studio-tasks.json").read_text())
    assert len(written) == 12 + 36  # gold among them
    for one in written:
        grade = truth(one["data"]["item"].removeprefix("text of "))
        one["annotations"] = annotated(task(), str(grade))["annotations"]
    (tmp_path / "out" / "label-studio-export.json").write_text(json.dumps(written))
    report = judge(config, *paths, **where)
    assert not report.pending and report.labels == 12
    assert [(j["judge"], j["verdict"]) for j in report.details["judges"]] == [("label-studio/user-1", "used")]
