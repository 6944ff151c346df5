"""Every registered loss: laws on generated inputs, closed forms, refusals."""

from __future__ import annotations

import inspect
import math
import random

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from training_project import laws

from trainer.losses import GRADE_LOSSES, RANK_LOSSES
from trainer.losses.cumulative import cumulative, log_sigmoid_difference
from trainer.losses.pairwise import pairwise
from trainer.losses.yes_no import yes_no

K = 4
grade_lists = st.lists(st.integers(0, K - 1), max_size=12)
seeds = st.integers(0, 2**16)


def cut_logits(n: int, k: int, seed: int, spread: float = 3.0) -> torch.Tensor:
    """Decreasing rows, as a head gives them, in double precision."""
    rng = torch.Generator().manual_seed(seed)
    latent = torch.randn(n, generator=rng, dtype=torch.float64) * spread
    gaps = torch.rand(k - 1, generator=rng, dtype=torch.float64) + 0.05
    return (latent[:, None] - gaps.cumsum(0)).requires_grad_()


@pytest.mark.parametrize("name", sorted(GRADE_LOSSES))
@laws
@given(grades=grade_lists, seed=seeds, spread=st.sampled_from([0.0, 1.0, 100.0]))
def test_grade_loss_is_finite_at_least_zero_and_blind_to_order(name, grades, seed, spread):
    loss = GRADE_LOSSES[name].make
    y, raw = torch.tensor(grades, dtype=torch.int64), cut_logits(len(grades), K, seed, spread)
    value = loss(raw, y)
    value.backward()
    assert value.shape == () and torch.isfinite(value) and value >= 0
    assert torch.isfinite(raw.grad).all()
    order = torch.randperm(len(grades), generator=torch.Generator().manual_seed(seed))
    assert_close(loss(raw[order], y[order]), value)


