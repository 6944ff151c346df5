"""Of every loss: what it declares is what it takes. And the layout that the losses over lists share."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.training_project import laws
from trainer.losses import DISTILLATION_LOSSES, GRADE_LOSSES, RANK_LOSSES
from trainer.losses.lists import average_over_lists, group_lists
from trainer.models.heads import HEADS

POSITIONAL = {
    "grade loss": ["raw", "grades"],
    "rank loss": ["score", "gains", "query_index"],
    "distillation loss": ["score", "teacher", "query_index"],
}
ENTRIES = [registry[name] for registry in (GRADE_LOSSES, RANK_LOSSES, DISTILLATION_LOSSES) for name in registry]


@pytest.mark.parametrize("registry", [GRADE_LOSSES, RANK_LOSSES, DISTILLATION_LOSSES], ids=lambda r: r.kind)
def test_each_loss_declares_its_parameters_and_its_source(registry):
    assert list(registry)
    for name in registry:
        entry = registry[name]
        taken = inspect.signature(entry.make).parameters.values()
        keywords = {p.name: p.default for p in taken if p.kind is inspect.Parameter.KEYWORD_ONLY}
        assert keywords == {key: param.default for key, param in entry.params.items()}
        assert [p.name for p in taken if p.kind is not inspect.Parameter.KEYWORD_ONLY] == POSITIONAL[registry.kind]
        assert entry.summary.endswith((".", "?"))
        _, values = registry.resolve(name, {})
        assert values == keywords
        assert all(param.field.help for param in entry.params.values())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
def test_each_loss_names_a_paper_that_can_be_found(entry):
    assert "arXiv:" in entry.cite or "doi:10." in entry.cite


def test_a_grade_loss_names_a_head_that_exists():
    assert {GRADE_LOSSES[name].head for name in GRADE_LOSSES} == set(HEADS)


# ---- lists

query_lists = st.lists(st.integers(0, 6), max_size=60)


@laws
@given(queries=query_lists)
def test_lists_hold_each_pair_once_with_those_of_its_query(queries):
    index = torch.tensor(queries, dtype=torch.int64)
    rows_seen = []
    for rows, valid in group_lists(index):
        assert rows.shape == valid.shape
        for row, real in zip(rows, valid, strict=True):
            assert real.tolist() == sorted(real.tolist(), reverse=True)
            assert len(set(index[row[real]].tolist())) == 1
            rows_seen.append(sorted(row[real].tolist()))
    assert sorted(rows_seen) == sorted([i for i, q in enumerate(queries) if q == one] for one in set(queries))


@laws
@given(counts=st.lists(st.integers(1, 300), min_size=1, max_size=8))
def test_no_list_is_padded_to_twice_its_length(counts):
    index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    for _, valid in group_lists(index):
        assert valid.shape[1] < 2 * int(valid.sum(dim=1).min())


def test_only_comparable_lists_reach_the_loss():
    """It may divide by what differs in a list."""
    seen = []

    def of_lists(score, values, valid):
        seen.extend(values[row][valid[row]].tolist() for row in range(len(values)))
        return score[:, 0]

    score = torch.tensor([5.0, 6.0, 1.0, 2.0, 3.0, 4.0])
    values = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.5, 0.0])
    index = torch.tensor([0, 0, 1, 1, 2, 3])
    assert average_over_lists(of_lists, score, values, index).item() == 1.0
    assert seen == [[0.0, 1.0]]
