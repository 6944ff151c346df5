"""The parts of a selection: features of a query, its items, the draws, what is noise, what is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from darl_opensearch.errors import DarlError, InputError
from trainer.dasa.control import draw_by_traffic, keep_share
from trainer.dasa.features import average_pairs
from trainer.dasa.items import Items
from trainer.dasa.labelled import LabelledQueries, draw_bits
from trainer.dasa.mix import Listed, lead_items, spread_items
from trainer.dasa.near import find_representatives, mark_near
from trainer.dasa.noise import is_even, is_gibberish, mark_isolated
from trainer.dasa.work import GatheredLog

laws = settings(deadline=None, max_examples=40)


def test_features_of_two_halves_by_hand():
    """A query at (1, 0) with items at (0, 2) and (2, 0): the items' mean points at 45 degrees."""
    pairs = np.array([[1, 0, 0, 2], [1, 0, 2, 0], [0, 3, 1, 0]], dtype=np.float32)
    got = average_pairs(pairs, [2, 1], 2)
    half = math.sqrt(1 / 2)
    assert_allclose(got, [[half, 0, half * half, half * half], [0, half, half, 0]], atol=1e-6)
    # The cosine of two queries is the mean of their halves' cosines: (0 + sqrt(1/2)) / 2.
    assert_allclose(got[0] @ got[1], half / 2, atol=1e-6)


def test_features_of_one_half_are_the_mean():
    pairs = np.array([[3, 0], [0, 3], [0, -2]], dtype=np.float32)
    assert_allclose(average_pairs(pairs, [2, 1], 1), [[math.sqrt(1 / 2)] * 2, [0, -1]], atol=1e-6)
    assert average_pairs(np.empty((0, 4), dtype=np.float32), [], 2).shape == (0, 4)
    assert_allclose(average_pairs(np.zeros((1, 2), dtype=np.float32), [1], 1), [[0, 0]])  # never NaN


@laws
@given(
    n=st.integers(0, 60), count=st.integers(2, 12), seed=st.integers(0, 999),
    take=st.sampled_from([spread_items, lead_items]),
)  # fmt: skip
def test_items_of_a_query(n, count, seed, take):
    rng = np.random.default_rng(seed)
    listed = [Listed(f"i{i}", "t", float(rng.integers(0, 5)) / 4, is_ood=bool(rng.integers(2))) for i in range(n)]
    got = take(listed, count)
    assert len(got) == min(n, count) == len({item.item_id for item in got})
    scores = [item.score for item in got]
    assert scores == sorted(scores, reverse=True)
    if n:
        every = [item.score for item in listed]
        assert scores[0] == max(every) and (len(got) == 1 or scores[-1] == min(every))
        best = [item for item in listed if item.score == max(every)]
        assert got[0].is_ood or not any(item.is_ood for item in best)
    assert take([listed[i] for i in rng.permutation(n)], count) == got


def test_ranks_to_train_on_and_to_test_on():
    listed = [Listed(f"i{rank:02d}", "t", 1 - rank / 50) for rank in range(50)]
    ranks = {take: [int(item.item_id[1:]) for item in take(listed, 10)] for take in (lead_items, spread_items)}
    assert ranks[lead_items] == [0, 1, 2, 3, 5, 8, 13, 20, 31, 49]
    assert ranks[spread_items] == [0, 5, 11, 16, 22, 27, 33, 38, 44, 49]


def test_the_draw_by_traffic_has_chances_by_traffic():
    """Traffic 1, 2 and 5: the first draw has chances 1/8, 2/8, 5/8; the second is without replacement."""
    traffic = np.array([1.0, 2.0, 5.0])
    n = 4000
    drawn = np.array([draw_by_traffic(["a", "b", "c"], traffic, 2, seed) for seed in range(n)])
    first = np.bincount(drawn[:, 0], minlength=3) / n
    assert_allclose(first, [1 / 8, 2 / 8, 5 / 8], atol=5 * math.sqrt(0.25 / n))
    after_c = drawn[drawn[:, 0] == 2, 1]
    assert_allclose(np.mean(after_c == 1), 2 / 3, atol=5 * math.sqrt(0.25 / len(after_c)))
    assert (drawn[:, 0] != drawn[:, 1]).all()


@laws
@given(keys=st.lists(st.text(min_size=1), unique=True, max_size=20), count=st.integers(0, 25), seed=st.integers(0, 99))
def test_draws_do_not_depend_on_the_order(keys, count, seed):
    traffic = np.array([1.0 + len(key) for key in keys])
    got = [keys[row] for row in draw_by_traffic(keys, traffic, count, seed)]
    assert len(got) == min(count, len(keys)) == len(set(got))
    assert [keys[::-1][row] for row in draw_by_traffic(keys[::-1], traffic[::-1], count, seed)] == got
    fewer = draw_by_traffic(keys, traffic, max(count - 1, 0), seed)
    assert [keys[row] for row in fewer] == got[: len(fewer)]
    kept = keep_share(keys, 0.5, seed)
    assert len(kept) == math.ceil(len(keys) / 2) and keep_share(keys[::-1], 0.5, seed) == kept


def test_a_draw_is_a_number_of_its_own():
    assert len({draw_bits(key, seed, what) for key in "ab" for seed in (0, 1) for what in ("x", "y")}) == 8


