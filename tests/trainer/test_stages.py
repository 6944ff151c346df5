"""The plan over all its stages: registry, new samples with replay, worst slices, the run's folder."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from darl_opensearch.errors import DarlError, InputError, UsageError
from darl_opensearch.records.judgments import JudgedQuery
from darl_opensearch.stats.bootstrap import Interval, bootstrap_mean
from tests.helpers.files import write_rows
from tests.helpers.plan_project import kill_in_stage, source_of, weights, write_plan
from tests.helpers.training_project import laws
from trainer import run_folder
from trainer.config import Loss, Term, read_config
from trainer.losses import GRADE_LOSSES, RANK_LOSSES
from trainer.models.heads import HEADS, CumulativeHead
from trainer.report import write_report
from trainer.stages import STAGES, cross_validation, fit, plan
from trainer.stages.calibrated import measure_calibrated
from trainer.stages.full_stage import GradedLoss
from trainer.stages.head_stage import fit_head
from trainer.stages.objective import Objective, predict
from trainer.stages.registry import check_plan
from trainer.stages.robust import GroupDroLoss, HeadData, WholeSetDro, ascend, dev_objective, find_groups
from trainer.stages.verdict import Gain, Verdict, average_gains
from trainer.training_data.mixing import Replayed, Taught, Together
from trainer.training_data.pairs import Pairs
from trainer.training_data.source import Batch

GAINS = (0.0, 1.0, 3.0)


def train(path: Path, folder: Path, *overrides: str, **options):
    return plan.train(read_config(path, overrides), path.parent, folder, **options)


def equal(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# ---- the registry


@pytest.mark.parametrize("name", list(STAGES))
def test_every_stage_says_what_it_is(name):
    entry = STAGES[name]
    assert entry.summary and entry.cite and not entry.summary.endswith(".")
    stage = entry.make()
    assert stage.judged_on[0] == "dev"
    assert all(param.field.help for param in entry.params.values())


def test_the_plan_names_no_stage():
    source = Path(plan.__file__).read_text()
    assert not [name for name in STAGES if f'"{name}"' in source or f"'{name}'" in source]


NEEDS = {
    "augmented": ("data.new=''", "[data] new is empty. Set it to the judgments of the new samples"),
    "interpolate": ("data.ood_dev=''", "[data] ood_dev is empty. Set it to judgments of OOD traffic"),
    "refit": ("data.new=''", "[data] new is empty. Set it to the new samples' judgments"),
    "distill": ("distill.teacher=''", "[distill] teacher is empty. Write file:"),
}


@pytest.mark.parametrize("name", NEEDS)
def test_a_stage_without_what_it_needs_is_refused_with_the_configuration(tmp_path, bases, name):
    path = write_plan(tmp_path / "p", bases["bert"])
    setting, message = NEEDS[name]
    with pytest.raises(UsageError) as caught:
        check_plan(read_config(path, [f"stages.run=['{name}']", setting]), str(path))
    assert str(caught.value).startswith(f"{path}: [stages] run lists {name}, but") and message in str(caught.value)


def test_an_unknown_stage(tmp_path, bases):
    path = write_plan(tmp_path / "p", bases["bert"])
    with pytest.raises(UsageError, match=r"\[stages\] run lists 'augment'\. Did you mean 'augmented'\?"):
        check_plan(read_config(path, ["stages.run=['head', 'augment']"]))


def test_nothing_to_interpolate_from(tmp_path, bases):
    path = write_plan(tmp_path / "p", bases["bert"])
    with pytest.raises(UsageError, match="lists interpolate without augmented before it. Put augmented before it"):
        check_plan(read_config(path, ["stages.run=['interpolate', 'augmented']"]))
    check_plan(read_config(path, ["stages.run=['full', 'interpolate']", "interpolate.between='start'"]))


@pytest.mark.parametrize("command", [["train"], ["train", "--dry-run"], ["mine", "--dry-run"]])
def test_commands_refuse_a_plan_before_they_begin(tmp_path, bases, command, darl):
    path = write_plan(tmp_path / "p", bases["bert"], stages={"run": ["head", "augment"]})
    done = darl(*command, path)
    assert done.code == 2 and done.err.startswith(f"darl: {path}: [stages] run lists 'augment'")
    assert not (path.parent / "runs").exists()


def test_a_plan_is_refused_without_a_command_too(tmp_path, bases):
    path = write_plan(tmp_path / "p", bases["bert"])
    with pytest.raises(UsageError, match=r"\[stages\] run lists 'augment'"):
        train(path, tmp_path / "run", "stages.run=['augment']")
    assert not (tmp_path / "run").exists()


# ---- verdicts


def test_the_gain_of_one_dev_set():
    gains = np.array([0.1, 0.0, 0.2, 0.1])
    found = average_gains([gains], seed=3)
    assert found.error == float(gains.std(ddof=1) / np.sqrt(4)) and found.clear
    assert found.interval == bootstrap_mean(gains, seed=3)


def test_two_dev_sets_weigh_alike():
    found = average_gains([np.full(30, 0.0), np.array([0.3, 0.5])], seed=0)
    assert found.interval.mean == pytest.approx((0.0 + 0.4) / 2)
    assert found.error == pytest.approx(np.sqrt(0.02) / np.sqrt(2) / 2)  # half the error of the two
    assert found.clear and found.interval.low <= found.interval.mean <= found.interval.high
    one = np.array([0.1, 0.2])
    assert average_gains([np.zeros(0), one], seed=0) == average_gains([one], seed=0)


@pytest.mark.parametrize("sets", [[], [np.zeros(0)], [np.array([1.0])], [np.full(3, np.nan)], [np.full(4, -0.1)]])
def test_no_gain_is_a_no(sets):
    assert not average_gains(sets, seed=0).clear


@pytest.mark.parametrize(
    ("rps", "ndcg", "kept"),
    [
        (0.011, 0.0, True), (0.011, -0.009, True),  # nDCG falls within its noise
        (0.0, 0.011, True), (-0.009, 0.011, True),  # a better order with grades that are no worse
        (0.009, 0.009, False), (-0.011, 0.5, False), (0.011, -0.011, False), (0.011, math.nan, False),
    ],
)  # fmt: skip
def test_a_stage_needs_better_grades_or_order_and_neither_worse(rps, ndcg, kept):
    gains = [Gain(Interval(mean, mean, mean, 9), 0.01) for mean in (rps, ndcg)]
    assert Verdict(*gains).kept is kept


# ---- figures with grades calibrated on other queries


def judged(seed: int, queries: int = 40, width: int = 3) -> tuple[Pairs, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    head_input = torch.randn(queries * 6, width, generator=rng)
    noise = torch.randn(queries * 6, generator=rng)
    grades = torch.bucketize(head_input[:, 0] + 0.5 * noise, torch.tensor([0.0, 1.0]))
    index = torch.stack([torch.arange(queries).repeat_interleave(6), torch.arange(queries * 6)], dim=1)
    texts = tuple(f"q{n}" for n in range(queries)), tuple(f"i{n}" for n in range(queries * 6))
    return Pairs(*texts, index, grades), head_input


def test_recalibration_is_no_gain_and_knowledge_is():
    pairs, head_input = judged(0)
    gains, head = (0.0, 1.0, 2.0), CumulativeHead(3, (0.0, 1.0, 2.0))
    moved = copy.deepcopy(head)
    moved.rescale(7.0, torch.tensor([3.0, 3.5]))  # the same order, with other probabilities
    blind = copy.deepcopy(head)
    with torch.no_grad():
        blind.weight.copy_(torch.tensor([0.0, 1.0, 0.0]))
    of = {n: measure_calibrated(h, pairs, head_input, gains, cutoff=10) for n, h in enumerate((head, moved, blind))}
    assert np.abs(of[0].gains_to(of[1]).rps).max() < 1e-5
    assert of[0].ndcg == of[1].ndcg
    assert np.mean(of[2].gains_to(of[0]).rps) > 0.05 and np.mean(of[2].gains_to(of[0]).ndcg) > 0.1


def test_a_query_does_not_calibrate_its_own_figures():
    """One query's grades change: only the figures of its fold stay as they were, but for its own."""
    pairs, head_input = judged(1)
    head = CumulativeHead(3, (0.0, 1.0, 2.0))
    other = dataclasses.replace(pairs, grades=torch.where(pairs.query_index == 7, 2 - pairs.grades, pairs.grades))
    one, two = (measure_calibrated(head, p, head_input, (0.0, 1.0, 2.0), cutoff=10).rps for p in (pairs, other))
    same_fold = [q for q in one if q % 5 == 7 % 5 and q != 7]
    assert [one[q] for q in same_fold] == [two[q] for q in same_fold] and one[7] != two[7]
    assert all(one[q] != two[q] for q in one if q % 5 != 7 % 5)


