"""Every distillation loss: laws on generated inputs, closed forms, double loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from tests.helpers.loss_laws import batches, generator, params_of, ranking, seeds, shuffled, step_down
from tests.helpers.training_project import laws
from trainer.losses import DISTILLATION_LOSSES
from trainer.losses.kl import kl
from trainer.losses.margin_mse import margin_mse
from trainer.losses.registries import count_comparable

every_loss = pytest.mark.parametrize("name", sorted(DISTILLATION_LOSSES))
scales = st.sampled_from([0.0, 1.0, 100.0])


def teaching(batch, seed, scale=1.0):
    """Student and teacher scores (a third of them tied) and query numbers."""
    score, ties, query = ranking(batch, seed)
    rng = generator(seed + 1)
    teacher = torch.where(ties == 1.0, 0.0, torch.randn(len(batch), generator=rng, dtype=torch.float64))
    return (score.detach() / 4 * scale).requires_grad_(), teacher * scale, query


@every_loss
@laws
@given(data=st.data(), batch=batches, seed=seeds, scale=scales)
def test_laws(name, data, batch, seed, scale):
    """Ties, lists of one, empty batches and scores of hundreds included."""
    entry = DISTILLATION_LOSSES[name]
    params = data.draw(params_of(entry))
    score, teacher, query = teaching(batch, seed, scale)
    value = entry.make(score, teacher, query, **params)
    value.backward()
    assert value.shape == () and torch.isfinite(value) and value >= -1e-9  # rounding
    assert torch.isfinite(score.grad).all()
    order = shuffled(len(batch), seed)
    assert_close(entry.make(score[order], teacher[order], query[order], **params), value)
    assert_close(entry.make(score + 7.0, teacher - 3.0, query, **params), value)  # only differences count
    assert_close(entry.make(score, teacher, query * 3 + 11, **params), value)  # query numbers are only names


@every_loss
@laws
@given(data=st.data(), batch=batches, seed=seeds, cut=st.integers(0, 5))
def test_a_batch_is_the_weighted_mean_of_its_parts(name, data, batch, seed, cut):
    entry = DISTILLATION_LOSSES[name]
    params = data.draw(params_of(entry))
    score, teacher, query = teaching(batch, seed)

    def part(of):
        inputs = teacher[of], query[of]
        return entry.make(score[of], *inputs, **params) * count_comparable(*inputs)

    assert_close(part(query >= 0), part(query < cut) + part(query >= cut))


@every_loss
@pytest.mark.parametrize("teacher", [[], [1.0], [0.5, 0.5, 0.5]])
def test_of_a_teacher_that_says_nothing_it_is_zero(name, teacher):
    score = torch.linspace(-1, 1, len(teacher)).requires_grad_()
    value = DISTILLATION_LOSSES[name].make(score, torch.tensor(teacher), torch.zeros(len(teacher), dtype=torch.int64))
    value.backward()
    assert value.item() == 0.0
    assert_close(score.grad, torch.zeros(len(teacher)))


@every_loss
@laws
@given(data=st.data(), batch=batches, seed=seeds)
def test_it_is_lowest_at_the_teachers_scores_whatever_their_offset(name, data, batch, seed):
    entry = DISTILLATION_LOSSES[name]
    _, teacher, query = teaching(batch, seed)
    score = (teacher + 5.0 * query).requires_grad_()
    value = entry.make(score, teacher, query, **data.draw(params_of(entry)))
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-9)
    assert_close(score.grad, torch.zeros_like(score), atol=1e-9, rtol=0.0)


@every_loss
@laws
@given(data=st.data(), batch=batches, seed=seeds)
def test_a_step_against_the_gradient_lowers_it(name, data, batch, seed):
    entry = DISTILLATION_LOSSES[name]
    params = data.draw(params_of(entry))
    score, teacher, query = teaching([*batch, (9, 0.0), (9, 0.0)], seed)
    before, after, steepest = step_down(lambda s: entry.make(s, teacher, query, **params), score)
    assert after < before if steepest > 1e-3 else after <= before + 1e-9


@every_loss
@settings(laws, max_examples=6)
@given(data=st.data(), batch=batches, seed=seeds)
def test_the_gradient_is_the_slope_and_the_teacher_has_none(name, data, batch, seed):
    entry = DISTILLATION_LOSSES[name]
    params = data.draw(params_of(entry))
    score, teacher, query = teaching([*batch, (9, 0.0), (9, 0.0)], seed)
    assert torch.autograd.gradcheck(lambda s: entry.make(s, teacher, query, **params), (score,), atol=1e-5)
    teacher.requires_grad_()
    entry.make(score, teacher, query, **params).backward()
    assert teacher.grad is None


@laws
@given(batch=batches, seed=seeds)
def test_margin_mse_against_loops(batch, seed):
    score, teacher, query = teaching(batch, seed)
    s, t, queries = score.detach().tolist(), teacher.tolist(), []
    for q in set(query.tolist()):
        rows = [i for i in range(len(batch)) if int(query[i]) == q]
        if len({t[i] for i in rows}) > 1:
            pairs = [((s[i] - s[j]) - (t[i] - t[j])) ** 2 for i, j in itertools.combinations(rows, 2)]
            queries.append(sum(pairs) / len(pairs))
    expected = sum(queries) / len(queries) if queries else 0.0
    assert margin_mse(score, teacher, query).item() == pytest.approx(expected)


def test_margin_mse_closed_forms():
    """The student's differences are 1, 2 and 1, the teacher's 2, 2 and 0: a tie within a list counts."""
    query = torch.zeros(3, dtype=torch.int64)
    value = margin_mse(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 2.0, 2.0]), query)
    assert value.item() == pytest.approx((1 + 0 + 1) / 3)


@laws
@given(batch=batches, seed=seeds, temperature=st.floats(0.1, 5.0))
def test_kl_against_torch(batch, seed, temperature):
    score, teacher, query = teaching(batch, seed)
    queries = []
    for q in set(query.tolist()):
        mine = query == q
        if len(set(teacher[mine].tolist())) > 1:
            student, wanted = (F.log_softmax(x[mine].detach() / temperature, dim=0) for x in (score, teacher))
            queries.append(temperature**2 * float(F.kl_div(student, wanted, reduction="sum", log_target=True)))
    expected = sum(queries) / len(queries) if queries else 0.0
    assert kl(score, teacher, query, temperature=temperature).item() == pytest.approx(expected, abs=1e-12)


def test_kl_closed_forms():
    """A teacher's shares of 2/3 and 1/3 and a student's of 1/2."""
    query = torch.zeros(2, dtype=torch.int64)
    wanted = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    value = kl(torch.zeros(2), torch.tensor([math.log(2), 0.0]), query)
    assert value.item() == pytest.approx(wanted)
    value = kl(torch.zeros(2), torch.tensor([2 * math.log(2), 0.0]), query, temperature=2.0)
    assert value.item() == pytest.approx(4 * wanted)


@laws
@given(seed=seeds, n=st.integers(2, 9))
def test_kl_of_a_high_temperature_is_margin_mse(seed, n):
    """Its limit is half the variance of score - teacher; margin_mse is twice the sample variance."""
    score, teacher, query = teaching([(0, 0.0)] * n, seed)
    limit = margin_mse(score, teacher, query) * (n - 1) / (4 * n)
    # both sides nearly cancel where score and teacher nearly agree: hence the absolute tolerance
    assert kl(score, teacher, query, temperature=1e3).item() == pytest.approx(limit.item(), rel=1e-2, abs=1e-8)
