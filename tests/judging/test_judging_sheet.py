"""The table for people: out, through a spreadsheet, and back."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darl_opensearch.errors import InputError
from darl_opensearch.scores import GradeScale
from tests.helpers.files import read_rows, write_rows
from tests.helpers.judging import SCALE, job, silent, task
from trainer.judging.base import Answer
from trainer.judging.file import FileJudge
from trainer.judging.grades import list_grade_choices, parse_grade
from trainer.judging.sheet import COLUMNS, read_sheet, safe_cell, write_csv, write_jsonl

TASKS = [task("stolen bike", "a"), task("stolen bike", "b"), task("flood; cellar", "c", 'Says "flood", twice')]
STARS = GradeScale(("1", "2", "3", "4", "5"), (0.0, 1.0, 2.0, 3.0, 4.0))


def cells(path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))


def fill(path, grades: dict[int, str], delimiter: str = ",", encoding: str = "utf-8-sig") -> None:
    """What a spreadsheet leaves: other quoting, and the delimiter of the country."""
    rows = cells(path)
    for row, grade in grades.items():
        rows[row][0] = grade
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))


# ---- what a person may write


@pytest.mark.parametrize(
    ("value", "grade"),
    [("2", 2), (2, 2), (2.0, 2), (" 2.0 ", 2), ("fits", 2), ("  FITS", 2), ("1 related", 1), ("0", 0),
     ("3", None), ("-1", None), ("1.5", None), ("nan", None), ("fit", None), ("1 fits", None), (True, None),
     (None, None), ("inf", None), ("1" * 400, None)],
)  # fmt: skip
def test_a_grade_is_its_number_or_its_name(value, grade):
    assert parse_grade(value, SCALE) == grade


def test_names_that_are_numbers_are_meant_when_a_number_is_written():
    assert [parse_grade(text, STARS) for text in ("1", "5.0", "0", "6")] == [0, 4, None, None]
    assert (
        list_grade_choices(STARS) == "1 / 2 / 3 / 4 / 5"
        and list_grade_choices(SCALE) == "0 irrelevant / 1 related / 2 fits"
    )


# ---- out


@given(st.text())
def test_no_cell_is_a_formula_or_breaks_its_row(text):
    cell = safe_cell(text)
    assert cell[:1] not in tuple("=+-@＝＋－＠") and len(cell) <= 32_001
    assert not any(c in cell for c in "\r\n\t\0")
    assert safe_cell(text.strip()).removeprefix("'").startswith(cell.removeprefix("'")[:1])


@pytest.mark.parametrize("text", ['=HYPERLINK("x")', "+1", "-2+3", "@SUM(A1)", "\t=1", " =1", '"=1', "＝1", "'=1"])
def test_formulas_are_disarmed(text):
    assert safe_cell(text).startswith("'")
    assert safe_cell("a=1") == "a=1" and safe_cell("3-2") == "3-2"


def test_the_table_says_nothing_of_model_arm_or_traffic(tmp_path):
    told = task("bike", "x", arm="gold", other_fields={"score": 0.9371, "traffic": 12345}, slice="secret")
    for name, way in (("t.csv", write_csv), ("t.jsonl", write_jsonl)):
        way(tmp_path / name, [told], SCALE)
        text = (tmp_path / name).read_text(encoding="utf-8-sig")
        assert "Covers theft" in text and f"t-{told.task}" in text
        for secret in ("gold", "9371", "12345", "secret", "q-bike"):
            assert secret not in text


def test_what_the_tasks_have_beside_the_pair_is_in_the_table(tmp_path):
    needy = task("flood", "d", information_need="=wants to\nknow what to do", image="d.png")
    for write, suffix in ((write_csv, "csv"), (write_jsonl, "jsonl")):
        write(tmp_path / f"plain.{suffix}", TASKS, SCALE)
        write(tmp_path / f"tasks.{suffix}", [*TASKS, needy], SCALE)
        assert read_sheet(tmp_path / f"tasks.{suffix}", [*TASKS, needy], SCALE) == {}
    assert cells(tmp_path / "plain.csv")[0] == [*COLUMNS]
    rows = cells(tmp_path / "tasks.csv")
    assert rows[0] == [*COLUMNS, "information_need", "image"] and rows[1][6:] == ["", ""]
    assert rows[4][6:] == ["'=wants to know what to do", "d.png"]
    assert read_rows(tmp_path / "tasks.jsonl")[3]["information_need"] == "=wants to\nknow what to do"
    assert "image" not in read_rows(tmp_path / "plain.jsonl")[0]


def test_the_file_begins_with_the_mark_that_spreadsheets_know(tmp_path):
    write_csv(tmp_path / "t.csv", TASKS, SCALE)
    assert (tmp_path / "t.csv").read_bytes().startswith(b'\xef\xbb\xbf"grade","query"')
    assert cells(tmp_path / "t.csv")[0] == list(COLUMNS)


# ---- and back

TEXTS = st.text(max_size=30).filter(str.strip)
WRITTEN = st.sampled_from(["", "0", "1", "2", "fits", "RELATED ", "1.0", "skip", "-"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    pairs=st.lists(st.tuples(TEXTS, TEXTS, WRITTEN), min_size=1, max_size=6, unique_by=lambda p: task(p[0], p[1]).task),
    delimiter=st.sampled_from([",", ";", "\t"]),
    bom=st.booleans(),
)
def test_what_is_written_comes_back(tmp_path, pairs, delimiter, bom):
    tasks = [task(query, item, text=f"{item} {query}") for query, item, _ in pairs]
    path = tmp_path / "t.csv"
    write_csv(path, tasks, SCALE)
    fill(path, {n: grade for n, (_, _, grade) in enumerate(pairs, 1)}, delimiter, "utf-8-sig" if bom else "utf-8")
    answers = read_sheet(path, tasks, SCALE)
    for one, (_, _, grade) in zip(tasks, pairs, strict=True):
        if not grade:
            assert one.task not in answers
        else:
            assert answers[one.task].grade == (None if grade in ("skip", "-") else parse_grade(grade, SCALE))


def test_jsonl_comes_back_too(tmp_path):
    write_jsonl(tmp_path / "t.jsonl", TASKS, SCALE)
    rows = read_rows(tmp_path / "t.jsonl")
    assert all(row["grade"] is None for row in rows)
    rows[0]["grade"], rows[2]["grade"], rows[2]["note"] = 1, "fits", "clear"
    write_rows(tmp_path / "t.jsonl", rows)
    answers = read_sheet(tmp_path / "t.jsonl", TASKS, SCALE)
    assert answers == {TASKS[0].task: Answer(1), TASKS[2].task: Answer(2, note="clear")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[2].__setitem__(0, "7"), "line 3: field 'grade' is '7', which is not a grade. "
         "Write a number or name of 0 irrelevant / 1 related / 2 fits, or skip"),
        (lambda rows: rows[1].__setitem__(5, "t-0123456789abcdef"), "line 2: field 'task' is 't-0123456789abcdef', "
         "not one of these tasks. Leave that column unchanged; if the table belongs to earlier work"),
        (lambda rows: rows[1].__setitem__(5, " "), "line 2: field 'task' is empty"),
        (lambda rows: rows.append(list(rows[1])), "line 5: field 'task': this pair appears twice (first: "),
        (lambda rows: rows[0].__setitem__(5, "id"), "line 1: column 'task' is missing. Keep grade, query, item"),
        (lambda rows: rows[0].__setitem__(4, "Grade "), "line 1: column 'grade' appears twice"),
        (lambda rows: rows[1].append("x"), "line 2: 7 cells for 6 columns"),
        (lambda rows: rows.clear(), "the file is empty. Remove it to have it written again"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, change, message):
    path = tmp_path / "t.csv"
    write_csv(path, TASKS, SCALE)
    rows = cells(path)
    change(rows)
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    with pytest.raises(InputError) as caught:
        read_sheet(path, TASKS, SCALE)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_all_wrong_grades_are_named_at_once_but_not_without_end(tmp_path):
    tasks = [task("q", f"i{n}") for n in range(9)]
    path = tmp_path / "t.csv"
    write_csv(path, tasks, SCALE)
    fill(path, {1: "relatd", 2: "1", 4: "3"})
    with pytest.raises(
        InputError, match=r"line 2: field 'grade' is 'relatd', which is not a grade; nor is '3' in line 5\. "
    ):
        read_sheet(path, tasks, SCALE)
    fill(path, {n: "x" for n in range(1, 10)})
    with pytest.raises(InputError, match=r"nor is 'x' in line 3, .*'x' in line 7, 3 more\. Write a number or name"):
        read_sheet(path, tasks, SCALE)


def test_other_encodings_and_broken_quotes_are_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("grade,task,query\n1,t-1,M\xfcll\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8. Save it as 'CSV UTF-8'"):
        read_sheet(path, TASKS, SCALE)
    path.write_text('grade,task\n"1"x,t-1\n')
    with pytest.raises(InputError, match=r"line 2: not a table"):
        read_sheet(path, TASKS, SCALE)


# ---- the judge


def test_half_filled_waits_and_nothing_is_written_over(tmp_path):
    judge, work = FileJudge(path="", format="csv"), job(tmp_path)
    first = judge.judge(TASKS, work, silent)
    assert first.pending and first.answers == {"": {}}
    told = (tmp_path / "tasks-instructions.md").read_text()
    assert "In doubt the lower." in told and "0 irrelevant / 1 related / 2 fits" in told
    fill(tmp_path / "tasks.csv", {1: "2"})
    kept = (tmp_path / "tasks.csv").read_bytes()
    half = judge.judge(TASKS, work, silent)
    assert half.pending and half.answers[""] == {TASKS[0].task: Answer(2)} and "has 2 grades missing" in half.notes[0]
    assert (tmp_path / "tasks.csv").read_bytes() == kept
    fill(tmp_path / "tasks.csv", {2: "irrelevant", 3: "skip"})
    done = judge.judge(TASKS, work, silent)
    assert not done.pending and not done.notes
    assert [done.answers[""][t.task].grade for t in TASKS] == [2, 0, None]


def test_rows_that_were_deleted_are_missing_not_wrong(tmp_path):
    judge, work = FileJudge(path="", format="csv"), job(tmp_path, label="ann")
    judge.judge(TASKS, work, silent)
    path = tmp_path / "tasks.ann.csv"
    fill(path, {1: "1", 2: "1", 3: "1"})
    lines = path.read_bytes().split(b"\r\n")
    path.write_bytes(b"\r\n".join([*lines[:2], b",,,,,", *lines[3:]]))
    verdict = judge.judge(TASKS, work, silent)
    assert verdict.pending and len(verdict.answers[""]) == 2