def test_rps_of_a_query_by_hand():
    """There is no other query to calibrate on: the head's own probabilities."""
    pairs = Pairs(("q",), ("a", "b"), torch.tensor([[0, 0], [0, 1]]), torch.tensor([0, 2]))
    head, head_input = CumulativeHead(1, (0.0, 1.0, 2.0)), torch.tensor([[0.3], [0.9]])
    low, high = predict(head, head_input).grade_probs  # of a pair with grade 0 and one with grade 2
    by_hand = [
        ((low[0] - 1) ** 2 + (low[0] + low[1] - 1) ** 2) / 2,
        (high[0] ** 2 + (high[0] + high[1]) ** 2) / 2,
    ]
    assert measure_calibrated(head, pairs, head_input, (0.0, 1.0, 2.0), cutoff=10).rps == {
        0: pytest.approx(np.mean(by_hand))
    }


# ---- cross-validation of a stage


def test_the_encoder_stage_is_measured_on_queries_that_it_has_not_learnt_from(tmp_path, bases, monkeypatch):
    path = write_plan(tmp_path / "p", bases["bert"], stages={"run": ["head", "full"], "folds": 3})
    learnt = []
    real = {name: STAGES[name].make.run for name in ("head", "full")}

    def spy(name):
        def run(self, context):
            learnt.append((name, [query.query_id for query in context.data.train]))
            return real[name](self, context)

        return run

    for name in real:
        monkeypatch.setattr(STAGES[name].make, "run", spy(name))
    trained = train(path, tmp_path / "run")
    head, full = trained.result["stages"]
    everyone = learnt[0][1]
    assert head["kept"] and [name for name, _ in learnt] == ["head", "full", *["head", "full"] * 3]
    assert learnt[1][1] == everyone
    held_out = [set(everyone) - set(queries) for _, queries in learnt[2:]]
    assert held_out[0::2] == held_out[1::2]
    assert set.union(*held_out) == set(everyone) and sum(map(len, held_out[0::2])) == len(everyone)
    assert full["out_of_fold"] == len(everyone)
    assert full["rps_gain"]["n"] == len(everyone) + trained.data["dev"]["queries"]
    assert not (tmp_path / "run" / "stages" / "1-full").exists()


