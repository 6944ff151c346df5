"""Tasks in, judges scored on gold, labels out."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from darl_opensearch.errors import GateRefused, InputError, UsageError
from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import read_judgments
from tests.helpers.files import read_rows, write_rows
from tests.helpers.judging import SCALE, pair, pairs, project, silent, task, truth
from trainer.judging import JUDGES, JudgeConfig
from trainer.judging.base import JudgeAnswers
from trainer.judging.prepare import open_work, prepare_judging
from trainer.judging.run import estimate, judge
from trainer.judging.tasks import draw_gold, order_blindly, read_gold, read_tasks, task_id
from trainer.registry import Registry


def known(folder, wrong: int = 0, *, of: str = "tg", name: str = "known.jsonl"):
    """A file of judgments, every ``wrong``-th of them off by one."""
    rows = [*(pairs("task", 4, 3) if "t" in of else ()), *(pairs("gold", 12, 3) if "g" in of else ())]
    told = []
    for n, row in enumerate(rows):
        grade = truth(row["item_id"])
        told.append({"query": row["query"].upper(), "item_id": row["item_id"],
                     "grade": (grade + 1) % 3 if wrong and n % wrong == 0 else grade})  # fmt: skip
    return str(write_rows(folder / name, told))


def run(folder, config, *, gold=True, **options):
    tasks, known_gold = folder / "tasks.jsonl", folder / "gold.jsonl"
    return judge(config, [tasks], known_gold if gold else None, scale=SCALE, out=folder / "out", base=folder, **options)


def oracle(folder, wrong: int = 0, **options) -> JudgeConfig:
    return JudgeConfig(judges=("judgments",), params={"judgments": {"path": known(folder, wrong)}}, **options)


def test_every_judge_says_what_it_is():
    assert set(JUDGES) == {"file", "judgments", "label-studio", "workbench", "ubi", "llm", "web"}
    for name in JUDGES:
        entry = JUDGES[name]
        assert (
            entry.summary and entry.cite and isinstance(entry.make.people, bool) and isinstance(entry.make.free, bool)
        )


def test_nothing_here_needs_torch():
    code = (
        "import sys, urllib3, trainer.judging.run, trainer.judging.web.page, trainer.judging.llm.endpoint\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


# ---- labels


def test_labels_can_be_trained_on_and_traced(tmp_path):
    project(tmp_path)
    report = run(tmp_path, oracle(tmp_path))
    assert not report.pending and report.labels == 12 and report.judgments == tmp_path / "out" / "judgments.jsonl"
    rows = read_rows(report.judgments)
    tasks = read_rows(tmp_path / "tasks.jsonl")
    assert [(r["query"], r["item_id"]) for r in rows] == [(t["query"], t["item_id"]) for t in tasks]
    assert all(r["grade"] == truth(r["item_id"]) and r["judge"] == "judgments" for r in rows)
    assert rows[0] == {
        "query_id": "q-task 0", "query": "task 0", "item_id": "task00-0", "grade": 0, "slice": "s", "arm": "selected",
        "task": task_id("task 0", "task00-0"), "judge": "judgments", "model_score": 0.25,
    }  # fmt: skip
    items = {r["item_id"]: Item(r["item_id"], "x", "") for r in rows}
    assert sum(len(q.grades) for q in read_judgments(report.judgments, items, 3)) == 12
    told = report.to_json()
    assert told["arms"] == {"control": 4, "selected": 8} and told["grades"] == [4, 4, 4] and told["unjudged"] == 0
    ratings = (tmp_path / "out" / "judgments.csv").read_bytes().decode()
    assert ratings.startswith("query,docid,rating\ntask 0,task00-0,0\ntask 0,task01-1,1\n")
    assert ratings.count("\n") == 13 and told["files"]["judgments.csv"] == str(tmp_path / "out" / "judgments.csv")
    (one,) = told["judges"]
    assert one["verdict"] == "used" and one["gold"]["pairs"] == 36 and one["gold"]["quadratic"]["low"] == 1.0
    assert one["gold"]["confusion"] == [[12, 0, 0], [0, 12, 0], [0, 0, 12]]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == told
    answers = read_rows(tmp_path / "out" / "answers.jsonl")
    assert len(answers) == 48 and {a["arm"] for a in answers} == {"selected", "control", "gold"}


def test_the_same_call_gives_the_same_files(tmp_path):
    project(tmp_path)
    config = oracle(tmp_path, 5, min_kappa=0.0)
    run(tmp_path, config)
    first = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    run(tmp_path, config)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == first


def test_pairs_that_a_judge_does_not_know_are_left_and_counted(tmp_path):
    project(tmp_path)
    path = known(tmp_path)
    write_rows(
        tmp_path / "known.jsonl", [r for r in read_rows(tmp_path / "known.jsonl") if not r["query"].endswith("TASK 1")]
    )
    report = run(tmp_path, JudgeConfig(judges=("judgments",), params={"judgments": {"path": path}}))
    assert report.labels == 9 and report.details["unjudged"] == 3 and report.details["judges"][0]["unanswered"] == 3


def test_without_gold_only_people_and_judgments_are_taken(tmp_path):
    project(tmp_path)
    path = known(tmp_path, of="t")
    report = run(tmp_path, JudgeConfig(judges=("judgments",), params={"judgments": {"path": path}}), gold=False)
    (one,) = report.details["judges"]
    assert one["verdict"] == "unscored" and one["gold"] is None and report.labels == 12
    assert one["why"] == "it graded 0 gold pairs of 0 queries; a score needs 20 pairs of 5 queries"
    with pytest.raises(UsageError) as caught:
        run(tmp_path, JudgeConfig(judges=("workbench",)), gold=False)
    assert str(caught.value).startswith("judge 'workbench' must be scored before use, but there is no gold. ")
    with pytest.raises(UsageError, match="judge 'workbench' has no file"):  # trusted: it gets that far
        run(tmp_path, JudgeConfig(judges=("workbench",), trusted=("workbench",)), gold=False)


# ---- the gate


def test_a_judge_below_the_minimum_is_refused_before_it_is_asked(tmp_path):
    project(tmp_path)
    good = run(tmp_path, oracle(tmp_path))
    assert good.judgments.exists()
    with pytest.raises(GateRefused) as caught:
        run(tmp_path, oracle(tmp_path, 2))
    text = str(caught.value)
    assert caught.value.exit_code == 3 and "no judge can be used: judge 'judgments': kappa with gold is " in text
    assert "its lower bound below 0.4. Improve the guideline or the prompt" in text
    assert not good.judgments.exists()  # nobody should train on labels of a judge that was refused since
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert told["judges"][0]["verdict"] == "refused" and told["judges"][0]["unanswered"] == 12 and told["labels"] == 0


def test_a_judge_that_knows_too_little_gold_is_refused_unless_trusted(tmp_path):
    project(tmp_path, gold=4)
    lists = {"judgmentRatings": [
        {"query": r["query"], "ratings": [{"docId": r["item_id"], "rating": str(truth(r["item_id"]))}]}
        for r in [*pairs("task", 4, 3), *pairs("gold", 4, 3)]
    ]}  # fmt: skip
    (tmp_path / "lists.json").write_text(json.dumps(lists))
    settings = {"judges": ("workbench",), "params": {"workbench": {"path": "lists.json"}}}
    with pytest.raises(GateRefused, match="it graded 12 gold pairs of 4 queries; a score needs 20 pairs of 5 queries"):
        run(tmp_path, JudgeConfig(**settings))
    report = run(tmp_path, JudgeConfig(**settings, trusted=("workbench",)))
    assert report.labels == 12 and report.details["judges"][0]["verdict"] == "unscored"


def test_trust_does_not_help_who_was_scored_badly(tmp_path):
    project(tmp_path)
    with pytest.raises(GateRefused):
        run(tmp_path, oracle(tmp_path, 2, trusted=("judgments",)))


def test_a_bad_judge_leaves_and_the_good_one_stays(tmp_path):
    project(tmp_path)
    params = {
        "judgments:good": {"path": known(tmp_path, 9, name="good.jsonl")},
        "judgments:bad": {"path": known(tmp_path, 2, name="bad.jsonl")},
    }
    report = run(tmp_path, JudgeConfig(judges=tuple(params), params=params))
    assert [j["verdict"] for j in report.details["judges"]] == ["used", "refused"]
    assert {r["judge"] for r in read_rows(report.judgments)} == {"judgments:good"}
    assert report.details["agreement"][0]["judges"] == ["judgments:good", "judgments:bad"]
    assert report.details["agreement"][0]["pairs"] == 36  # the bad one was asked gold alone


def test_several_judges_are_weighed_and_their_disagreements_listed(tmp_path):
    project(tmp_path)
    params = {
        "judgments:a": {"path": known(tmp_path, name="a.jsonl")},
        "judgments:b": {"path": known(tmp_path, 7, name="b.jsonl")},
    }
    report = run(tmp_path, JudgeConfig(judges=tuple(params), params=params))
    rows = read_rows(report.judgments)
    assert all(r["judge"] == "judgments:a+judgments:b" and abs(sum(r["grade_probs"]) - 1) < 1e-5 for r in rows)
    assert [r["grade"] for r in rows] == [truth(r["item_id"]) for r in rows]  # the one without error decides
    apart = read_rows(tmp_path / "out" / "disagreements.jsonl")
    assert report.details["disagreements"] == len(apart) == 2
    assert apart[0]["grades"]["judgments:a"] != apart[0]["grades"]["judgments:b"] and apart[0]["text"]


# ---- people


def test_people_are_waited_for_and_then_scored_on_gold_mixed_among_tasks(tmp_path):
    project(tmp_path)
    config = JudgeConfig(judges=("file",), params={"file": {"format": "jsonl"}}, gold_pairs=24)
    report = run(tmp_path, config)
    assert report.pending and report.judgments is None and report.details["judges"][0]["verdict"] == "waiting"
    sheet = tmp_path / "out" / "tasks.jsonl"
    rows = read_rows(sheet)
    assert len(rows) == 12 + 24 and not (tmp_path / "out" / "judgments.jsonl").exists()
    assert {tuple(row) for row in rows} == {("grade", "query", "item", "choices", "note", "task")}
    kinds = ["gold" if row["query"].startswith("gold") else "task" for row in rows]
    assert kinds != sorted(kinds) and kinds != sorted(kinds, reverse=True)
    for row in rows[: len(rows) // 2]:
        row["grade"] = truth(row["item"].removeprefix("text of "))
    write_rows(sheet, rows)
    assert run(tmp_path, config).pending
    early = run(tmp_path, JudgeConfig(**{**vars(config), "partial": True, "min_gold": 2}))
    assert not early.pending and 0 < early.labels < 12
    for row in rows:
        row["grade"] = truth(row["item"].removeprefix("text of "))
    write_rows(sheet, rows)
    report = run(tmp_path, config)
    assert not report.pending and report.labels == 12 and report.details["judges"][0]["gold"]["pairs"] == 24
    assert {r["arm"] for r in read_rows(report.judgments)} == {"selected", "control"}


def test_a_folder_of_other_work_is_refused(tmp_path):
    tasks, _ = project(tmp_path)
    run(tmp_path, oracle(tmp_path))
    with pytest.raises(InputError, match="work on other tasks, gold, grades or another seed. Choose anot"):
        run(tmp_path, oracle(tmp_path, seed=1))
    write_rows(tasks, read_rows(tasks)[:-1])
    with pytest.raises(InputError, match="other tasks"):
        run(tmp_path, oracle(tmp_path))
    (tmp_path / "out" / "job.json").write_text("{")
    with pytest.raises(InputError, match=r"job\.json: not JSON"):
        run(tmp_path, oracle(tmp_path))


# ---- tasks and gold


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": " "}, "line 2: field 'query' is empty or not text"),
        ({"text": None}, "line 2: field 'text' is empty or not text. Add the item's text"),
        ({"item_id": None}, "line 2: field 'item_id' is missing"),
        ({"arm": "both"}, "line 2: field 'arm' is 'both'. Choose one of selected, control, gold"),
        ({"task": "0"}, "line 2: field 'task' is '0', but this query and item give"),
        ({"query": "TASK  a", "item_id": "x"}, "appears twice (first: "),
        ({"query": "task b", "query_id": "q-task a"}, "query 'q-task a' is 'task b' here, but was 'task a'"),
        ({"query": "w" * 10_001}, "field 'query' has 10,001 characters, more than 10,000"),
    ],
)
def test_task_lines_that_cannot_be_used(tmp_path, row, message):
    path = write_rows(tmp_path / "t.jsonl", [pair("task a", "x"), {**pair("task a", "y"), **row}])
    with pytest.raises(InputError) as caught:
        read_tasks([path])
    assert message in str(caught.value)


def test_the_same_pair_in_two_files_is_named(tmp_path):
    one, two = (write_rows(tmp_path / name, [pair("a", "x")]) for name in ("selected.jsonl", "control.jsonl"))
    with pytest.raises(
        InputError, match=r"control\.jsonl, line 1: .* appears twice \(first: .*selected\.jsonl, line 1"
    ):
        read_tasks([one, two])
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(InputError, match="the file has no tasks"):
        read_tasks([tmp_path / "none.jsonl"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"grade": 3}, "line 2: field 'grade' is 3, not a whole number in 0..2"),
        ({"grade": True}, "field 'grade' is True"),
        ({"grade": 1, "text": ""}, "line 2: field 'text' is empty or not text"),
        ({"grade": 1, "query": "A", "item_id": "x"}, "has grade 1 here, but had 0"),
    ],
)
def test_gold_lines_that_cannot_be_used(tmp_path, row, message):
    path = write_rows(tmp_path / "g.jsonl", [{**pair("a", "x"), "grade": 0}, {**pair("b", "y"), **row}])
    with pytest.raises(InputError) as caught:
        read_gold(path, SCALE, {})
    assert message in str(caught.value)


def test_gold_without_text_takes_it_from_items(tmp_path):
    path = write_rows(tmp_path / "g.jsonl", [{"query": "a", "item_id": "x", "grade": 2}])
    gold = read_gold(path, SCALE, {"x": "the text"})
    assert gold.tasks[0].text == "the text" and gold.tasks[0].arm == "gold" and list(gold.grades.values()) == [2]


def test_gold_is_drawn_over_many_queries_in_the_shape_of_the_tasks(tmp_path):
    _, path = project(tmp_path)
    rows = [r | {"grade": truth(r["item_id"])} for r in pairs("long", 6, 20)]
    gold = read_gold(write_rows(path, rows), SCALE, {})
    tasks = [task(f"t{n}", f"i{m}") for n in range(5) for m in range(3)]
    drawn = draw_gold(gold, tasks, 16, 0)
    counts = [sum(t.query == q for t in drawn.tasks) for q in dict.fromkeys(t.query for t in drawn.tasks)]
    assert counts == [3, 3, 3, 3, 3, 1] and len(drawn) == 16
    assert draw_gold(gold, tasks, 16, 0) == drawn != draw_gold(gold, tasks, 16, 1)
    assert len(draw_gold(gold, [*tasks, *gold.tasks], 16, 0)) == 0  # what is to be judged anyway is not asked twice


def test_gold_among_the_tasks_is_no_label(tmp_path):
    tasks, gold = project(tmp_path)
    placed = {**pairs("gold", 1, 3)[0], "arm": "gold"}
    write_rows(tasks, [*read_rows(tasks), placed])
    report = run(tmp_path, oracle(tmp_path))
    assert report.labels == 12
    with pytest.raises(InputError, match="line 13: the arm is 'gold', but the pair is in no gold file"):
        run(tmp_path, oracle(tmp_path), gold=False)


def test_the_order_tells_nothing(tmp_path):
    tasks = [task(f"query {q}", f"{i}", other_fields={"score": i / 10}) for q in range(30) for i in range(4)]
    order = order_blindly(tasks, 5)
    assert sorted(t.task for t in order) == sorted(t.task for t in tasks)
    assert order_blindly(tasks[::-1], 5) == order != order_blindly(tasks, 6)
    queries = [t.query for t in order]
    assert len(list(dict.fromkeys(queries))) == sum(a != b for a, b in zip(queries, queries[1:], strict=False)) + 1
    scores = [t.other_fields["score"] for t in order]
    assert abs(sum((a - 0.15) * (n % 4 - 1.5) for n, a in enumerate(scores))) < 4  # no trend within a query


# ---- configuration


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"judges": ()}, "[judge] judges is empty"),
        ({"judges": ("flie",)}, "unknown judge 'flie'. Did you mean 'file'?"),
        ({"judges": ("llm:a/b",)}, "judge 'llm:a/b' has an invalid label"),
        ({"judges": ("file", "file")}, "lists one twice: file, file. Tell them apart"),
        ({"params": {"llm": {}}}, "[judge] names 'llm', not one of the judges"),
        ({"params": {"file": {"patch": ""}}}, "judge 'file' has no parameter 'patch'. It takes path, format"),
        ({"params": {"file": 3}}, "[judge.params] file is 3, not a table"),
        ({"trusted": ("web",)}, "[judge] names 'web', not one of the judges"),
        ({"min_kappa": 1.0}, "[judge] min_kappa is 1.0"),
        ({"min_gold": 1}, "[judge] min_gold is 1. Give 2 or more"),
        ({"smoothing": 0.0}, "[judge] smoothing is 0.0"),
        ({"seed": -1}, "[judge] seed is -1"),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(UsageError) as caught:
        JudgeConfig(**settings)
    assert message in str(caught.value)


def test_the_guideline_is_read_beside_the_configuration(tmp_path):
    (tmp_path / "g.md").write_text("# In doubt the lower")
    assert JudgeConfig(guideline="g.md").guideline_text(tmp_path) == "# In doubt the lower"
    assert JudgeConfig().guideline_text(tmp_path) == "" and JudgeConfig().gold_path(tmp_path) is None
    assert JudgeConfig(gold="g.jsonl").gold_path(tmp_path) == tmp_path / "g.jsonl"
    with pytest.raises(UsageError, match=r"no\.md: the guideline cannot be read \(No such file"):
        JudgeConfig(guideline="no.md").guideline_text(tmp_path)


def test_what_it_would_cost_is_said_without_asking(tmp_path):
    project(tmp_path)
    config = JudgeConfig(judges=("file", "judgments"), gold_pairs=10)
    ready = prepare_judging(
        config, [tmp_path / "tasks.jsonl"], tmp_path / "gold.jsonl", scale=SCALE, out=tmp_path / "out"
    )
    assert estimate(ready, config) == [{"judge": "file", "pairs": 22}, {"judge": "judgments", "pairs": 48}]
    assert not (tmp_path / "out").exists()
    open_work(ready, config)
    assert json.loads((tmp_path / "out" / "job.json").read_text())["gold"] == 10


def test_a_judge_of_ones_own_can_be_registered(tmp_path, monkeypatch):
    class Sure:
        people, free = False, True

        def judge(self, tasks, job, report):
            from trainer.judging import Answer

            return JudgeAnswers({"": {t.task: Answer.of([0.1, 0.2, 0.7]) for t in tasks}})

    judges = Registry("judge")
    judges.register("sure", cite="ours")(Sure)
    monkeypatch.setattr("trainer.judging.config.JUDGES", judges)
    project(tmp_path)
    report = run(tmp_path, JudgeConfig(judges=("sure",), trusted=("sure",), min_kappa=-1.0), report=silent)
    rows = read_rows(report.judgments)
    assert {r["grade"] for r in rows} == {2} and rows[0]["grade_probs"] == [0.1, 0.2, 0.7]
