"""The gate: who may take whose place, by which bound, and what a no says."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darl_opensearch.bundle import Bundle, writing
from darl_opensearch.errors import DarlError, InputError, UsageError
from darl_opensearch.records.judgments import digest_records, read_judgments
from darl_opensearch.scores import GradeScale
from darl_opensearch.scoring import Scorer
from darl_opensearch.stats.bootstrap import Interval
from darl_opensearch.stats.grades import ranked_probability_score
from darl_opensearch.stats.paired import Claim, compare_paired, power
from darl_opensearch.stats.ranking import ndcg_per_query
from tests.helpers.bundles import ITEMS, SCALE3, TEMPLATE, tiny_bundle, with_slope
from tests.helpers.commands import run_main
from tests.helpers.files import write_rows
from trainer.evaluate.gate import gate
from trainer.evaluate.gate_report import AGREEMENT, ROUNDING, Change, GateReport
from trainer.evaluate.gate_words import explain_loss, explain_no_gain, render_decision
from trainer.evaluate.looks import FUTILE, Look, plan_looks
from trainer.evaluate.parts import JudgedPart, read_catalogue, read_part
from trainer.evaluate.settings import GateOptions

OPTIONS = {"draws": 400, "threads": 1}
WORDS = {
    "b": ["stolen", "bicycle", "locks", "riders", "accident"],
    "t": ["ski", "luggage", "flights", "rescue", "piste"],
}


def judged(path, kind, *, count=40, **more):
    """Queries of two or three words of a kind of item; its items have grades 2 and 1, all others 0."""
    words = WORDS[kind]
    rows = []
    for number in range(count):
        query = f"{words[number % 5]} {words[(number // 5 + 1 + number) % 5]} number{number}"
        for item in ITEMS:
            grade = (2 if item["id"].endswith("1") else 1) if item["id"].startswith(kind) else 0
            rows.append({"query_id": f"{kind}{number}", "query": query, "item_id": item["id"], "grade": grade} | more)
    return write_rows(path, rows)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """``good`` ranks by shared words, ``bad`` the other way round, ``sure`` as good and nearly certain of it."""
    folder = tmp_path_factory.mktemp("gate")
    plain = tiny_bundle(folder / "plain", name="shoes")
    return {name: with_slope(plain, folder / name, slope) for name, slope in (("good", 10), ("bad", -10), ("sure", 20))}


@pytest.fixture
def data(tmp_path):
    files = {"items": write_rows(tmp_path / "items.jsonl", ITEMS), "id_test": judged(tmp_path / "id.jsonl", "b")}
    return files | {"control": judged(tmp_path / "control.jsonl", "t", arm="control")}


def run(old, new, data, **options):
    return gate(old, new, **data, options=GateOptions(**(OPTIONS | options)))


def changed_card(bundle, target, **fields):
    """The same files under a changed card."""
    with writing(target, dataclasses.replace(bundle.card, **fields)) as work:
        for name in bundle.digests:
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(bundle.path / name, work / name)
    return Bundle.open(target)


def values_of(bundle, path, data):
    """nDCG@10 and RPS of each query, without the evaluate package."""
    part = read_part(path.name, path, read_catalogue([data["items"]], bundle.renderer), 3, seed=0)
    texts = {item["id"]: bundle.renderer(item) for item in ITEMS}
    with Scorer.open(bundle, threads=1) as scorer:
        found = [scorer.score(q.query, [texts[i] for i in q.item_ids]) for q in part.queries]
    score = np.concatenate([one.score for one in found]).astype(float)
    ndcg = ndcg_per_query(score, np.array([0.0, 1.0, 3.0])[part.grades], part.query_index, cutoff=10)
    rps = ranked_probability_score(np.concatenate([one.grade_probs for one in found]).astype(float), part.grades)
    return np.array([ndcg[q] for q in sorted(ndcg)]), np.array(
        [rps[part.query_index == q].mean() for q in sorted(ndcg)]
    )


def test_a_better_bundle_may_take_the_place_of_a_worse_one_and_not_the_reverse(bundles, data):
    yes = run(bundles["bad"], bundles["good"], data)
    assert yes.passed and yes.reasons == ()
    for condition, path in zip(yes.conditions, (data["id_test"], data["control"]), strict=True):
        new, old = (values_of(bundles[name], path, data) for name in ("good", "bad"))
        ndcg, rps = condition.changes
        assert (ndcg.measure, rps.measure) == ("ndcg@10", "rps")
        assert ndcg.claim.interval.mean == pytest.approx((new[0] - old[0]).mean(), abs=1e-3)  # the tie-break differs
        assert rps.claim.interval.mean == pytest.approx((old[1] - new[1]).mean())  # lower is better
        assert ndcg.claim.interval.low > condition.bound and condition.queries == 40 and condition.pairs == 240
    assert [one.bound for one in yes.conditions] == [-0.01, -0.01]
    assert [[change.gain is not None for change in one.changes] for one in yes.conditions] == [[False] * 2, [True] * 2]
    no = run(bundles["good"], bundles["bad"], data)
    assert not no.passed and len(no.reasons) == 2
    assert re.match(
        r"in-distribution queries: nDCG@10 changes by -\S+ \[-\S+, -\S+\], which is a loss beyond 0.01",
        no.reasons[0],
    )
    assert re.match(r"control arm: nDCG@10 changes by -\S+ \[\S+, \S+\], which is a loss beyond 0.01$", no.reasons[1])


def test_the_same_ranking_is_no_gain(bundles, data):
    same = run(bundles["good"], bundles["good"], data)
    [reason] = same.reasons  # no loss beyond the tolerance on the one, no gain on the other
    zero = "+0.0000 [+0.0000, +0.0000]"
    assert reason == (
        f"control arm: no clear gain over 40 queries: nDCG@10 {zero} (p = 1.000), RPS {zero} (p = 1.000), {zero} once "
        "both bundles are calibrated alike; more queries are unlikely to show one"
    )  # fmt: skip


@pytest.mark.parametrize(("old", "new"), [("good", "sure"), ("sure", "good")])
def test_recalibration_alone_is_no_gain(bundles, data, old, new):
    """Two bundles that differ by the slope of their grades alone: whichever has the better RPS may not replace it."""
    found = run(bundles[old], bundles[new], data)
    rps = found.conditions[1].changes[1]
    assert rps.old.mean != pytest.approx(rps.new.mean, abs=0.01)
    assert rps.gain.left.mean == pytest.approx(0, abs=1e-5)
    assert not found.passed and found.conditions[0].passed
    if rps.claim.interval.mean > 0:
        assert rps.gain.clear and not rps.gain.holds
        zero = re.escape("+0.0000 [+0.0000, +0.0000]")
        assert re.search(rf"RPS \+\S+ \[\S+, \S+\] \(p = 0\.\d+\), {zero} once both .* alike; more", found.reasons[0])


def test_a_gain_in_grades_alone_is_enough(bundles, data):
    """The order of most queries stays as it is, the grades get better, and not by calibration alone."""
    found = run(bundles["bad"], bundles["good"], data)
    order, grades = found.conditions[1].changes
    assert grades.gain.holds and grades.gain.left.mean > 0.001
    # The level is shared by both tests: Holm's adjusted p is at least p, and twice it for the smaller.
    ps = sorted([(order.claim.p, order.gain.p), (grades.claim.p, grades.gain.p)])
    assert ps[0][1] == pytest.approx(2 * ps[0][0]) and ps[1][1] == pytest.approx(max(ps[0][1], ps[1][0]))


@pytest.mark.parametrize(
    ("ndcg", "rps", "left", "passed"),
    [
        (0.0, 0.02, 0.01, True),  # grades alone
        (0.02, -0.02, -0.02, True),  # order alone
        (0.0, 0.02, 0.0, False),  # grades, by calibration alone
        (0.0, 0.02, 0.002, False),  # a rest that may be chance
        (0.0, 0.0, 0.0, False),
        (-0.02, 0.02, 0.02, False),  # better grades do not buy a loss of order
    ],
)
def test_what_earns_a_yes(monkeypatch, tmp_path, ndcg, rps, left, passed):
    from trainer.evaluate import gate_decision as gates

    sides = figures_with(np.random.default_rng(0), 60, ndcg, rps, left)
    monkeypatch.setattr(gates, "recalibrated_rps", lambda grading, gains: grading.left)
    part = JudgedPart("control", tmp_path, "", (), np.zeros(0, dtype=np.int64), (), np.zeros(0, dtype=np.int64), ())
    assert gates.decide_part(part, *sides, (0.0, 1.0, 3.0), GateOptions(draws=400)).passed is passed


def test_no_number_of_queries_shows_a_gain_of_which_nothing_is_left(bundles, data):
    """A small gain in RPS by calibration alone: more queries would make it clear, and then refuse it."""
    found = run(bundles["sure"], bundles["good"], data, draws=100)
    rps = found.conditions[1].changes[1]
    unclear = dataclasses.replace(rps, gain=dataclasses.replace(rps.gain, clear=False))
    assert unclear.gain.power.needed and unclear.gain.left.mean == pytest.approx(0, abs=1e-5)
    assert explain_no_gain("control", [unclear], 30).endswith("; more queries are unlikely to show one")


def test_without_tolerance_no_loss_at_all(bundles, data):
    no = run(bundles["good"], bundles["good"], data, tolerance=0.0)
    assert str(no.conditions[0].bound) == "0.0"
    assert "so a loss of 0 or more is not excluded, and more queries would hardly change that" in no.reasons[0]


def test_the_bound_decides_as_it_is_written(bundles, data):
    loss = run(bundles["good"], bundles["bad"], data).conditions[0].changes[0].claim.interval
    wide = run(bundles["good"], bundles["bad"], data, tolerance=-loss.low + AGREEMENT + 1e-9)
    assert wide.conditions[0].passed and not wide.conditions[1].passed and not wide.conditions[0].undecided
    assert (
        not run(bundles["good"], bundles["bad"], data, tolerance=-loss.low - AGREEMENT - 1e-9).conditions[0].undecided
    )


@pytest.mark.parametrize("nearer", [AGREEMENT - 1e-6, 1e-6, -1e-6, -AGREEMENT + 1e-6])
def test_a_bound_nearer_than_machines_agree_is_a_no(bundles, data, nearer):
    """On either side of the bound, and whichever part it is."""
    loss = run(bundles["good"], bundles["bad"], data).conditions[0].changes[0].claim.interval
    near = run(bundles["good"], bundles["bad"], data, tolerance=-loss.low + nearer)
    part = near.conditions[0]
    assert not part.passed and part.undecided and part.to_json()["undecided"]
    assert re.search(r" over 40 queries: undecided, since the lower end is within 0.002 of \S+, which is as near as "
                     r"machines agree\. About \d+ should suffice$", part.reason)  # fmt: skip


def test_too_few_queries_are_a_no_that_says_how_many(bundles, data, tmp_path):
    few = data | {"control": judged(tmp_path / "few.jsonl", "t", count=12)}
    no = run(bundles["bad"], bundles["good"], few)
    [reason] = no.reasons
    assert re.search(r"12 queries are too few to decide; at least 30 are needed\. About 30 should suffice$", reason)
    assert run(bundles["bad"], bundles["good"], few, min_queries=12).passed
    one = data | {"control": judged(tmp_path / "one.jsonl", "t", count=1)}
    assert (
        "1 queries have a nDCG@10 value, too few to decide; at least 30"
        in run(bundles["bad"], bundles["good"], one).reasons[0]
    )


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=40), st.sampled_from([-0.01, 0.0]))
def test_power_is_the_sample_size_of_a_paired_test(differences, bound):
    values = np.array(differences)
    found = power(np.append(values, np.nan), bound)  # a query without a value counts for nothing
    sd, distance = values.std(ddof=1), values.mean() - bound
    assert found.sd == pytest.approx(sd)
    assert found.detectable == pytest.approx((1.959964 + 0.841621) * sd / math.sqrt(len(values)))
    if distance > 1e-6 and found.needed is not None:
        assert found.needed == pytest.approx((2.801585 * sd / distance) ** 2, abs=1.01)
    if distance <= 0:
        assert found.needed is None  # at this mean, no number of queries would do


def test_so_many_queries_do_show_it():
    """With the number of queries that is asked for, the bound is exceeded about 4 times in 5."""
    rng = np.random.default_rng(0)
    needed = power(rng.normal(0.05, 0.2, size=20_000), 0.0).needed
    lows = [
        compare_paired(d, np.zeros(needed), draws=300).interval.low for d in rng.normal(0.05, 0.2, size=(200, needed))
    ]
    assert 0.7 < np.mean(np.array(lows) > 0) < 0.9


def test_no_difference_is_seldom_taken_for_a_gain():
    rng = np.random.default_rng(1)
    lows = [compare_paired(d, np.zeros(30), draws=300).interval.low for d in rng.normal(0, 0.2, size=(400, 30))]
    assert np.mean(np.array(lows) > 0) < 0.025 + 3 * math.sqrt(0.025 * 0.975 / 400)


@pytest.mark.parametrize(
    ("low", "high", "n", "expected"),
    [
        (-0.03, -0.012, 90, "which is a loss beyond 0.01"),
        (-0.04, 0.03, 90, "90 queries are too few to decide, and the lower end must be above -0.01. About {} should"),
        (-0.001, 0.03, 20, "20 queries are too few to decide; at least 30 are needed. About {} should suffice"),
    ],
)  # fmt: skip
def test_why_not(low, high, n, expected):
    mean = (low + high) / 2
    needed = power(np.array([mean - 0.1, mean + 0.1] * 50), -0.01)
    change = Change("ndcg@10", *[Interval(0.5, 0.4, 0.6, n)] * 2, Claim(Interval(mean, low, high, n), 0.1), needed)
    assert expected.format(f"{needed.needed or 0:,}") in explain_loss("id", change, -0.01, 30)


def test_another_scale_or_template_needs_a_reason(bundles, data, tmp_path):
    scale = GradeScale(SCALE3.names, (0.0, 1.0, 2.0))
    other = changed_card(bundles["good"], tmp_path / "other", scale=scale)
    no = run(bundles["bad"], other, data)
    assert no.reasons[0] == (
        "grades: {'irrelevant': 0.0, 'related': 1.0, 'fits': 2.0} is not the old bundle's "
        "{'irrelevant': 0.0, 'related': 1.0, 'fits': 3.0}"
    )  # fmt: skip
    yes = run(bundles["bad"], other, data, changed="a fit is worth two")
    assert yes.passed
    assert "because: a fit is worth two" in {one.check: one.detail for one in yes.checks}["grades"]
    template = changed_card(
        bundles["good"], tmp_path / "t", template=dataclasses.replace(TEMPLATE, fields=("=name", "cover"))
    )
    [reason] = run(bundles["bad"], template, data).reasons
    assert reason.startswith("template: ") and reason.endswith("reload the index with the new one")
    # Five grades and three have an order in common, and no distribution.
    five = tiny_bundle(tmp_path / "five", name="shoes", scale=GradeScale(tuple("abcde"), (0, 1, 2, 3, 4)))
    found = run(bundles["bad"], five, data, changed="finer")
    assert [one.measure for one in found.conditions[0].changes] == ["ndcg@10"]
    higher = judged(tmp_path / "higher.jsonl", "t", arm="control")
    rows = [json.loads(line) for line in higher.read_text().splitlines()]
    write_rows(higher, [row | {"grade": 2 * row["grade"]} for row in rows])  # grades that the old bundle has not
    again = run(bundles["bad"], five, data | {"control": higher}, changed="finer")
    assert [one.measure for one in again.conditions[1].changes] == ["ndcg@10"]
    [order] = found.conditions[1].changes
    assert found.passed and order.gain.holds and order.gain.p == order.claim.p  # one test has the whole level


def test_a_bundle_that_is_not_sound_may_not(bundles, data, tmp_path):
    broken = changed_card(bundles["good"], tmp_path / "broken")
    np.save(tmp_path / "c.npy", np.array([np.nan], dtype=np.float32))
    with writing(tmp_path / "nan", broken.card) as work:
        for name in broken.digests:
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tmp_path / "c.npy" if name.endswith("calibration.npy") else broken.path / name, work / name)
    no = run(bundles["bad"], Bundle.open(tmp_path / "nan"), data)
    assert no.reasons[0].startswith("new bundle, calibration: ")


def test_queries_of_the_training_are_refused(bundles, data, tmp_path):
    seen = run(bundles["bad"], bundles["good"], data, train=(data["control"],))
    assert re.match(
        r"training data, control: 'luggage \S+ number\d+'|training data, control: .* is the same query text",
        seen.reasons[0],
    )
    near = tmp_path / "near.jsonl"
    row = json.loads(data["control"].read_text().splitlines()[0])
    write_rows(near, [row | {"query": " ".join(reversed(row["query"].split()))}])
    assert (
        "is a query with nearly the same words as"
        in run(bundles["bad"], bundles["good"], data, train=(near,)).reasons[0]
    )
    assert run(bundles["bad"], bundles["good"], data, train=(near,), allow=("near-query",)).passed
    unknown = [one for one in run(bundles["bad"], bundles["good"], data).checks if one.check == "training data"]
    assert [one.passed for one in unknown] == [None]  # not known is said, and no reason
    # Without the files, a part that is the bundle's own is known by its digest.
    items = read_catalogue([data["items"]], bundles["good"].renderer)
    training = {"data": {"dev": {"sha256": digest_records(read_judgments(data["id_test"], items, 3))}}}
    own = changed_card(bundles["good"], tmp_path / "own", training=training)
    assert run(bundles["bad"], own, data).reasons == ("training data, id: this part is the bundle's own 'dev' part",)


def test_what_is_refused_before_anything_is_scored(bundles, data, tmp_path):
    with pytest.raises(UsageError, match="the same file is given for both parts"):
        run(bundles["bad"], bundles["good"], data | {"control": data["id_test"]})
    chosen = judged(tmp_path / "chosen.jsonl", "t", arm="selected")
    with pytest.raises(
        InputError, match=r"chosen.jsonl, line 1, field 'arm': this judgment belongs to the arm 'selected'"
    ):
        run(bundles["bad"], bundles["good"], data | {"control": chosen})
    for wrong, why in (
        ({"measure": "ndcg"}, "unknown measure of order 'ndcg'. Choose ndcg@C, p@C"),
        ({"measure": "ndcg@0"}, "unknown measure"),
        ({"measure": "rps"}, "unknown measure of order 'rps'.* the grades are always measured by rps"),
        ({"tolerance": -1.0}, "tolerance is -1.0. Give 0 or more"),
        ({"tolerance": math.nan}, "tolerance is nan"),
        ({"min_queries": 1}, "min_queries is 1. Give 2 or more"),
        ({"draws": 10}, "draws is 10. Give 100 to 1000000"),
        ({"relevant_from": 0}, "relevant_from is 0. Give 1 or more"),
        ({"relevant_from": 3}, r"grade 3 does not split the scale 0..2 in two"),
        ({"allow": ("item",)}, "allow holds 'item'. Choose query or near-query"),
    ):
        with pytest.raises(DarlError, match=why):
            run(bundles["bad"], bundles["good"], data, **wrong)


@pytest.mark.parametrize("measure", ["ndcg@3", "p@2", "ap", "rr"])
def test_every_measure_of_order_can_decide(bundles, data, measure):
    found = run(bundles["bad"], bundles["good"], data, measure=measure)
    assert found.conditions[0].changes[0].measure == measure
    assert found.conditions[0].changes[0].claim.interval.n == 40
    changes = found.to_json()["conditions"]["control"]["changes"]
    assert [(one["measure"], one["lower_is_better"]) for one in changes if one["gain"]] == [
        (measure, False),
        ("rps", True),
    ]


def test_the_same_seed_gives_the_same_report(bundles, data):
    one, two = (run(bundles["bad"], bundles["good"], data, seed=3).to_json() for _ in range(2))
    assert one | {"created": ""} == two | {"created": ""}
    json.dumps(one, allow_nan=False)


def test_the_command(bundles, data, tmp_path):
    def darl(old, new, *words):
        return run_main(
            "gate", bundles[old].path, bundles[new].path, "--items", data["items"], "--id",
            data["id_test"], "--control", data["control"], "--draws", "400", *words,
        )  # fmt: skip

    out = tmp_path / "gate.json"
    yes = darl("bad", "good", "--json", "--out", out)
    result = json.loads(yes.out)
    assert (yes.code, yes.err) == (0, "") and json.loads(out.read_text()) == result
    assert result["passed"] and result["options"]["seed"] == 0 and result["new"]["identity"] == bundles["good"].identity
    assert result["weights"] == "plain means over queries: the control arm was drawn by traffic"
    change = result["conditions"]["control"]["changes"][0]["change"]
    assert change["low"] > 0 and change["n"] == 40 and 0 < change["p"] < 0.05
    no = darl("good", "bad", "--out", out)
    assert no.code == 3 and "darl: " in no.err and "the gate refuses it" in no.err
    assert (
        "gate REFUSED: shoes 1 against shoes 1" in no.out
        and "control arm" in no.out
        and "refused: in-distribution queries" in no.out
    )
    assert json.loads(out.read_text())["passed"] is False
    assert render_decision(json.loads(out.read_text())) == no.out.rstrip("\n")
    assert darl("bad", "good", "--measure", "mrr").code == 2


def test_items_without_text_are_passed_over_and_counted(bundles, data, tmp_path):
    whole = run(bundles["bad"], bundles["good"], data).to_json()
    blank = {"id": "nothing", "name": "", "kind": "", "cover": ""}
    more = [json.loads(line) for line in data["control"].read_text().splitlines()]
    more += [row | {"item_id": "nothing", "grade": 2} for row in more[::6][:2]]
    files = data | {
        "items": write_rows(tmp_path / "more.jsonl", [*ITEMS, blank]),
        "control": write_rows(tmp_path / "more_control.jsonl", more),
    }  # fmt: skip
    found = run(bundles["bad"], bundles["good"], files).to_json()
    assert found["without_text"] == {"nothing": 2}
    assert found["conditions"]["control"]["changes"] == whole["conditions"]["control"]["changes"]
    said = run_main(
        "gate", bundles["bad"].path, bundles["good"].path, "--items", files["items"], "--id", files["id_test"],
        "--control", files["control"], "--draws", "400",
    )  # fmt: skip
    assert said.err == "warning: passed over: 1 item without text (nothing), with 2 judgments\n"
    pairs = sum(condition["pairs"] for condition in whole["conditions"].values())
    assert f"joined with the items: {pairs} judgments matched, 2 did not\n" in said.out


def figures_with(rng, n, ndcg, rps, left):
    """Two versions' figures whose changes have exactly these means and a standard deviation of .01."""
    noise = rng.normal(size=(3, n))
    noise = 0.01 * (noise - noise.mean(1, keepdims=True)) / noise.std(1, ddof=1, keepdims=True)
    differences = [mean + each for mean, each in zip((ndcg, rps, left), noise, strict=True)]
    return [
        SimpleNamespace(by_query={"ndcg@10": sign * differences[0], "rps": -sign * differences[1]},
                        grading=SimpleNamespace(k=3, left=-sign * differences[2]))
        for sign in (0, 1)
    ]  # fmt: skip