@pytest.mark.parametrize("name", sorted(GRADE_LOSSES))
@pytest.mark.parametrize("k", [2, 3, 5])
def test_grade_loss_of_nothing_is_zero_and_has_a_gradient(name, k):
    raw = torch.zeros(0, k - 1, requires_grad=True)
    value = GRADE_LOSSES[name].make(raw, torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert value.item() == 0.0


@pytest.mark.parametrize("name", sorted(GRADE_LOSSES))
@laws
@given(seed=seeds, grade=st.integers(0, K - 1), copies=st.integers(1, 5))
def test_grade_loss_is_a_mean(name, seed, grade, copies):
    raw, y = cut_logits(1, K, seed), torch.tensor([grade])
    loss = GRADE_LOSSES[name].make
    assert_close(loss(raw.expand(copies, -1), y.expand(copies)), loss(raw, y))


@pytest.mark.parametrize("name", sorted(GRADE_LOSSES))
@pytest.mark.parametrize(
    ("grades", "message"),
    [
        (torch.tensor([0, K]), "not in 0..3"),
        (torch.tensor([-1, 0]), "not in 0..3"),
        (torch.tensor([0, 1], dtype=torch.int32), "not int64"),
        (torch.tensor([0.0, 1.0]), "not int64"),
    ],
)
def test_grade_loss_refuses_what_is_no_grade(name, grades, message):
    with pytest.raises(ValueError, match=message):
        GRADE_LOSSES[name].make(cut_logits(2, K, 0), grades)


@pytest.mark.parametrize("name", sorted(set(GRADE_LOSSES) - {"yes_no"}))
@laws
@given(seed=seeds, grade=st.integers(0, K - 1))
def test_ordinal_loss_grows_with_the_distance_from_the_grade(name, seed, grade):
    """The farther the latent lies from where the grade is, on either side, the more it costs."""
    cuts = -cut_logits(1, K, seed, spread=0.0).detach()[0]
    centre = cuts[max(grade - 1, 0) : grade + 1].mean()  # of the outer grades: their only border
    away = torch.tensor([0.0, 0.5, 1.0, 3.0, 10.0, 40.0, 80.0], dtype=cuts.dtype)
    for side in {0: (1.0,), K - 1: (-1.0,)}.get(grade, (-1.0, 1.0)):
        latent = centre + side * away
        values = [GRADE_LOSSES[name].make((s - cuts)[None, :], torch.tensor([grade])).item() for s in latent]
        assert values == sorted(values)


@pytest.mark.parametrize("name", sorted(GRADE_LOSSES))
@settings(laws, max_examples=4)
@given(seed=seeds, grades=st.lists(st.integers(0, K - 1), min_size=1, max_size=3))
def test_gradient_is_the_slope(name, seed, grades):
    raw = cut_logits(len(grades), K, seed)
    y = torch.tensor(grades)
    assert torch.autograd.gradcheck(lambda z: GRADE_LOSSES[name].make(z, y), (raw,), atol=1e-5)


@laws
@given(seed=seeds, grades=st.lists(st.integers(0, K - 1), min_size=1, max_size=8))
def test_cumulative_against_the_direct_formula(seed, grades):
    raw = cut_logits(len(grades), K, seed, spread=1.0).detach()
    above = torch.sigmoid(raw)
    ones = torch.ones(len(grades), 1, dtype=raw.dtype)
    probs = torch.cat([ones, above], 1) - torch.cat([above, 0 * ones], 1)
    expected = -probs[torch.arange(len(grades)), torch.tensor(grades)].log().mean()
    assert_close(cumulative(raw, torch.tensor(grades)), expected)


def test_cumulative_closed_forms():
    """Cuts at log-odds of 3/4 and 1/4: the grades have 1/4, 1/2 and 1/4."""
    raw = torch.tensor([[math.log(3), -math.log(3)]], dtype=torch.float64)
    for grade, probability in enumerate([1 / 4, 1 / 2, 1 / 4]):
        assert cumulative(raw, torch.tensor([grade])).item() == pytest.approx(-math.log(probability))
    two = torch.tensor([[math.log(5 / 4)]], dtype=torch.float64)  # P(yes) = 5/9
    assert cumulative(two, torch.tensor([1])).item() == pytest.approx(-math.log(5 / 9))
    assert cumulative(two, torch.tensor([0])).item() == pytest.approx(-math.log(4 / 9))


def test_cumulative_does_not_saturate():
    """Far off, the loss grows as the distance does, where sigmoid(a) - sigmoid(b) is 0 in float32."""
    raw = torch.tensor([[200.0, 199.0]], requires_grad=True)
    value = cumulative(raw, torch.tensor([0]))
    value.backward()
    assert value.item() == pytest.approx(200.0)
    assert_close(raw.grad, torch.tensor([[1.0, 0.0]]))
    assert cumulative(torch.tensor([[-199.0, -200.0]]), torch.tensor([2])).item() == pytest.approx(200.0)


@laws
@given(upper=st.floats(-300, 300), gap=st.floats(1e-3, 600))
def test_log_sigmoid_difference_is_at_most_zero_and_finite(upper, gap):
    a, b = torch.tensor([upper]), torch.tensor([upper - gap])
    assume((a > b).all())
    value = log_sigmoid_difference(a, b)
    assert torch.isfinite(value).all() and (value <= 0).all()


def test_yes_no_closed_forms():
    raw = torch.tensor([[math.log(5 / 4), -math.log(4)]], dtype=torch.float64)  # 5/9 and 1/5
    losses = {(1, 0): 4 / 9, (1, 1): 5 / 9, (1, 2): 5 / 9, (2, 0): 4 / 5, (2, 1): 4 / 5, (2, 2): 1 / 5}
    for (threshold, grade), probability in losses.items():
        value = yes_no(raw, torch.tensor([grade]), threshold=threshold)
        assert value.item() == pytest.approx(-math.log(probability))


def test_yes_no_does_not_see_the_finer_grades():
    raw = cut_logits(3, K, 1)
    values = {yes_no(raw, torch.tensor([0, g, 0]), threshold=1).item() for g in range(1, K)}
    assert len(values) == 1


@pytest.mark.parametrize("threshold", [0, K])
def test_yes_no_refuses_a_threshold_off_the_scale(threshold):
    with pytest.raises(ValueError, match="not in 1..3"):
        yes_no(cut_logits(1, K, 0), torch.tensor([0]), threshold=threshold)


# ---- rank losses

rank_batches = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 1 / 3, 1.0])), max_size=15)


def rank_inputs(batch, seed):
    rng = torch.Generator().manual_seed(seed)
    score = (torch.randn(len(batch), generator=rng, dtype=torch.float64) * 4).requires_grad_()
    gains = torch.tensor([g for _, g in batch], dtype=torch.float64)
    return score, gains, torch.tensor([q for q, _ in batch], dtype=torch.int64)


