"""Every grade loss: laws on generated inputs, closed forms, oracles, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from coral_pytorch.dataset import corn_label_from_logits
from coral_pytorch.losses import corn_loss
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from tests.helpers.loss_laws import RAW, K, grade_lists, params_of, raw_of, seeds, shuffled, some_grades, step_down
from tests.helpers.training_project import laws
from trainer.losses import GRADE_LOSSES
from trainer.losses.corn import corn
from trainer.losses.cross_entropy import cross_entropy
from trainer.losses.cumulative import cumulative, log_sigmoid_difference
from trainer.losses.focal import focal
from trainer.losses.sord import sord
from trainer.losses.squared_emd import squared_emd
from trainer.losses.yes_no import yes_no
from trainer.models.heads import HEADS

# Every entry is in one of these two: does it matter to the loss how far off the mass lies, or does the head's
# shape say that? A new entry must decide.
ORDINAL = {"sord", "squared_emd", "cumulative", "corn"}
NOT_ORDINAL = {
    "cross_entropy": "the reference: grades as names",
    "focal": "reads the grade's own probability only",
    "yes_no": "sees one cut only",
}
# The loss is minus the logarithm of the probability that the head itself gives to the grade.
LIKELIHOODS = {"cross_entropy", "cumulative", "corn"}

every_loss = pytest.mark.parametrize("name", sorted(GRADE_LOSSES))


def entry_of(name):
    entry = GRADE_LOSSES[name]
    return entry, RAW[entry.head]


@every_loss
@laws
@given(data=st.data(), grades=grade_lists, seed=seeds, spread=st.sampled_from([0.0, 1.0, 100.0]))
def test_finite_at_least_zero_and_blind_to_the_order_of_pairs(name, data, grades, seed, spread):
    entry, raw_like = entry_of(name)
    params = data.draw(params_of(entry))
    y, raw = torch.tensor(grades, dtype=torch.int64), raw_like(len(grades), seed, spread).requires_grad_()
    value = entry.make(raw, y, **params)
    value.backward()
    assert value.shape == () and torch.isfinite(value) and value >= 0
    assert torch.isfinite(raw.grad).all()
    order = shuffled(len(grades), seed)
    assert_close(entry.make(raw[order], y[order], **params), value)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@laws
@given(data=st.data(), grades=some_grades)
def test_extreme_logits_have_a_finite_value_and_slope(name, dtype, data, grades):
    entry, raw_like = entry_of(name)
    width = raw_like(0, 0, 1.0).shape[1]
    extreme = st.lists(st.sampled_from([-100.0, 0.0, 100.0]), min_size=width, max_size=width)
    rows = [data.draw(extreme) for _ in grades]
    if entry.head == "cumulative":
        rows = [sorted(row, reverse=True) for row in rows]
    raw = torch.tensor(rows, dtype=dtype, requires_grad=True)
    value = entry.make(raw, torch.tensor(grades), **data.draw(params_of(entry)))
    value.backward()
    assert value.dtype == dtype and torch.isfinite(value) and torch.isfinite(raw.grad).all()


@every_loss
@pytest.mark.parametrize("k", [2, 3, 5])
def test_of_nothing_it_is_zero_and_has_a_gradient(name, k):
    entry = GRADE_LOSSES[name]
    raw = torch.zeros(0, k if entry.head == "nominal" else k - 1, requires_grad=True)
    value = entry.make(raw, torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert value.item() == 0.0


@every_loss
@laws
@given(data=st.data(), grades=some_grades, seed=seeds, cut=st.integers(0, 6))
def test_a_batch_is_the_weighted_mean_of_its_parts(name, data, grades, seed, cut):
    entry, raw_like = entry_of(name)
    params = data.draw(params_of(entry))
    raw, y = raw_like(len(grades), seed, 3.0), torch.tensor(grades)
    parts = [entry.make(r, g, **params) * len(g) for r, g in ((raw[:cut], y[:cut]), (raw[cut:], y[cut:]))]
    assert_close(entry.make(raw, y, **params) * len(y), parts[0] + parts[1])


@every_loss
@pytest.mark.parametrize(
    ("grades", "message"),
    [
        (torch.tensor([0, K]), "not in 0..3"),
        (torch.tensor([-1, 0]), "not in 0..3"),
        (torch.tensor([0, 1], dtype=torch.int32), "not int64"),
        (torch.tensor([0.0, 1.0]), "not int64"),
    ],
)
def test_what_is_no_grade_is_refused(name, grades, message):
    entry, raw_like = entry_of(name)
    with pytest.raises(ValueError, match=message):
        entry.make(raw_like(2, 0, 1.0), grades)


@every_loss
@settings(laws, max_examples=6)
@given(data=st.data(), seed=seeds, grades=some_grades)
def test_the_gradient_is_the_slope(name, data, seed, grades):
    entry, raw_like = entry_of(name)
    params, y = data.draw(params_of(entry)), torch.tensor(grades)
    raw = raw_like(len(grades), seed, 3.0)
    if entry.head == "nominal":  # keep clear of the kinks: of the highest logit, and of a margin's end
        below = raw.amax(1, keepdim=True) - raw
        assume((below.sort(1).values[:, 1] > 1e-4).all())
        assume(((below - params.get("margin", -1.0)).abs() > 1e-4).all())
    raw = raw.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: entry.make(z, y, **params), (raw,), atol=1e-5)


@every_loss
@laws
@given(data=st.data(), seed=seeds, grades=some_grades)
def test_a_step_against_the_gradient_lowers_it(name, data, seed, grades):
    entry, raw_like = entry_of(name)
    params, y = data.draw(params_of(entry)), torch.tensor(grades)
    before, after, steepest = step_down(lambda raw: entry.make(raw, y, **params), raw_like(len(grades), seed, 1.0))
    assert after < before if steepest > 1e-3 else after <= before + 1e-9


# ---- the order of grades


def test_each_loss_says_whether_it_is_ordinal():
    assert ORDINAL | set(NOT_ORDINAL) == set(GRADE_LOSSES)
    assert not ORDINAL & set(NOT_ORDINAL)


@st.composite
def nearer_and_farther(draw):
    """A grade, a prediction, and the same with the larger of two masses on one side carried farther off."""
    grade, near, far = draw(
        st.tuples(*[st.integers(0, K - 1)] * 3).filter(
            lambda t: abs(t[1] - t[0]) < abs(t[2] - t[0]) and (t[1] - t[0]) * (t[2] - t[0]) >= 0
        )
    )
    mass = draw(st.lists(st.integers(1, 50), min_size=K, max_size=K).filter(lambda m: m[near] != m[far]))
    if mass[near] < mass[far]:
        mass[near], mass[far] = mass[far], mass[near]
    probs = torch.tensor(mass, dtype=torch.float64) / sum(mass)
    moved = probs.clone()
    moved[near], moved[far] = probs[far], probs[near]
    return grade, near, probs[None, :], moved[None, :]


@pytest.mark.parametrize("name", sorted(ORDINAL))
@laws
@given(data=st.data(), case=nearer_and_farther())
def test_mass_that_moves_farther_from_the_grade_never_lowers_an_ordinal_loss(name, data, case):
    entry, (grade, near, probs, moved) = GRADE_LOSSES[name], case
    params, y = data.draw(params_of(entry)), torch.tensor([grade])
    before, after = (float(entry.make(raw_of(p, entry.head), y, **params)) for p in (probs, moved))
    assert after >= before - 1e-9
    if near == grade or entry.head == "nominal":
        # The likelihoods of the ordered heads see the grade's own mass only: for them, the law below.
        assert after > before


@pytest.mark.parametrize("name", sorted(ORDINAL - {n for n in GRADE_LOSSES if GRADE_LOSSES[n].head == "nominal"}))
@laws
@given(seed=seeds, grade=st.integers(0, K - 1))
def test_on_an_ordered_head_it_grows_as_the_latent_leaves_the_grade_on_either_side(name, seed, grade):
    cuts = -RAW["cumulative"](1, seed, 0.0)[0]
    latent = torch.linspace(-80.0, 80.0, 641, dtype=torch.float64)
    values = [GRADE_LOSSES[name].make((s - cuts)[None, :], torch.tensor([grade])).item() for s in latent]
    lowest = min(range(len(values)), key=values.__getitem__)
    assert values[: lowest + 1] == sorted(values[: lowest + 1], reverse=True)
    assert values[lowest:] == sorted(values[lowest:])
    inside = {0: latent[0], K - 1: latent[-1]}.get(grade)  # the outer grades have no other side
    assert latent[lowest] == inside or cuts[0] - 3 < latent[lowest] < cuts[-1] + 3


@laws
@given(seed=seeds, grade=st.integers(1, K - 2))
def test_cumulative_is_lowest_in_the_middle_of_the_grade(seed, grade):
    cuts = -RAW["cumulative"](1, seed, 0.0)[0]
    middle = cuts[grade - 1 : grade + 1].mean().requires_grad_()
    cumulative((middle - cuts)[None, :], torch.tensor([grade])).backward()
    assert abs(float(middle.grad)) < 1e-9


@pytest.mark.parametrize("name", sorted(NOT_ORDINAL))
@laws
@given(data=st.data(), case=nearer_and_farther())
def test_what_is_not_ordinal_does_not_see_how_far_off_mass_lies(name, data, case):
    """... or it would have to be declared ordinal, and meet the law."""
    entry, (grade, near, probs, moved) = GRADE_LOSSES[name], case
    assume(near != grade)
    if entry.head == "nominal":
        params, y = data.draw(params_of(entry)), torch.tensor([grade])
        before, after = (entry.make(raw_of(p, entry.head), y, **params) for p in (probs, moved))
        assert_close(before, after)
    else:  # on the yes side, one grade and another two steps up cost the same
        raw = raw_of(probs, entry.head)
        assert len({entry.make(raw, torch.tensor([g])).item() for g in range(1, K)}) == 1


# ---- against other implementations


@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
@laws
@given(seed=seeds, grades=some_grades)
def test_a_likelihood_is_that_of_the_heads_own_probabilities(name, seed, grades):
    entry, raw_like = entry_of(name)
    raw, y = raw_like(len(grades), seed, 1.0), torch.tensor(grades)
    head = HEADS[entry.head].make(1, tuple(float(g) for g in range(K)))
    given_grade = head.grade_probs(raw).gather(1, y[:, None])
    assert_close(entry.make(raw, y), -given_grade.log().mean())


@laws
@given(seed=seeds, grades=some_grades, spread=st.sampled_from([1.0, 10.0]))
def test_corn_against_coral_pytorch(seed, grades, spread):
    """After the same normalisation: theirs divides by the pairs summed over the steps that they reach."""
    raw, y = RAW["corn"](len(grades), seed, spread), torch.tensor(grades)
    reached = sum(min(g + 1, K - 1) for g in grades)
    assert_close(corn(raw, y), corn_loss(raw, y, K) * reached / len(grades))


@laws
@given(seed=seeds)
def test_corn_probabilities_give_coral_pytorchs_labels(seed):
    raw = RAW["corn"](20, seed, 2.0)
    # -log P(grade) of each grade: the median of these probabilities is their label
    probs = torch.stack([torch.stack([-corn(row[None], torch.tensor([g])) for g in range(K)]).exp() for row in raw])
    assert_close(probs.sum(1), torch.ones(20, dtype=probs.dtype))
    at_least = probs.flip(1).cumsum(1).flip(1)
    assert_close((at_least[:, 1:] > 0.5).sum(1), corn_label_from_logits(raw))


@laws
@given(seed=seeds, grades=some_grades)
def test_cross_entropy_against_torch(seed, grades):
    raw, y = RAW["nominal"](len(grades), seed, 3.0), torch.tensor(grades)
    expected = torch.nn.CrossEntropyLoss()(raw, y)
    assert_close(cross_entropy(raw, y), expected)
    assert_close(focal(raw, y, gamma=0.0), expected)
    assert_close(sord(raw, y, sharpness=800.0), expected)  # labels of 1 and exp(-800), which is 0


@laws
@given(seed=seeds, grades=some_grades, sharpness=st.floats(0.1, 5.0))
def test_sord_against_torchs_soft_labels(seed, grades, sharpness):
    raw, y = RAW["nominal"](len(grades), seed, 3.0), torch.tensor(grades)
    for metric, power in (("absolute", 1), ("squared", 2)):
        rows = [[math.exp(-sharpness * abs(i - g) ** power) for i in range(K)] for g in grades]
        labels = torch.tensor([[w / sum(row) for w in row] for row in rows], dtype=raw.dtype)
        assert_close(sord(raw, y, metric=metric, sharpness=sharpness), torch.nn.CrossEntropyLoss()(raw, labels))


@laws
@given(seed=seeds, grades=some_grades)
def test_cumulative_against_the_direct_formula(seed, grades):
    raw = RAW["cumulative"](len(grades), seed, 1.0)
    above = torch.sigmoid(raw)
    ones = torch.ones(len(grades), 1, dtype=raw.dtype)
    probs = torch.cat([ones, above], 1) - torch.cat([above, 0 * ones], 1)
    expected = -probs[torch.arange(len(grades)), torch.tensor(grades)].log().mean()
    assert_close(cumulative(raw, torch.tensor(grades)), expected)


# ---- closed forms

HALF_THIRD_SIXTH = torch.tensor([[1 / 2, 1 / 3, 1 / 6]], dtype=torch.float64).log()


def values_by_grade(loss, raw, **params):
    return [loss(raw, torch.tensor([g]), **params).item() for g in range(3)]


def test_cross_entropy_closed_forms():
    expected = [-math.log(p) for p in (1 / 2, 1 / 3, 1 / 6)]
    assert values_by_grade(cross_entropy, HALF_THIRD_SIXTH) == pytest.approx(expected)


def test_sord_closed_forms():
    """Weights of 1, 1/2, 1/4 by absolute distance and 1, 1/2, 1/16 by its square."""
    logs = [math.log(p) for p in (1 / 2, 1 / 3, 1 / 6)]
    labels = {
        "absolute": [(4 / 7, 2 / 7, 1 / 7), (1 / 4, 1 / 2, 1 / 4), (1 / 7, 2 / 7, 4 / 7)],
        "squared": [(16 / 25, 8 / 25, 1 / 25), (1 / 4, 1 / 2, 1 / 4), (1 / 25, 8 / 25, 16 / 25)],
    }
    for metric, rows in labels.items():
        expected = [-sum(p * q for p, q in zip(row, logs, strict=True)) for row in rows]
        got = values_by_grade(sord, HALF_THIRD_SIXTH, metric=metric, sharpness=math.log(2))
        assert got == pytest.approx(expected)


def test_sord_is_lowest_where_the_prediction_is_the_soft_label():
    labels = torch.tensor([[4 / 7, 2 / 7, 1 / 7]], dtype=torch.float64)
    raw = labels.log().requires_grad_()
    value = sord(raw, torch.tensor([0]), sharpness=math.log(2))
    value.backward()
    assert value.item() == pytest.approx(-sum(p * math.log(p) for p in (4 / 7, 2 / 7, 1 / 7)))
    assert_close(raw.grad, torch.zeros_like(raw))


def test_squared_emd_closed_forms():
    """The cuts have 1/2 and 5/6 below them."""
    expected = [(1 / 2) ** 2 + (1 / 6) ** 2, (1 / 2) ** 2 + (1 / 6) ** 2, (1 / 2) ** 2 + (5 / 6) ** 2]
    assert values_by_grade(squared_emd, HALF_THIRD_SIXTH) == pytest.approx(expected)
    certain = torch.tensor([[0.0, 0.0, 1000.0]])
    assert values_by_grade(squared_emd, certain) == [2.0, 1.0, 0.0]  # a cut for each grade off


def test_corn_closed_forms():
    """Steps of probability 3/4 and 1/3: the grades have 1/4, 1/2 and 1/4."""
    raw = torch.tensor([[math.log(3), -math.log(2)]], dtype=torch.float64)
    assert values_by_grade(corn, raw) == pytest.approx([-math.log(p) for p in (1 / 4, 1 / 2, 1 / 4)])


def test_focal_closed_forms():
    expected = [-((1 - p) ** 2) * math.log(p) for p in (1 / 2, 1 / 3, 1 / 6)]
    assert values_by_grade(focal, HALF_THIRD_SIXTH, gamma=2.0) == pytest.approx(expected)
    assert values_by_grade(focal, HALF_THIRD_SIXTH, gamma=0.5)[0] == pytest.approx(math.sqrt(1 / 2) * math.log(2))


@laws
@given(seed=seeds, grades=some_grades, gamma=st.floats(1.0, 5.0))
def test_focal_bounds_cross_entropy_less_the_entropy(seed, grades, gamma):
    """Mukhoti et al. 2020: why it works against overconfidence."""
    raw, y = RAW["nominal"](len(grades), seed, 2.0), torch.tensor(grades)
    log_probs = F.log_softmax(raw, dim=1)
    entropy = -(log_probs.exp() * log_probs).sum(1).mean()
    assert focal(raw, y, gamma=gamma) >= cross_entropy(raw, y) - gamma * entropy - 1e-12


def test_focal_has_a_finite_slope_where_the_grade_is_certain():
    """1 - p is 0 there, and the slope of its square root infinite."""
    raw = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    value = focal(raw, torch.tensor([0]), gamma=0.5)
    value.backward()
    assert value.item() == 0.0 and torch.isfinite(raw.grad).all()


def test_cumulative_closed_forms():
    """Cuts at log-odds of 3/4 and 1/4: the grades have 1/4, 1/2 and 1/4."""
    raw = torch.tensor([[math.log(3), -math.log(3)]], dtype=torch.float64)
    assert values_by_grade(cumulative, raw) == pytest.approx([-math.log(p) for p in (1 / 4, 1 / 2, 1 / 4)])
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


@pytest.mark.parametrize("threshold", [0, K])
def test_yes_no_refuses_a_threshold_off_the_scale(threshold):
    with pytest.raises(ValueError, match="not in 1..3"):
        yes_no(RAW["cumulative"](1, 0, 1.0), torch.tensor([0]), threshold=threshold)