@pytest.fixture
def decide(monkeypatch, tmp_path):
    """Decides a look at a control arm of given changes."""
    from trainer.evaluate import gate_decision as gates

    monkeypatch.setattr(gates, "recalibrated_rps", lambda grading, gains: grading.left)
    nothing = np.zeros(0, dtype=np.int64)
    part, options = JudgedPart("control", tmp_path, "", (), nothing, (), nothing, ()), GateOptions(draws=4000)

    def look_at(look, ndcg, rps, left, *, seed=0):
        sides = figures_with(np.random.default_rng(seed), look.seen, ndcg, rps, left)
        condition = gates.decide_part(part, *sides, (0.0, 1.0, 3.0), options, look)
        return condition, gates.decide_look(GateReport(None, None, options, (condition,), (), ""), look)

    return look_at


def test_one_look_is_a_gate_that_sees_all():
    (look,) = plan_looks(120, 1)
    assert (look.levels, look.last, look.is_last) == ((0.05, 0.025), (0.05, 0.025), True)
    assert plan_looks(1, 4) == (Look(seen=1, planned=1),) and plan_looks(0, 4) == (Look(),)
    assert [look.seen for look in plan_looks(10, 4)] == [3, 5, 8, 10]
    assert [(look.number, look.count, look.seen) for look in plan_looks(3, 4)] == [(1, 3, 1), (2, 3, 2), (3, 3, 3)]


