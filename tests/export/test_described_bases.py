"""Bases with prompts and layers after their pooling: torch, the pair graph and item states say the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from darl_opensearch import bundle as files
from darl_opensearch.check import check_bundle
from darl_opensearch.errors import UsageError
from darl_opensearch.scoring import Scorer
from darl_opensearch.scoring.encode import CappedTokenizer
from darl_opensearch.states import QUERY_LEVELS, StateStore, round_states
from darl_opensearch.states.state import LEVELS
from tests.helpers.described import dense, describe, frame_pairs, norm
from tests.helpers.trained import train_and_export
from tests.helpers.training_project import PERILS, TEXTS, write_base, write_project
from trainer.config import read_config
from trainer.stages import plan

QUERIES = ["bike theft please", "pet cover against illness", "storm " * 40]
ITEMS = [f"{text} | kind: x" for text in TEXTS[::7]] + ["garden cover against fire and water " * 20]


@pytest.fixture(scope="module", autouse=True)
def any_rounding():
    """With 32 features eight bits are coarse; the tests compare states with what they must be, rounded."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SCORE_BOUND", "NDCG_BOUND", "OOD_BOUND"):
            patch.setattr(f"trainer.export.states.{name}", 1.0)
        yield


def make(folder, backbone, *, prompts, int8=False, **described):
    base = frame_pairs(write_base(folder / "base", "bert", scale=0.2))
    describe(base, "new", prompts=prompts, **described)
    config = write_project(
        folder / "data", base, model={"backbone": backbone}, stages={"run": ["head"], "head_steps": 2}
    )
    return (*train_and_export(folder, config, int8=int8), config)


def shapes():
    torch.manual_seed(3)
    return [dense(32, 24, nn.GELU(), bias=False), norm(24), dense(24, 8, nn.Tanh())]


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    prompts = {"query": "fire theft ", "passage": "cover against "}
    return make(tmp_path_factory.mktemp("split"), "split", layers=shapes(), prompts=prompts)


@torch.no_grad()
def in_torch(model, query, items):
    raw = model.head(model.pair_features([query] * len(items), items).head_input)
    return torch.cat([model.head.score(raw)[:, None], model.head.grade_probs(raw)], dim=1).numpy()


def test_a_split_bundle_scores_as_torch_does(split):
    trained, bundle, _ = split
    assert trained.model.head.weight.detach().flatten()[1:].abs().max() > 1e-3  # it reads the similarities
    with Scorer.open(bundle) as scorer:
        for query in QUERIES:
            wanted = in_torch(trained.model, query, ITEMS)
            found = scorer.run(query, ITEMS)
            assert np.abs(found.scores.data[:, :4] - wanted).max() <= 1e-4 and wanted[:, 0].std() > 1e-3
            assert found.tokens == tokens(trained.model, query, ITEMS)


def tokens(model, query, items):
    capped = CappedTokenizer(model.tokenizer(), model.query_cap, model.item_cap)
    return sum(len(pair.ids) for pair in capped.pairs(query, items))


@torch.no_grad()
def by_rounded_states(model, query, item):
    """A pair's scores by hand: each half encoded alone, its tokens without the prompt's rounded to eight bits."""
    capped = CappedTokenizer(model.tokenizer(), model.query_cap, model.item_cap)
    halves = ((capped.query(query), QUERY_LEVELS), (capped.items([item])[0], LEVELS))
    sides = []
    for (sequence, levels), prompt in zip(halves, (2, 2), strict=True):
        ids = torch.tensor([sequence.ids])
        states = model.encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        pooled = F.normalize(model.projection(states.mean(0)[None]), dim=1)
        kept = [0, *range(1 + prompt, len(states))]
        rounded, scales = round_states(F.normalize(states[kept], dim=1).numpy(), levels)
        sides.append((pooled, torch.from_numpy(rounded * scales[:, None]), ids[:, kept]))
    (query_half, a, a_ids), (item_half, b, b_ids) = sides
    mask = torch.ones(b_ids.shape)
    content = (model.rarity[b_ids] > 0).float()
    cosine = (query_half * item_half).sum(1)
    weight = model.weigh(a_ids, torch.ones(a_ids.shape))
    raw = model.head(model.pool_similarities(cosine, (a @ b.T)[None], weight, mask, content))
    return torch.cat([model.head.score(raw)[:, None], model.head.grade_probs(raw)], dim=1)[0].numpy()