@pytest.mark.parametrize("name", sorted(RANK_LOSSES))
@laws
@given(batch=rank_batches, seed=seeds)
def test_rank_loss_laws(name, batch, seed):
    """Ties, lists of one and empty batches included."""
    loss = RANK_LOSSES[name].make
    score, gains, query = rank_inputs(batch, seed)
    value = loss(score, gains, query)
    value.backward()
    assert value.shape == () and torch.isfinite(value) and value >= 0
    assert torch.isfinite(score.grad).all()
    order = torch.tensor(random.Random(seed).sample(range(len(batch)), len(batch)), dtype=torch.int64)
    assert_close(loss(score[order], gains[order], query[order]), value)
    assert_close(loss(score + 7.0, gains, query), value)  # only differences count
    assert_close(loss(score, gains, query * 3 + 11), value)  # query numbers are only names


@pytest.mark.parametrize("name", sorted(RANK_LOSSES))
@pytest.mark.parametrize("gains", [[], [1.0], [0.5, 0.5, 0.5]])
def test_rank_loss_with_nothing_to_order_is_zero(name, gains):
    score = torch.linspace(-1, 1, len(gains)).requires_grad_()
    value = RANK_LOSSES[name].make(score, torch.tensor(gains), torch.zeros(len(gains), dtype=torch.int64))
    value.backward()
    assert value.item() == 0.0
    assert_close(score.grad, torch.zeros(len(gains)))


@pytest.mark.parametrize("name", sorted(RANK_LOSSES))
@laws
@given(seed=seeds)
def test_rank_loss_averages_queries_not_pairs(name, seed):
    """A query of 45 items weighs as much as one of 3."""
    loss = RANK_LOSSES[name].make
    long, short = [(0, float(n % 2)) for n in range(45)], [(1, 0.0), (1, 1 / 3), (1, 1.0)]
    score, gains, query = rank_inputs(long + short, seed)
    alone = [loss(score[query == q], gains[query == q], query[query == q]) for q in (0, 1)]
    assert_close(loss(score, gains, query), (alone[0] + alone[1]) / 2)
    # ... and a query with nothing to order does not dilute the others
    tied = torch.tensor([2, 2])
    with_tied = loss(
        torch.cat([score, score[:2]]), torch.cat([gains, torch.ones(2, dtype=gains.dtype)]), torch.cat([query, tied])
    )
    assert_close(with_tied, (alone[0] + alone[1]) / 2)


@pytest.mark.parametrize("name", sorted(RANK_LOSSES))
@laws
@given(batch=rank_batches, seed=seeds)
def test_rank_gradient_pushes_the_best_up_and_the_worst_down(name, batch, seed):
    score, gains, query = rank_inputs(batch, seed)
    RANK_LOSSES[name].make(score, gains, query).backward()
    for q in set(query.tolist()):
        mine = query == q
        if len(set(gains[mine].tolist())) > 1:
            assert (score.grad[mine & (gains == gains[mine].max())] <= 0).all()
            assert (score.grad[mine & (gains == gains[mine].min())] >= 0).all()


def test_pairwise_closed_forms():
    query = torch.zeros(2, dtype=torch.int64)
    tie = pairwise(torch.zeros(2), torch.tensor([0.0, 1.0]), query)
    assert tie.item() == pytest.approx(math.log(2))
    right = pairwise(torch.tensor([0.0, math.log(5 / 4)]), torch.tensor([0.0, 1.0]), query)
    assert right.item() == pytest.approx(-math.log(5 / 9))
    half = pairwise(torch.tensor([0.0, math.log(5 / 4)]), torch.tensor([0.0, 0.5]), query)
    assert half.item() == pytest.approx(-math.log(5 / 9) / 2)


@laws
@given(batch=rank_batches, seed=seeds)
def test_pairwise_against_loops(batch, seed):
    score, gains, query = rank_inputs(batch, seed)
    queries, s = [], score.detach()
    for q in set(query.tolist()):
        rows = [i for i in range(len(batch)) if int(query[i]) == q]
        values = [
            float(gains[i] - gains[j]) * math.log1p(math.exp(float(s[j] - s[i])))
            for i in rows for j in rows if gains[i] > gains[j]
        ]  # fmt: skip
        if values:
            queries.append(sum(values) / len(values))
    expected = sum(queries) / len(queries) if queries else 0.0
    assert pairwise(score, gains, query).item() == pytest.approx(expected)


@pytest.mark.parametrize("registry", [GRADE_LOSSES, RANK_LOSSES])
def test_each_loss_declares_its_parameters_and_its_source(registry):
    for name in registry:
        entry = registry[name]
        keywords = {
            p.name: p.default
            for p in inspect.signature(entry.make).parameters.values()
            if p.kind is inspect.Parameter.KEYWORD_ONLY
        }
        assert keywords == {key: param.default for key, param in entry.params.items()}
        assert entry.cite and entry.summary