def test_a_look_uses_its_own_level_for_the_gain_the_loss_and_what_is_left(decide):
    first, second, *_, last = plan_looks(160, 4)
    clear, found = decide(second, 0.02, 0.02, 0.02)
    assert clear.passed and found["decision"] == "yes" and found["chance"] is None
    order, grades = clear.changes
    assert sorted([order.gain.level, grades.gain.level]) == sorted([second.levels[1], second.levels[0]])
    wide, narrow = (decide(look, 0.0, 0.003, 0.003)[0].changes for look in (first, last))
    assert wide[0].claim.interval.low < narrow[0].claim.interval.low
    error = 0.01 / math.sqrt(second.seen)
    # A gain that one test of the whole level would show is not shown by an early look.
    fixed = dataclasses.replace(second, number=1, count=1, levels=(0.05, 0.025), last=(0.05, 0.025))
    sizes = [decide(look, 2.8 * error, 0.0, 0.0) for look in (fixed, second)]  # quantiles of 2.24 and 3.35
    assert [found["decision"] for _, found in sizes] == ["yes", "continue"]
    # What is left has a bound at the level of the look, too.
    rest = [decide(look, 0.0, 0.02, 2.5 * error) for look in (fixed, second)]  # of 1.96 and 2.96
    assert [found["decision"] for _, found in rest] == ["yes", "continue"]
    assert rest[1][0].changes[1].gain.clear and rest[1][0].changes[1].gain.left.low <= ROUNDING