def test_with_enough_dev_queries_nothing_is_cross_validated(tmp_path, bases, monkeypatch):
    path = write_plan(tmp_path / "p", bases["bert"], stages={"run": ["full"], "folds": 3})
    monkeypatch.setattr(cross_validation, "ENOUGH_DEV", 1)
    stage = train(path, tmp_path / "run").result["stages"][0]
    assert stage["out_of_fold"] == 0 and stage["rps_gain"]["n"] == 5


def test_folds_that_were_measured_are_not_run_again(tmp_path, bases, monkeypatch):
    path = write_plan(tmp_path / "p", bases["bert"], stages={"run": ["full"], "folds": 3})
    whole = train(path, tmp_path / "a").result["stages"]
    real, calls = cross_validation.write_file, []

    def stop(*args, **kwargs):
        real(*args, **kwargs)
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(cross_validation, "write_file", stop)
    with pytest.raises(KeyboardInterrupt):
        train(path, tmp_path / "b")
    again = train(path, tmp_path / "b").result["stages"]
    assert len(calls) == 3 and again == whole


# ---- sources


def pairs_of(lists: list[list[int]], tag: str = "") -> Pairs:
    """A query for each list of grades; its items are its own."""
    index, grades, items = [], [], []
    for query, found in enumerate(lists):
        for grade in found:
            index.append((query, len(items)))
            items.append(f"{tag}item {query} {len(items)}")
            grades.append(grade)
    queries = tuple(f"{tag}query {query}" for query in range(len(lists)))
    return Pairs(queries, tuple(items), torch.tensor(index).reshape(-1, 2), torch.tensor(grades, dtype=torch.long))


def test_replay_takes_every_new_query_and_other_old_ones_each_epoch():
    new = source_of(pairs_of([[0, 1]] * 4, "new "))
    old = source_of(pairs_of([[0, 1]] * 10, "old "))
    source = Replayed(new, old, ratio=1.5, seed=0)
    assert source.n_queries == 4 + 6
    epochs = [source.batch(range(source.n_queries), epoch) for epoch in (0, 1, 0)]
    drawn = [set(batch.queries) for batch in epochs]
    assert all({f"new query {n}" for n in range(4)} <= names and len(names) == 10 for names in drawn)
    assert drawn[0] == drawn[2] != drawn[1]
    assert len(epochs[0].query_index.unique()) == 10  # a new query is never taken for an old one
    assert Replayed(new, old, ratio=99.0, seed=0).n_queries == 14
    assert Replayed(new, old, ratio=0.0, seed=0).n_queries == 4


@laws
@given(chosen=st.lists(st.integers(0, 6), unique=True))
def test_a_batch_of_two_sources_has_the_pairs_of_both(chosen):
    one, two = (source_of(pairs_of(*part)) for part in (([[0], [1, 2], [2, 0]], "a "), ([[1]] * 4, "b ")))
    batch = Together(one, two).batch(chosen, 0)
    assert len(batch.query_index.unique()) == len(chosen)
    assert sorted(set(batch.queries)) == sorted([*(f"a query {q}" for q in chosen if q < 3),
                                                 *(f"b query {q - 3}" for q in chosen if q >= 3)])  # fmt: skip
    by_query = {
        int(q): {batch.queries[i] for i in np.flatnonzero(batch.query_index.numpy() == q)} for q in batch.query_index
    }
    assert all(len(texts) == 1 for texts in by_query.values())
    sizes = {len(batch.queries), len(batch.items), len(batch.query_index), len(batch.grades), len(batch.groups)}
    assert len(sizes) == 1


