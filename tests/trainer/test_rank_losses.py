"""Every rank loss: laws on generated inputs, closed forms, double loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from darl_opensearch.stats.ranking import ndcg_per_query
from tests.helpers.loss_laws import batches, generator, params_of, ranking, seeds, shuffled, step_down
from tests.helpers.training_project import laws
from trainer.losses import RANK_LOSSES
from trainer.losses.lambda_loss import lambda_loss
from trainer.losses.listmle import listmle
from trainer.losses.pairwise import pairwise
from trainer.losses.pairwise_margin import pairwise_margin
from trainer.losses.registries import count_comparable

every_loss = pytest.mark.parametrize("name", sorted(RANK_LOSSES))
cutoffs = st.integers(0, 5)


def scores_like(kind, n, seed):
    """Without ties, all tied, and far apart."""
    if kind == "tied":
        return torch.zeros(n, dtype=torch.float64)
    if kind == "extreme":
        return torch.tensor([-100.0, 0.0, 100.0], dtype=torch.float64)[
            torch.randint(0, 3, (n,), generator=generator(seed))
        ]
    return torch.randn(n, generator=generator(seed), dtype=torch.float64) * 4


@every_loss
@laws
@given(data=st.data(), batch=batches, seed=seeds, kind=st.sampled_from(["plain", "tied", "extreme"]))
def test_laws(name, data, batch, seed, kind):
    """Ties of scores and of gains, lists of one and empty batches included."""
    entry = RANK_LOSSES[name]
    params = data.draw(params_of(entry))
    _, gains, query = ranking(batch, seed)
    score = scores_like(kind, len(batch), seed).requires_grad_()
    value = entry.make(score, gains, query, **params)
    value.backward()
    assert value.shape == () and torch.isfinite(value) and value >= 0
    assert torch.isfinite(score.grad).all()
    order = shuffled(len(batch), seed)
    assert_close(entry.make(score[order], gains[order], query[order], **params), value)
    assert_close(entry.make(score + 7.0, gains, query, **params), value)  # only differences count
    assert_close(entry.make(score, gains, query * 3 + 11, **params), value)  # query numbers are only names


@every_loss
@pytest.mark.parametrize("gains", [[], [1.0], [0.5, 0.5, 0.5], [0.0, 0.0]])
def test_with_nothing_to_order_it_is_zero(name, gains):
    score = torch.linspace(-1, 1, len(gains)).requires_grad_()
    value = RANK_LOSSES[name].make(score, torch.tensor(gains), torch.zeros(len(gains), dtype=torch.int64))
    value.backward()
    assert value.item() == 0.0
    assert_close(score.grad, torch.zeros(len(gains)))


@every_loss
@laws
@given(data=st.data(), batch=batches, seed=seeds, cut=st.integers(0, 5))
def test_a_batch_is_the_weighted_mean_of_its_parts(name, data, batch, seed, cut):
    entry = RANK_LOSSES[name]
    params = data.draw(params_of(entry))
    score, gains, query = ranking(batch, seed)

    def part(of):
        inputs = gains[of], query[of]
        return entry.make(score[of], *inputs, **params) * count_comparable(*inputs)

    assert_close(part(query >= 0), part(query < cut) + part(query >= cut))


@every_loss
@laws
@given(seed=seeds)
def test_queries_are_averaged_not_pairs(name, seed):
    """A query of 45 items weighs as much as one of 3, and one with nothing to order does not count."""
    loss = RANK_LOSSES[name].make
    long, short = [(0, float(n % 2)) for n in range(45)], [(1, 0.0), (1, 1 / 3), (1, 1.0)]
    score, gains, query = ranking(long + short + [(2, 1.0), (2, 1.0), (3, 0.0)], seed)
    alone = [loss(score[query == q], gains[query == q], query[query == q]) for q in (0, 1)]
    assert_close(loss(score, gains, query), (alone[0] + alone[1]) / 2)


@every_loss
@laws
@given(data=st.data(), batch=batches, seed=seeds, kind=st.sampled_from(["plain", "tied"]))
def test_the_gradient_pushes_the_best_up_and_the_worst_down(name, data, batch, seed, kind):
    entry = RANK_LOSSES[name]
    _, gains, query = ranking(batch, seed)
    score = scores_like(kind, len(batch), seed).requires_grad_()
    entry.make(score, gains, query, **data.draw(params_of(entry))).backward()
    for q in set(query.tolist()):
        mine = query == q
        if len(set(gains[mine].tolist())) > 1:
            assert (score.grad[mine & (gains == gains[mine].max())] <= 0).all()
            assert (score.grad[mine & (gains == gains[mine].min())] >= 0).all()


@every_loss
@laws
@given(data=st.data(), batch=batches, seed=seeds)
def test_a_step_against_the_gradient_lowers_it(name, data, batch, seed):
    entry = RANK_LOSSES[name]
    params = data.draw(params_of(entry))
    score, gains, query = ranking([*batch, (9, 0.0), (9, 1.0)], seed)
    before, after, steepest = step_down(lambda s: entry.make(s, gains, query, **params), score)
    assert after < before if steepest > 1e-3 else after <= before + 1e-9


@every_loss
@settings(laws, max_examples=6)
@given(data=st.data(), batch=batches, seed=seeds)
def test_the_gradient_is_the_slope(name, data, batch, seed):
    entry = RANK_LOSSES[name]
    params = data.draw(params_of(entry))
    score, gains, query = ranking([*batch, (9, 0.0), (9, 1.0)], seed)
    assert torch.autograd.gradcheck(lambda s: entry.make(s, gains, query, **params), (score,), atol=1e-5)


@every_loss
def test_the_better_item_first_costs_less(name):
    gains, query = torch.tensor([0.0, 0.5, 1.0]), torch.zeros(3, dtype=torch.int64)
    right, wrong = torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, -1.0])
    assert RANK_LOSSES[name].make(right, gains, query) < RANK_LOSSES[name].make(wrong, gains, query)


def mean_by_loops(batch, score, gains, of_query):
    """Of each query that has a value, as a plain mean."""
    values = []
    for q in {q for q, _ in batch}:
        rows = [i for i, (one, _) in enumerate(batch) if one == q]
        if len({gains[i].item() for i in rows}) > 1:
            values.append(of_query([(score[i].item(), gains[i].item()) for i in rows]))
    return sum(values) / len(values) if values else 0.0


def logistic(difference):
    return math.log1p(math.exp(-difference))


@laws
@given(batch=batches, seed=seeds, margin=st.floats(0.0, 4.0), weight=st.sampled_from(["gap", "none"]))
def test_pairwise_and_its_margin_against_loops(batch, seed, margin, weight):
    score, gains, query = ranking(batch, seed)

    def of_query(items, margin, weighted):
        values = [
            ((g - h) if weighted else 1.0) * logistic(s - t - margin * (g - h))
            for (s, g), (t, h) in itertools.product(items, items)
            if g > h
        ]
        return sum(values) / len(values)

    expected = mean_by_loops(batch, score, gains, lambda items: of_query(items, 0.0, True))
    assert pairwise(score, gains, query).item() == pytest.approx(expected)
    expected = mean_by_loops(batch, score, gains, lambda items: of_query(items, margin, weight == "gap"))
    assert pairwise_margin(score, gains, query, margin=margin, weight=weight).item() == pytest.approx(expected)


def test_pairwise_closed_forms():
    query = torch.zeros(2, dtype=torch.int64)
    tie = pairwise(torch.zeros(2), torch.tensor([0.0, 1.0]), query)
    assert tie.item() == pytest.approx(math.log(2))
    right = pairwise(torch.tensor([0.0, math.log(5 / 4)]), torch.tensor([0.0, 1.0]), query)
    assert right.item() == pytest.approx(-math.log(5 / 9))
    half = pairwise(torch.tensor([0.0, math.log(5 / 4)]), torch.tensor([0.0, 0.5]), query)
    assert half.item() == pytest.approx(-math.log(5 / 9) / 2)


def test_pairwise_margin_closed_forms():
    """Half a gain asks for half the margin, log(9/2); log(9/4) is there, so log(1 + 2) is missing."""
    score, gains = torch.tensor([0.0, math.log(9 / 4)]), torch.tensor([0.0, 0.5])
    query = torch.zeros(2, dtype=torch.int64)
    margin = 2 * math.log(9 / 2)
    assert pairwise_margin(score, gains, query, margin=margin, weight="none").item() == pytest.approx(math.log(3))
    assert pairwise_margin(score, gains, query, margin=margin).item() == pytest.approx(math.log(3) / 2)


# ---- lambda


def lambda_by_loops(items, *, sigma, mu, cutoff):
    """Wang et al. 2018, equations of NDCG-Loss2++, over ranks from 1."""

    def inverse_discount(rank):
        return 1 / math.log2(1 + rank)

    def counted(rank):
        return inverse_discount(rank) if not cutoff or rank <= cutoff else 0.0

    ranked = sorted(items, key=lambda item: (-item[0], item[1]))
    best = sorted((g for _, g in items), reverse=True)
    ideal = sum(g * counted(rank) for rank, g in enumerate(best, 1))
    total = 0.0
    for (i, (s, g)), (j, (t, h)) in itertools.product(enumerate(ranked, 1), enumerate(ranked, 1)):
        if g > h and (not cutoff or min(i, j) <= cutoff):
            rho = abs(counted(i) - counted(j))
            delta = inverse_discount(abs(i - j)) - inverse_discount(abs(i - j) + 1)
            total += (rho + mu * delta) * (g - h) / ideal * math.log2(1 + math.exp(-sigma * (s - t)))
    return total


@laws
@given(
    batch=batches, seed=seeds, tied=st.booleans(), sigma=st.floats(0.1, 3.0), mu=st.floats(0.0, 10.0), cutoff=cutoffs
)
def test_lambda_against_loops(batch, seed, tied, sigma, mu, cutoff):
    score, gains, query = ranking(batch, seed)
    score = (score / 3).round() if tied else score
    expected = mean_by_loops(
        batch, score, gains, lambda items: lambda_by_loops(items, sigma=sigma, mu=mu, cutoff=cutoff)
    )
    assert lambda_loss(score, gains, query, sigma=sigma, mu=mu, cutoff=cutoff).item() == pytest.approx(expected)


@laws
@given(gains=st.lists(st.sampled_from([0.0, 1 / 3, 1.0]), min_size=2, max_size=7), seed=seeds, cutoff=cutoffs)
def test_lambda_without_mu_weighs_a_pair_by_what_swapping_it_does_to_ndcg(gains, seed, cutoff):
    """The very nDCG that models are chosen by, cut at the same rank."""
    score, gain, query = ranking([(0, g) for g in gains], seed)
    s, g = score.detach().numpy(), gain.numpy()

    def ndcg(order):
        return ndcg_per_query(s, g[order], np.zeros(len(s), dtype=np.int64), cutoff=cutoff or len(s))[0]

    expected, here = 0.0, np.arange(len(s))
    for i, j in itertools.permutations(range(len(s)), 2):
        if g[i] > g[j]:
            swapped = here.copy()
            swapped[[i, j]] = j, i
            expected += abs(ndcg(here) - ndcg(swapped)) * math.log2(1 + math.exp(s[j] - s[i]))
    assert lambda_loss(score, gain, query, mu=0.0, cutoff=cutoff).item() == pytest.approx(expected)


def test_lambda_closed_forms():
    """Of equal scores the worse item stands first: the pair is worth 1 - 1/log2(3), once and mu times."""
    query, worth = torch.zeros(2, dtype=torch.int64), 1 - 1 / math.log2(3)
    tie = lambda_loss(torch.zeros(2), torch.tensor([0.0, 1.0]), query, mu=10.0)
    assert tie.item() == pytest.approx(11 * worth)
    right = lambda_loss(torch.tensor([0.0, math.log(3)]), torch.tensor([0.0, 0.5]), query, mu=0.0)
    assert right.item() == pytest.approx(worth * math.log2(4 / 3))
    steep = lambda_loss(torch.tensor([0.0, math.log(3) / 2]), torch.tensor([0.0, 0.5]), query, mu=0.0, sigma=2.0)
    assert steep.item() == pytest.approx(worth * math.log2(4 / 3))


def test_lambda_lets_a_good_item_below_the_cutoff_climb():
    score = torch.tensor([3.0, 2.0, 1.0], requires_grad=True)
    lambda_loss(score, torch.tensor([0.0, 0.0, 1.0]), torch.zeros(3, dtype=torch.int64), cutoff=1).backward()
    assert score.grad[2] < 0 < score.grad[0]
    assert score.grad[1] == 0  # neither it nor the good one is inside


# ---- listmle


def plackett_luce(scores):
    """Probability of this very order."""
    return math.prod(math.exp(s) / sum(math.exp(t) for t in scores[place:]) for place, s in enumerate(scores))


@laws
@given(gains=st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=2, max_size=5), seed=seeds)
def test_listmle_against_the_orders_that_the_gains_allow(gains, seed):
    """Without ties the likelihood of the one order; with ties a bound on that of all allowed orders together."""
    score, gain, query = ranking([(0, g) for g in gains], seed)
    choices = sum(g > min(gains) for g in gains)
    allowed = [
        [score[i].item() for i in order]
        for order in itertools.permutations(range(len(gains)))
        if all(gains[a] >= gains[b] for a, b in itertools.pairwise(order))
    ]
    likelihood = sum(map(plackett_luce, allowed))
    value = listmle(score, gain, query).item() * choices
    assert value >= -math.log(likelihood) - 1e-9
    if sum(gains.count(g) > 1 for g in set(gains) - {min(gains)}) == 0:
        assert value == pytest.approx(-math.log(likelihood) if choices else 0.0)


def test_listmle_closed_forms():
    """Scores log 4, log 2, log 1: the first is chosen of all with 4/7, the second of two with 2/3."""
    score, query = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64).log(), torch.zeros(3, dtype=torch.int64)
    right = listmle(score, torch.tensor([1.0, 0.5, 0.0]), query)
    assert right.item() == pytest.approx(-(math.log(4 / 7) + math.log(2 / 3)) / 2)
    tied = listmle(score, torch.tensor([1.0, 1.0, 0.0]), query)  # each of them and the last: 4/5 and 2/3
    assert tied.item() == pytest.approx(-(math.log(4 / 5) + math.log(2 / 3)) / 2)


@laws
@given(seed=seeds, negatives=st.integers(1, 8))
def test_listmle_of_one_relevant_item_is_a_softmax_over_the_list(seed, negatives):
    score, gains, query = ranking([(0, 1.0)] + [(0, 0.0)] * negatives, seed)
    assert_close(listmle(score, gains, query), F.cross_entropy(score[None, :], torch.tensor([0])))


def test_listmle_does_not_set_tied_items_against_each_other():
    score = torch.tensor([5.0, 1.0, 0.0, -3.0], requires_grad=True)
    gains = torch.tensor([1.0, 1.0, 0.0, 0.0])
    listmle(score, gains, torch.zeros(4, dtype=torch.int64)).backward()
    assert (score.grad[:2] < 0).all() and (score.grad[2:] > 0).all()