@pytest.mark.parametrize(
    ("ndcg", "rps", "left", "decision"),
    [
        (0.0, 0.002, 0.002, "continue"),
        (0.0, 0.0, 0.0, "futile"),
        (0.0, 0.02, -0.001, "futile"),  # by calibration alone
        (-0.02, 0.02, 0.02, "futile"),  # a loss of order
        (0.002, -0.02, -0.02, "continue"),  # order alone may still gain
    ],
)
def test_when_a_look_is_futile(decide, ndcg, rps, left, decision):
    _, second, *_ = plan_looks(160, 4)
    _, found = decide(second, ndcg, rps, left, seed=1)
    assert found["decision"] == decision and (found["chance"] < FUTILE) == (decision == "futile")


def test_the_last_look_is_a_yes_or_a_no(decide):
    *_, last = plan_looks(160, 4)
    assert decide(last, 0.0, 0.0, 0.0)[1]["decision"] == "no"
    assert decide(last, 0.02, 0.0, 0.0)[1]["decision"] == "yes"


def test_of_identical_versions_nothing_is_to_be_expected():
    _, second, *_ = plan_looks(160, 4)
    assert (second.find_chance(0.0, 0.0, 80, 1), second.find_chance(0.1, 0.0, 80, 1)) == (0.0, 1.0)
    assert second.find_chance(0.0, math.nan, 1, 2) == 1.0