def test_a_teachers_scores_go_with_their_pairs():
    source = source_of(pairs_of([[0, 1], [2]]))
    taught = Taught(source, {"query 0": {"item 0 1": 0.5}, "query 1": {"item 1 2": -2.0}})
    told = taught.batch([0, 1], 0).teacher.tolist()
    assert math.isnan(told[0]) and told[1:] == [0.5, -2.0]


# ---- the loss


def test_two_terms_of_a_kind_add_up():
    torch.manual_seed(0)
    head = HEADS["cumulative"].make(2, GAINS)
    features, grades, query_index = torch.randn(9, 2), torch.randint(0, 3, (9,)), torch.arange(9) // 3
    one = Loss(rank_weight=0, l2=0)
    parts = [
        Objective.make(one, GAINS),
        Objective.make(Loss(grade_weight=0, rank_weight=2, l2=0), GAINS),
        Objective.make(Loss(grade_weight=0, rank="lambda", rank_weight=0.5, l2=0), GAINS),
        Objective.make(Loss(grade_weight=0.25, grade="yes_no", rank_weight=0, l2=0), GAINS),
    ]
    also = (Term(kind="rank", name="lambda", weight=0.5), Term(kind="grade", name="yes_no", weight=0.25))
    whole = Objective.make(Loss(rank_weight=2, l2=0, also=also), GAINS)
    wanted = sum(part(head, features, grades, query_index) for part in parts)
    torch.testing.assert_close(whole(head, features, grades, query_index), wanted)


def test_a_further_term_from_the_configuration(tmp_path, bases):
    path = write_plan(tmp_path / "p", bases["bert"])
    path.write_text(path.read_text() + '[[loss.also]]\nkind = "rank"\nname = "lambda"\nweight = 0.5\n')
    config = read_config(path)
    assert config.loss.also == (Term(kind="rank", name="lambda", weight=0.5),)
    trained = train(path, tmp_path / "run", "stages.run=['head']")
    assert run_folder.load_run(trained.folder).config.loss.also == config.loss.also
    for spoilt, message in (
        ("kind='rnk'", "[loss.also] kind is 'rnk'. Choose grade or rank"),
        ("weigth=1", "unknown key [loss.also] weigth. Did you mean 'weight'?"),
        ("weight=-1", "[loss.also] weight is -1"),
    ):
        with pytest.raises(DarlError) as caught:
            read_config(path, [f"loss.also=[{{kind='rank', name='pairwise', {spoilt}}}]"
                               if "kind" not in spoilt else f"loss.also=[{{{spoilt}, name='x'}}]"])  # fmt: skip
        assert message in str(caught.value)


def test_grade_losses_of_two_heads_do_not_go_together():
    heads = {GRADE_LOSSES[name].head: name for name in GRADE_LOSSES}
    first, second = itertools.islice(((n, h) for h, n in heads.items()), 2)
    config = Loss(grade=first[0], also=(Term(kind="grade", name=second[0]),))
    with pytest.raises(UsageError) as caught:
        Objective.make(config, GAINS)
    text = str(caught.value)
    assert f"needs the head {second[1]!r}" in text and f"needs {first[1]!r}" in text
    assert "choose grade losses that need the same" in text
    with pytest.raises(UsageError, match="unknown rank loss 'pair'"):
        Objective.make(Loss(also=(Term(kind="rank", name="pair"),)), GAINS)
    assert set(RANK_LOSSES) & {"pairwise"}


# ---- the worst slice


class Linear:
    """A backbone whose features are looked up by item text."""

    def __init__(self, head, features):
        self.head, self.features = head, features

    def pair_features(self, queries, items):
        return dataclasses.make_dataclass("F", ["head_input"])(torch.stack([self.features[item] for item in items]))


def slices(names: list[str]) -> list[JudgedQuery]:
    return [JudgedQuery(f"q{n}", f"query {n}", ("i",), (1,), name) for n, name in enumerate(names)]


def problem(names: list[str], seed: int = 0):
    """Queries of three items in the slices given: head, model, objective, pairs, groups, source."""
    torch.manual_seed(seed)
    pairs = pairs_of([[0, 1, 2]] * len(names))
    features = {item: torch.randn(3) for item in pairs.items}
    head = HEADS["cumulative"].make(3, GAINS)
    config = Loss(groups="slice", group_queries=2, group_step=0.3, l2=0.01)
    objective = Objective.make(config, GAINS)
    groups = find_groups(config, slices(names))
    return Linear(head, features), objective, pairs, groups, source_of(pairs, names)