@pytest.mark.parametrize("query", ["?!", "  ", "aaaaaargh", "http://example.org", "<img src=x>", "1 union select 2",
                                   "../../etc/passwd", "${jndi:ldap}"])  # fmt: skip
def test_gibberish(query):
    assert is_gibberish(query)


@pytest.mark.parametrize("query", ["e-bike", "4711", "犬 保険", "c++", "www rollator", "zahnzusatz", "x", "a/b test",
                                   "select cover from list", "part 100000"])  # fmt: skip
def test_in_doubt_it_is_a_query(query):
    assert not is_gibberish(query)


def test_a_clock_is_even():
    gaps = np.array([300.0] * 19)
    assert is_even(19, gaps.mean(), (gaps**2).mean())
    assert not is_even(18, gaps.mean(), (gaps**2).mean())  # too few to tell
    gaps[::2] = 240.0
    assert not is_even(19, gaps.mean(), (gaps**2).mean())
    assert not is_even(25, 0.0, 0.0)  # all at once is what the rate is for


def test_sparse_regions():
    rng = np.random.default_rng(0)
    crowd = np.eye(8)[0] + 0.1 * rng.normal(size=(60, 8))
    features = np.concatenate([crowd, [[0, 0, 0, 0, 0, 0, 0, 1.0]]])
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    none = np.empty((0, 8), dtype=np.float32)
    assert np.flatnonzero(mark_isolated(features, none, 1.5)).tolist()[-1] == 60
    assert mark_isolated(features, none, 1.5).sum() <= 6
    beside = np.repeat(features[60:], 5, axis=0)  # near something known it is no noise
    assert not mark_isolated(features, beside, 1.5)[60]
    assert not mark_isolated(features, none, 0.0).any()
    assert not mark_isolated(features[40:], none, 1.5).any()  # too few to tell


def test_near_queries_have_one_representative():
    keys = ["a b c d e f g h i", "a b c d e f g h j", "i h g f e d c b a", "x y", "y x", "z"]
    requests = np.array([1, 5, 1, 1, 1, 9])
    assert find_representatives(keys, requests, range(6), threshold=0.8, near_rows=99) == {0: 1, 2: 1, 4: 3}
    assert find_representatives(keys, requests, range(6), threshold=1.0, near_rows=99) == {2: 0, 4: 3}
    assert find_representatives(keys, requests, [3, 4, 5], threshold=0.8, near_rows=0) == {4: 3}
    assert mark_near(keys, ["a b c d e f g h k", "x y"], 0.8).tolist() == [True, True, True, True, True, False]
    assert mark_near(keys, ["y x"], 1.0).tolist() == [False, False, False, True, True, False]
    assert mark_near(keys, [], 0.8).tolist() == [False] * 6


def test_what_is_known_is_read_from_files(tmp_path):
    texts = {"i1": "one", "i2": "two"}
    rows = [("Red  shoes", "i1"), ("red shoes", "i2"), ("boots", "i1"), ("hats", "gone")]
    (train := tmp_path / "train.jsonl").write_text("".join(
        json.dumps({"query": query, "item_id": item, "grade": 1}) + "\n" for query, item in rows))  # fmt: skip
    (test := tmp_path / "test.jsonl").write_text('{"query": "Gloves"}\n')
    known = LabelledQueries.read([train], [test], Items.of_texts(texts).texts)
    assert known.judged == {"red shoes", "boots", "hats", "gloves"}
    assert dict(known.trained) == {"red shoes": ("one", "two"), "boots": ("one",)}
    few = LabelledQueries.read([train], [], Items.of_texts(texts).texts, most=1, items_per_query=1, seed=4)
    assert len(few.trained) <= 1 and few.judged == {"red shoes", "boots", "hats"}
    test.write_text('{"query": " "}\n')
    with pytest.raises(
        InputError, match=r"test.jsonl, line 1: field 'query' is empty or not text. Add the query's text"
    ):
        LabelledQueries.read([train], [test], Items.of_texts(texts).texts)


def test_a_work_file_is_one_process_alone_until_that_ends(tmp_path):
    path = tmp_path / "out" / "work" / "log.db"
    with GatheredLog(path, "digest"):
        with pytest.raises(DarlError, match=r"out/work: another process is selecting into this folder. Wait for it"):
            GatheredLog(path, "digest")
        with pytest.raises(DarlError, match="another process"):
            GatheredLog(path, "another digest")  # and does not begin it anew
    with GatheredLog(path, "digest") as work:
        assert work.mark("digest") == "digest"


def test_a_disk_that_is_full_is_said_and_what_was_written_stays(tmp_path):
    path = tmp_path / "log.db"
    with pytest.raises(DarlError, match=r"log\.db: the work file cannot be used .*full.*\. Check disk") as caught:
        with GatheredLog(path, "digest") as work:
            work._db.execute("PRAGMA max_page_count = 20")
            for n in range(1000):
                work.set_mark(f"mark {n}", 500 * "x")
                work.commit()
    assert "run the same command again: it resumes" in str(caught.value)
    with GatheredLog(path, "digest") as work:
        assert work.mark("mark 0") == 500 * "x"
