"""What the tests of losses share: parameters drawn from their declaration, and raw outputs of each kind of head."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from darl_opensearch.settings import Declared
from trainer.registry import Entry

K = 4
seeds = st.integers(0, 2**16)
grade_lists = st.lists(st.integers(0, K - 1), max_size=12)
some_grades = st.lists(st.integers(0, K - 1), min_size=1, max_size=6)
# three gains, five queries: ties, lists of one and queries of one gain all occur
batches = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 1 / 3, 1.0])), max_size=15)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def params_of(entry: Entry[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Values of every declared parameter, the default and the ends of its range among them."""
    return st.fixed_dictionaries({key: _values(param) for key, param in entry.params.items()})


def _values(param: Declared) -> st.SearchStrategy[Any]:
    if param.choices:
        return st.sampled_from(param.choices)
    low, high = param.field.least, param.field.most
    low = param.default - 2 if low is None else low
    if param.kind is int:
        return st.integers(int(low), int(low) + 2)  # a threshold among K grades ends there
    return st.just(param.default) | st.floats(low, 4 * param.default if high is None else high)


def nominal(n: int, seed: int, spread: float) -> torch.Tensor:
    """A logit for each grade."""
    return torch.randn(n, K, generator=generator(seed), dtype=torch.float64) * spread


def corn(n: int, seed: int, spread: float) -> torch.Tensor:
    """A logit for each step up."""
    return torch.randn(n, K - 1, generator=generator(seed), dtype=torch.float64) * spread


def cumulative(n: int, seed: int, spread: float) -> torch.Tensor:
    """One latent less increasing cuts."""
    rng = generator(seed)
    latent = torch.randn(n, generator=rng, dtype=torch.float64) * spread
    gaps = torch.rand(K - 1, generator=rng, dtype=torch.float64) + 0.05
    return latent[:, None] - gaps.cumsum(0)


RAW = {"nominal": nominal, "corn": corn, "cumulative": cumulative}


def raw_of(grade_probs: torch.Tensor, head: str) -> torch.Tensor:
    """What a head gives when it predicts these probabilities."""
    if head == "nominal":
        return grade_probs.log()
    at_least = grade_probs.flip(1).cumsum(1).flip(1)
    return torch.logit(at_least[:, 1:] / at_least[:, :-1] if head == "corn" else at_least[:, 1:])


def ranking(batch: list[tuple[int, float]], seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores without ties, gains and query numbers of a batch."""
    rng = generator(seed)
    places = torch.randperm(len(batch), generator=rng) + 0.5 * torch.rand(len(batch), generator=rng)
    score = places.double() - len(batch) / 2
    gains = torch.tensor([g for _, g in batch], dtype=torch.float64)
    return score.requires_grad_(), gains, torch.tensor([q for q, _ in batch], dtype=torch.int64)


def shuffled(n: int, seed: int) -> torch.Tensor:
    """An order of so many pairs."""
    return torch.randperm(n, generator=generator(seed))


def step_down(loss: Any, at: torch.Tensor) -> tuple[float, float, float]:
    """Value before and after a tiny step against the gradient, and the gradient's largest entry."""
    at = at.detach().requires_grad_()
    before = loss(at)
    before.backward()
    steepest = float(at.grad.abs().max())
    with torch.no_grad():
        after = loss(at - 1e-6 * at.grad / max(steepest, 1e-30))
    return before.item(), after.item(), steepest