def test_small_slices_are_one_group():
    groups = find_groups(Loss(groups="slice", group_queries=2), slices(["a", "b", "b", "c", "a", ""]))
    assert len(groups) == 3 and groups.share.tolist() == [2 / 6, 2 / 6, 2 / 6]
    assert groups.index(["c", ""]).tolist() == [2, 2] and groups.of_query.tolist() == [0, 1, 1, 2, 0, 2]
    assert find_groups(Loss(), slices(["a", "b"])) is None
    weighted = find_groups(Loss(groups="slice", group_queries=1), slices(["a", "b"]), [1.0, 3.0])
    assert weighted.share.tolist() == [1 / 4, 3 / 4]


def test_one_group_is_the_plain_loss():
    model, objective, pairs, groups, source = problem(["a"] * 4)
    plain, robust = GradedLoss(objective), GroupDroLoss(objective, groups)
    batch = source.batch([0, 2, 3], 0)
    torch.testing.assert_close(robust(model, batch, robust.counts(batch)), plain(model, batch, plain.counts(batch)))


def test_weights_climb_by_exponentiated_gradient():
    weights = ascend(torch.tensor([1 / 4, 3 / 4]).double(), torch.tensor([math.log(3.0), 0.0]).double())
    assert weights.tolist() == pytest.approx([1 / 2, 1 / 2])