def test_item_states_have_the_prompts_in_their_encoding_and_not_in_their_tokens(split):
    trained, bundle, _ = split
    with Scorer.open(bundle, states=StateStore(None)) as scorer:
        assert scorer.halves is not None
        for query in QUERIES:
            wanted = np.stack([by_rounded_states(trained.model, query, item) for item in ITEMS])
            found = scorer.run(query, ITEMS)
            assert np.abs(found.scores.data[:, :4] - wanted).max() <= 2e-4
            assert found.tokens == tokens(trained.model, query, ITEMS)


def test_a_split_bundle_passes_its_check(split):
    _, bundle, _ = split
    failed = [finding for finding in check_bundle(bundle.path) if not finding.passed]
    assert [finding for finding in failed if finding.check != "meet.onnx: score"] == []  # whose bound is not kept here
    card = bundle.card
    assert card.frame == 4 + 2 + 2 == bundle.tokenizer.num_special_tokens_to_add(True)
    assert card.max_length == 16 + 32 + card.frame
    assert np.load(bundle.file(files.REFERENCE)).shape[1] == 2 * 8


@pytest.mark.parametrize(
    ("keys", "refused"), [({}, False), ({"query_prompt": "fire theft "}, False), ({"item_prompt": ""}, True)]
)
def test_a_training_goes_on_with_the_bundle_s_prompts(split, keys, refused):
    _, bundle, config = split
    overrides = [f"model.base='bundle:{bundle.path}'", "stages.run=[]", *(f"model.{k}='{v}'" for k, v in keys.items())]
    if refused:
        with pytest.raises(UsageError, match=r"\[model\] item_prompt is '', and the bundle's is 'cover against '"):
            plan.prepare(read_config(config, overrides), config.parent)
        return
    model, _ = plan.prepare(read_config(config, overrides), config.parent)
    assert model.prompt_tokens == (2, 2)


def test_int8_graphs_open(tmp_path):
    """The layers after the pooling stay as they are, for both halves."""
    trained, bundle, _ = make(tmp_path, "split", layers=shapes(), prompts={}, int8=True)
    with Scorer.open(bundle, int8=True) as scorer:
        found = scorer.score(QUERIES[0], ITEMS).data
    assert scorer.files[0] == files.MEET_INT8 and np.isfinite(found).all()
    assert np.abs(found[:, :4] - in_torch(trained.model, QUERIES[0], ITEMS)).mean() <= 0.1


@pytest.mark.parametrize("item_prompt", ["cover against ", "cover "])
def test_prompts_left_out_of_the_pooling(tmp_path, item_prompt):
    """One encoder graph serves both halves, so that it can leave out prompts of one length only."""
    prompts = {"query": "fire theft ", "passage": item_prompt}
    trained, bundle, _ = make(tmp_path, "split", prompts=prompts, include_prompt=False)
    same = item_prompt != "cover "
    assert bundle.has_states() is same
    if not same:
        assert "prompts of two lengths" in bundle.card.graphs[files.MEET]["left_out"]
    with Scorer.open(bundle, states=StateStore(None)) as scorer:
        assert (scorer.halves is not None) is same
        wanted = in_torch(trained.model, QUERIES[1], ITEMS)
        assert np.abs(scorer.score(QUERIES[1], ITEMS).data[:, :4] - wanted).max() <= (0.03 if same else 1e-4)


def test_a_cross_encoder_of_modules(tmp_path):
    torch.manual_seed(4)
    layers = [dense(32, 32, nn.GELU(), bias=False), norm(32), dense(32, 1, nn.Identity())]
    trained, bundle, _ = make(
        tmp_path, "cross", layers=layers, scores=True, pooling="cls", prompts={"q": "cover "}, default_prompt_name="q",
        int8=True,
    )  # fmt: skip
    assert files.MODEL_INT8 in bundle.digests
    queries = [f"bike {peril}" for peril in PERILS]
    with Scorer.open(bundle) as scorer:
        for query in queries:
            wanted = in_torch(trained.model, query, ITEMS[:-1])
            assert np.abs(scorer.score(query, ITEMS[:-1]).data[:, :4] - wanted).max() <= 1e-4
            assert wanted[:, 0].std() > 1e-3
    assert bundle.card.frame == 3 + 1