@laws
@given(seed=st.integers(0, 999), cut=st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_parts_of_a_step_sum_to_the_whole_and_move_the_weights_as_one(seed, cut):
    """However a step is shared out over processes, loss and next weights are the same."""
    names = ["a", "a", "b", "b", "b", "c"]
    model, objective, _, groups, source = problem(names, seed)
    alone, shared = GroupDroLoss(objective, groups), [GroupDroLoss(objective, groups) for _ in range(3)]
    batch = source.batch(range(6), 0)
    parts = [source.batch([q for q in range(6) if cut[q] == p], 0) for p in range(3)]
    parts = [(loss, part) for loss, part in zip(shared, parts, strict=True) if part.queries]
    whole = torch.stack([loss.counts(part) for loss, part in parts]).sum(0)
    assert whole.tolist() == alone.counts(batch).tolist()
    total = sum(loss(model, part, whole, share=len(part.query_index.unique()) / 6) for loss, part in parts)
    torch.testing.assert_close(total, alone(model, batch, whole))
    summed = sum(loss._losses for loss in shared)
    for loss in shared:
        loss.after_step(lambda tensor: tensor.copy_(summed))
    alone.after_step(lambda tensor: tensor)
    assert all(torch.allclose(loss.weights, alone.weights) for loss in shared)
    assert float(alone.weights.sum()) == pytest.approx(1.0) and len(set(alone.weights.tolist())) > 1
    again = GroupDroLoss(objective, groups)
    again.load_state_dict(alone.state_dict())
    assert torch.equal(again.weights, alone.weights)


def test_drawn_as_they_come_the_groups_count_as_if_drawn_alike():
    """The mean over all batches of one query is the weighted sum of the groups' losses."""
    names = ["a"] * 6 + ["b"] * 2
    model, objective, pairs, groups, source = problem(names)
    objective = dataclasses.replace(objective, config=dataclasses.replace(objective.config, l2=0.0))
    values = []
    for query in range(8):
        loss, batch = GroupDroLoss(objective, groups), source.batch([query], 0)
        values.append(float(loss(model, batch, loss.counts(batch)).detach()))
    features = torch.stack([model.features[item] for item in pairs.items])
    losses = []
    for group in ("a", "b"):
        rows = torch.tensor([names[q] == group for q in pairs.query_index.tolist()])
        losses.append(
            float(objective(model.head, features[rows], pairs.grades[rows], pairs.query_index[rows]).detach())
        )
    assert np.mean(values) == pytest.approx(0.5 * losses[0] + 0.5 * losses[1], rel=1e-5)


def test_the_head_serves_the_worst_slice_when_asked_to():
    """Two slices that want opposite weights: the mean follows the large one, the robust head neither."""
    torch.manual_seed(1)
    names = ["large"] * 20 + ["small"] * 4
    pairs = pairs_of([[0, 1, 2]] * 24)
    sign = torch.tensor([1.0 if names[q] == "large" else -1.0 for q in pairs.query_index.tolist()])
    features = ((pairs.grades - 1.0) * sign + 0.1 * torch.randn(72))[:, None]
    config = Loss(groups="slice", group_queries=2, group_step=0.2)
    objective, groups = Objective.make(config, GAINS), find_groups(config, slices(names))
    worst = {}
    for kind, given_groups in (("mean", None), ("robust", groups)):
        head = HEADS["cumulative"].make(1, GAINS)
        data = HeadData(pairs, features, given_groups)
        fit_head(head, data, dev=data, objective=objective, steps=40, patience=40)
        worst[kind] = dev_objective(objective, head, HeadData(pairs, features, groups))
    assert worst["robust"] < worst["mean"] - 0.5
    dro = WholeSetDro(objective, groups, pairs, features)
    before = dro.weights.clone()
    dro.reweight(HEADS["cumulative"].make(1, GAINS))
    assert dro.weights[1] > before[1]  # the untrained head ranks the small slice upside down


def test_slices_that_are_one_are_refused(tmp_path, bases):
    path = write_plan(tmp_path / "p", bases["bert"], loss={"groups": "slice"})
    with pytest.raises(UsageError) as caught:
        train(path, tmp_path / "run")
    assert "no two slices have 10 queries" in str(caught.value) and "judgments.jsonl" in str(caught.value)
    assert "add a field 'slice' to the judgments" in str(caught.value).lower()
    with pytest.raises(UsageError, match=r"\[loss\] groups is 'slices'. Choose slice or leave it empty"):
        read_config(path, ["loss.groups=slices"])


def with_slices(path: Path) -> Path:
    file = path.parent / "judgments.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    write_rows(file, [row | {"slice": "even" if int(row["query_id"][1:]) % 2 else "odd"} for row in rows])
    return path


# ---- new samples


@pytest.fixture(scope="module")
def whole(tmp_path_factory, bases):
    """A run through four stages, and its project; Group DRO and all options of the augmented stage on."""
    folder = tmp_path_factory.mktemp("whole")
    path = write_plan(
        folder / "p", bases["bert"],
        stages={"run": ["head", "full", "augmented", "interpolate"]},
        loss={"groups": "slice", "group_queries": 2},
        augment={"epochs": 6, "ema": 0.5, "l2_to_start": 0.01, "replay": 1.5},
        interpolate={"tolerance": 1.0, "coefficients": [0.5, 1.0]},
    )  # fmt: skip
    with_slices(path)
    train(path, folder / "run")
    return path, folder / "run"


@pytest.fixture(scope="module")
def result(whole):
    """The whole run's figures."""
    return json.loads((whole[1] / "result.json").read_text())


def test_a_whole_plan(result):
    stages = {stage["stage"]: stage for stage in result["stages"]}
    assert list(stages) == ["head", "full", "augmented", "interpolate"]
    assert stages["augmented"]["kept"] and stages["augmented"]["decided_by"] == "interpolate"
    assert stages["augmented"]["judged_on"] == ["dev", "ood_dev"] and stages["augmented"]["replayed"] == 12
    assert {"ood_dev", "ood_dev_start"} <= set(result)
    assert all(set(stage["figures"]) == {"dev", "ood_dev"} for stage in result["stages"])
    assert stages["interpolate"]["figures"]["ood_dev"]["ndcg@10"] == result["ood_dev"]["ndcg@10"]


def test_figures_by_slice_add_up_to_those_of_all(result):
    slices = result["dev_slices"]
    for when, figures in (("start", result["start"]), ("trained", result["dev"])):
        mean = sum(part["queries"] * part[when] for part in slices.values()) / sum(
            p["queries"] for p in slices.values()
        )
        assert set(slices) == {"even", "odd"} and mean == pytest.approx(figures["ndcg@10"], abs=2e-5)


def test_the_files_of_a_run(whole, result):
    _, run = whole
    data = json.loads((run / "data.json").read_text())
    assert data["new"]["queries"] == 8 and data["ood_dev"]["pairs"] == 30
    names = {file.name for file in run.iterdir()}
    assert {"config.json", "data.json", "result.json", "checkpoint", "stages"} <= names
    assert {file.name for file in (run / "stages").glob("*.json")} == {
        f"{n}-{stage['stage']}.json" for n, stage in enumerate(result["stages"])
    }
    assert not [file for file in run.rglob("*") if ".tmp" in file.name]


@pytest.mark.parametrize("stage", ["1-full", "2-augmented"])
def test_kill_9_in_any_descent(whole, tmp_path, stage):
    path, run = whole
    kill_in_stage(path, tmp_path / "killed", stage)
    train(path, tmp_path / "killed")
    assert equal(weights(tmp_path / "killed"), weights(run))
    assert (tmp_path / "killed" / "result.json").read_bytes() == (run / "result.json").read_bytes()


def test_read_from_disk_it_is_the_same_run(whole, tmp_path):
    path, run = whole
    train(path, tmp_path / "disk", "data.store=disk")
    assert equal(weights(tmp_path / "disk"), weights(run))
    assert (tmp_path / "disk" / "result.json").read_bytes() == (run / "result.json").read_bytes()
    assert (tmp_path / "disk" / "store.sqlite").is_file()


@pytest.mark.parametrize("stage", ["head", "full", "augmented", "interpolate"])
def test_broken_off_in_any_stage(whole, tmp_path, stage):
    path, run = whole

    def report(what: str, done: int, total: int) -> None:
        if what == f"stage {stage}" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(path, tmp_path / "run", report=report)
    train(path, tmp_path / "run")
    assert equal(weights(tmp_path / "run"), weights(run))
    assert (tmp_path / "run" / "result.json").read_bytes() == (run / "result.json").read_bytes()


def test_the_detector_knows_new_samples_only_where_they_were_learnt(tmp_path, bases):
    path = write_plan(
        tmp_path / "p", bases["bert"], augment={"epochs": 1, "learning_rate": 3.0, "head_learning_rate": 30}
    )
    hurt = train(path, tmp_path / "hurt", "stages.run=['augmented']")
    assert [stage["kept"] for stage in hurt.result["stages"]] == [False]
    without = train(path, tmp_path / "without", "stages.run=[]")
    assert equal(weights(tmp_path / "hurt"), weights(tmp_path / "without"))
    one, two = (run.ood.detector.state_dict() for run in (hurt, without))
    assert equal(one, two)
    gone = train(path, tmp_path / "gone", "stages.run=['augmented']", "augment.learning_rate=0.0",
                 "augment.head_learning_rate=0.0")  # fmt: skip
    assert gone.result["stages"][0]["kept"] is False


def test_behind_refit_the_gate_decides(tmp_path, bases):
    """The rates that ruin a model in the test above: the plan rolls them back, a cycle's gate would."""
    path = write_plan(
        tmp_path / "p", bases["bert"], augment={"epochs": 1, "learning_rate": 3.0, "head_learning_rate": 30}
    )
    trained = train(path, tmp_path / "run", "stages.run=['refit', 'augmented']")
    assert [(s["kept"], s["decided_by"]) for s in trained.result["stages"]] == [(True, "the gate")] * 2


def test_new_samples_that_were_learnt_are_known(whole, tmp_path):
    path, run = whole
    trained = run_folder.load_run(run)
    stages = trained.result["stages"]
    assert stages[2]["learnt_new"] and stages[3]["learnt_new"] == (stages[3]["coefficient"] > 0)
    queries = trained.data["train"]["queries"] + trained.data["dev"]["queries"] + trained.data["new"]["queries"]
    config = read_config(path, ["ood.features=query"])
    data = plan.prepare(config, path.parent)[1]
    assert len(data.learnt) == queries and len(plan.keep_learnt(data, stages[:3]).learnt) == queries
    assert len(plan.keep_learnt(data, [{"kept": False, "learnt_new": True}]).learnt) == queries - 8
    assert (
        len(plan.keep_learnt(data, [{"kept": True, "learnt_new": True}, {"kept": True, "learnt_new": False}]).new) == 0
    )


@pytest.mark.parametrize(("part", "other"), [("new", "dev"), ("ood_dev", "new"), ("ood_dev", "judgments")])
def test_a_query_in_two_files(tmp_path, bases, part, other):
    path = write_plan(tmp_path / "p", bases["bert"], data={"dev": "dev.jsonl"}, stages={"run": []})
    write_rows(path.parent / "dev.jsonl", [{"query": "a dev query", "item_id": "i1", "grade": 1}])
    file = path.parent / f"{part}.jsonl"
    row = (path.parent / f"{other}.jsonl").read_text().splitlines()[0]
    whole = file.read_text()
    file.write_text(whole + json.dumps(json.loads(row) | {"query_id": "again"}) + "\n")
    with pytest.raises(InputError) as caught:
        train(path, tmp_path / "run")
    assert f"{part}.jsonl: query" in str(
        caught.value
    ) and "is also in the training part. Keep it in one of the two" in str(caught.value)
    assert not (tmp_path / "run").exists()
    words = json.loads(row)["query"].split()
    file.write_text(whole + json.dumps({"query": " ".join(reversed(words)), "item_id": "i1", "grade": 1}) + "\n")
    with pytest.raises(InputError) as caught:
        train(path, tmp_path / "run")
    assert "a query with nearly the same words" in str(caught.value) and "allow_near = true" in str(caught.value)
    train(path, tmp_path / "run", "data.allow_near=true")


# ---- what the report shows


def test_order_has_intervals_on_both_dev_sets_and_in_the_gap(result):
    stages, order = result["stages"], result["ndcg_intervals"]
    ends = [
        ({"dev": order["start"], "ood_dev": order["ood_dev_start"], "gap": order["gap_start"]},
         {"dev": result["start"], "ood_dev": result["ood_dev_start"]}),
        (order, {"dev": result["dev"], "ood_dev": result["ood_dev"]}),
    ]  # fmt: skip
    for intervals, figures in [*((stage["ndcg_intervals"], stage["figures"]) for stage in stages), *ends]:
        for role in ("dev", "ood_dev"):
            assert (
                intervals[role]["mean"] == figures[role]["ndcg@10"] and intervals[role]["n"] == figures[role]["queries"]
            )
            assert intervals[role]["low"] <= intervals[role]["mean"] <= intervals[role]["high"]
        gap = intervals["dev"]["mean"] - intervals["ood_dev"]["mean"]
        assert intervals["gap"]["mean"] == pytest.approx(gap, abs=2e-5)
        assert intervals["gap"]["low"] < gap < intervals["gap"]["high"]  # the sets are resampled apart


def test_grades_of_both_dev_sets_are_counted(whole, result):
    for role, found in result["grading"].items():
        assert (
            sum(map(sum, found["confusion"])) == result[role]["pairs"] == sum(b["pairs"] for b in found["reliability"])
        )
        right = sum(row[grade] for grade, row in enumerate(found["confusion"]))
        assert sum(b["pairs"] * b["accuracy"] for b in found["reliability"]) == pytest.approx(right, abs=1e-3)
        confidence = [b["confidence"] for b in found["reliability"]]
        assert confidence == sorted(confidence)
    given = [0] * 3
    config = read_config(whole[0])
    for query in plan.prepare(config, whole[0].parent)[1].ood_dev:
        for grade in query.grades:
            given[grade] += 1
    assert [sum(row) for row in result["grading"]["ood_dev"]["confusion"]] == given


def test_its_report_shows_every_stage(whole, tmp_path):
    written = write_report(whole[1], tmp_path / "report.html")
    assert (written.of, written.missing) == ("run", ())
    text = written.path.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    charts = json.loads(data)["charts"]
    assert charts["order"]["names"][0] == "start" and charts["order"]["names"][-1] == "calibrated"
    assert len(charts["order"]["names"]) == 6 and {"gap", "loss-0", "rps-1", "rps-2", "mix-3", "reliability"} <= set(
        charts
    )


def test_the_command_leaves_the_report_beside_the_run(whole, tmp_path, darl):
    path, run = whole
    shutil.copytree(run, tmp_path / "run")
    said = darl("train", path, "--run", tmp_path / "run")
    assert said.code == 0 and f"the report is in {tmp_path / 'run' / 'report.html'}" in said.err.splitlines()
    assert "stage interpolate: coefficient" in said.err
    assert (tmp_path / "run" / "report.html").read_bytes() == write_report(
        run, tmp_path / "again.html"
    ).path.read_bytes()


def test_batches_without_pairs_of_a_group_have_a_finite_loss():
    model, objective, _, groups, source = problem(["a", "a", "b", "b"])
    loss = GroupDroLoss(objective, groups)
    batch = source.batch([0], 0)
    value = loss(model, batch, loss.counts(batch))
    value.backward()
    assert torch.isfinite(value) and all(
        torch.isfinite(p.grad).all() for p in model.head.parameters() if p.grad is not None
    )
    loss.after_step(lambda tensor: tensor)
    assert loss.weights[0] > loss.weights[1]  # only what was seen moves
    assert isinstance(batch, Batch)


def test_a_loss_that_is_no_number_names_the_stages_own_key(tmp_path, bases, monkeypatch):
    path = write_plan(tmp_path / "p", bases["bert"], stages={"run": ["augmented"]}, data={"ood_dev": ""})
    real, calls = fit.Fit.take_step, itertools.count(1)
    with monkeypatch.context() as patch:
        patch.setattr(fit.Fit, "take_step", lambda self: math.nan if real(self) and next(calls) == 3 else 1.0)
        with pytest.raises(DarlError) as caught:
            train(path, tmp_path / "run")
    text = str(caught.value)
    assert "the loss is nan at step 3" in text and "Lower [augment] learning_rate" in text
    place = tmp_path / "run" / "stages" / "0-augmented"
    assert all(torch.isfinite(t).all() for t in load_file(place / "best.safetensors").values())
    stage = train(path, tmp_path / "run").result["stages"][0]  # without the accident it goes on
    assert stage["judged_on"] == ["dev"] and "decided_by" not in stage


def test_weights_that_cannot_be_written_are_told_with_the_way_on(tmp_path):
    with pytest.raises(DarlError, match=r"run: weights cannot be written .*os error 2.*\. Free disk space, then run"):
        plan.write_on_main(
            lambda: save_file({"a": torch.zeros(2)}, tmp_path / "none" / "a.safetensors"), tmp_path / "run"
        )
