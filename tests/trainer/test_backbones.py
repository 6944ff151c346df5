"""Every backbone through the whole of it: each grade loss, a run, a bundle, the runtime that scores it."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from darl_opensearch import bundle as files
from darl_opensearch.bundle import Bundle
from darl_opensearch.check import check_bundle, run_pairs
from darl_opensearch.cluster.register import register
from darl_opensearch.errors import BundleError, UsageError
from darl_opensearch.graph_contract import INPUTS, inspect_graph
from darl_opensearch.scoring import Scorer
from darl_opensearch.text import clean, cut_to_tokens
from tests.helpers.bundles import correct_digests
from tests.helpers.commands import run_main
from tests.helpers.joint_bases import PAIRS, PROMPT, columns, configured, write_classifier, write_decoder
from tests.helpers.training_project import write_project
from trainer.config import Loss, Ood, read_config
from trainer.export import export_run
from trainer.export.graph import ContractModule, export_graphs
from trainer.losses import GRADE_LOSSES
from trainer.models import BACKBONES
from trainer.models.continued import load_starting_model
from trainer.run_folder import load_run
from trainer.stages.objective import Objective
from trainer.stages.ood_stage import fit_ood, measure_flagged
from trainer.training_data.features import Features
from trainer.training_data.reading import read_data

GAINS = (0.0, 1.0, 2.0)


@pytest.fixture(scope="module")
def starts(tmp_path_factory, bases):
    """A checkpoint for each backbone."""
    folder = tmp_path_factory.mktemp("starts")
    return {
        "split": bases["bert"], "cross": write_classifier(folder / "cross", "bert"),
        "llm": write_decoder(folder / "llm", "qwen2"),
    }  # fmt: skip


@pytest.mark.parametrize(("backbone", "grade"), list(itertools.product(BACKBONES, GRADE_LOSSES)))
def test_every_backbone_trains_with_every_grade_loss(starts, backbone, grade):
    torch.manual_seed(0)
    model = BACKBONES[backbone].make.from_base(configured(backbone, starts[backbone]), GRADE_LOSSES[grade].head)
    objective = Objective.make(Loss(grade=grade), GAINS)
    grades, query_index = torch.arange(len(PAIRS)) % 3, torch.arange(len(PAIRS)) // 5
    parameters = [*model.encoder_parameters(), *model.head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3)
    losses = []
    for _ in range(3):  # in evaluation mode: dropout would hide that it goes down
        optimiser.zero_grad()
        loss = objective(model.head, model.pair_features(*columns()).head_input, grades, query_index)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoder_parameters())


@pytest.fixture(scope="module")
def runs(tmp_path_factory, starts):
    """A finished run and its bundle, by the commands, for each backbone that reads query and item together."""
    made = {}
    for backbone in ("cross", "llm"):
        folder = tmp_path_factory.mktemp(backbone)
        tables = {"llm": {"prompt": PROMPT}, "loss": {"grade": "cross_entropy"}} if backbone == "llm" else {}
        config = write_project(
            folder / "data", starts[backbone], model={"backbone": backbone},
            stages={"full_epochs": 1, "full_learning_rate": 1e-3}, **tables,
        )  # fmt: skip
        said = run_main("train", config, "--run", folder / "run")
        assert said.code == 0, said
        assert run_main("export", folder / "run").code == 0
        made[backbone] = (load_run(folder / "run"), Bundle.open(folder / "run" / "bundle"), config)
    return made


JOINT = ["cross", "llm"]


@pytest.mark.parametrize("backbone", JOINT)
def test_the_bundle_scores_as_torch_does(runs, backbone):
    trained, bundle, _ = runs[backbone]
    model = trained.model
    with torch.no_grad():
        # The scorer cuts query and item, each to its cap; a whole pair is cut from its longer side.
        caps = (bundle.card.query_cap, bundle.card.item_cap)
        texts = [
            [cut_to_tokens(clean(text), bundle.tokenizer, cap) for text in side]
            for side, cap in zip(columns(), caps, strict=True)
        ]
        raw = model.head(model.pair_features(*texts).head_input)
        wanted = torch.cat([model.head.score(raw)[:, None], model.head.grade_probs(raw)], dim=1).numpy()
    found = []
    with Scorer.open(bundle, threads=1) as scorer:
        for query, item in PAIRS:
            scores = scorer.score(query, [item])
            found.append([scores.score[0], *scores.grade_probs[0]])
    assert np.abs(np.array(found) - wanted).max() <= 1e-4 and wanted[:, 0].std() > 1e-4
    sample = np.load(bundle.file(files.REFERENCE))
    assert sample.shape[1] == 32 and np.allclose(np.linalg.norm(sample, axis=1), 1, atol=1e-5)


def go_on(runs, *overrides):
    """Start from the language model's bundle, with other keys of the configuration."""
    trained, bundle, _ = runs["llm"]
    folder = trained.folder.parent / "data"
    config = read_config(folder / "darl.toml", [f"model.base='bundle:{bundle.path}'", *overrides])
    return load_starting_model(config, folder, BACKBONES["llm"].make), config


def test_a_language_model_goes_on_with_the_configuration_s_adapters(runs):
    model, config = go_on(runs, "lora.rank=2", "lora.layers=1", "llm.checkpointing=true")
    assert model.adapters == config.lora and model.checkpointing
    adapters = [parameter for name, parameter in model.named_parameters() if ".lora_A." in name]
    assert len(adapters) == 7 and {parameter.shape[0] for parameter in adapters} == {2}
    assert runs["llm"][0].model.adapters.rank == 16


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("llm.prompt=''", r"\[llm\] prompt is '', and the bundle's is '"),
        ("llm.chat=false", r"\[llm\] chat is False, and the bundle's is True"),
        ("llm.grade_words=['a', 'b', 'c']", r"\[llm\] grade_words is \('a', 'b', 'c'\), and the bundle's is \(\)"),
    ],
)
def test_a_language_model_does_not_go_on_with_another_prompt(runs, override, message):
    with pytest.raises(UsageError, match=message):
        go_on(runs, override)


@pytest.mark.parametrize("backbone", JOINT)
def test_the_bundle_passes_its_check(runs, backbone):
    _, bundle, _ = runs[backbone]
    findings = list(check_bundle(bundle.path))
    assert [f for f in findings if not f.passed] == []
    assert {"model.onnx: scores", "model.onnx: batch mates", "features.onnx: output"} <= {f.check for f in findings}
    card = bundle.card
    assert card.backbone == backbone
    assert card.frame == (3 if backbone == "cross" else bundle.tokenizer.num_special_tokens_to_add(True))
    assert card.max_length == 16 + 32 + card.frame == bundle.tokenizer.truncation["max_length"]
    model = onnx.load(bundle.file("model.onnx"))
    assert [i.name for i in model.graph.input] == list(INPUTS) and model.ir_version == 8
    assert {o.domain: o.version for o in model.opset_import}[""] == 17
    assert "before training" in (bundle.path / "README.md").read_text(encoding="utf-8")


def test_int8_where_it_keeps_the_scores(runs):
    assert files.MODEL_INT8 in runs["cross"][1].digests
    bundle = runs["llm"][1]
    assert files.MODEL_INT8 not in bundle.digests
    assert "outlier features" in bundle.card.graphs[files.MODEL_INT8]["left_out"]


@pytest.mark.parametrize("backbone", JOINT)
@pytest.mark.parametrize("rows", [
    ([[2]], [[1]], [[0]]), ([[0] * 6], [[0] * 6], [[0] * 6]), ([[2, 40, 3]], [[1] * 3], [[1] * 3]),
    ([[2, 40, 3, 41, 3, 0, 0]], [[1] * 5 + [0, 0]], [[0, 0, 0, 1, 1, 1, 1]]),
])  # fmt: skip
def test_degenerate_inputs_give_finite_output(runs, backbone, rows):
    _, bundle, _ = runs[backbone]
    fed = dict(zip(INPUTS, (np.array(part, dtype=np.int64) for part in rows), strict=True))
    for name in (files.MODEL, files.FEATURES):
        session = onnxruntime.InferenceSession(bundle.file(name), providers=["CPUExecutionProvider"])
        assert np.isfinite(session.run(None, fed)[0]).all()


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "qwen3", "llama"])
def test_other_architectures_export(runs, tmp_path, kind):
    """Their graphs, with the detector of the run: what is traced differs, the rest does not."""
    backbone = "cross" if kind in ("roberta", "distilbert") else "llm"
    trained, _, _ = runs[backbone]
    base = (write_classifier if backbone == "cross" else write_decoder)(tmp_path / "base", kind)
    model = BACKBONES[backbone].make.from_base(configured(backbone, base), trained.model.head_name)
    if backbone == "llm":
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:
                    parameter.normal_(0, 0.05)  # adapters are in the graph, merged
    module = ContractModule(dataclasses.replace(trained, model=model))
    with torch.no_grad():
        export_graphs(module, tmp_path, tmp_path)
        encodings = model.tokenizer().encode_batch(PAIRS[:4])
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
        assert [i.name for i in session.get_inputs()] == list(INPUTS)
        for e in encodings:
            values = (e.ids, e.attention_mask, e.type_ids)
            wanted = module(*(torch.tensor([v]) for v in values))["scores"].numpy()
            padded = {n: np.array([[*v, 0, 0, 0]]) for n, v in zip(INPUTS, values, strict=True)}
            found = session.run(None, padded)[0]
            assert np.abs(found[:, :4] - wanted[:, :4]).max() <= 1e-4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "features.onnx", "model.onnx"]


def test_no_pair_is_encoded_twice(runs, monkeypatch):
    """The detector reads what the stages have encoded, and the one without dev what the detector has."""
    trained, bundle, config = runs["cross"]
    data, encoded = read_data(trained.config, config.parent, bundle.tokenizer), []
    features, ood = Features(trained.model), Ood(detector="relative_mahalanobis", alpha=0.1)
    known = type(trained.model).feature_table

    def counted(self, queries, items, index, **options):
        encoded.append(len(index))
        return known(self, queries, items, index, **options)

    monkeypatch.setattr(type(trained.model), "feature_table", counted)
    pairs = {role: data.judged(queries) for role, queries in (("train", data.train), ("dev", data.dev))}
    parts = [*pairs.values(), *(data.unjudged(part) for part in (data.traffic, data.familiar) if part)]
    for part in pairs.values():
        features.of(part)
    fit_ood(features, ood, data)
    assert measure_flagged(features, ood, data, pairs, seed=0)["dev"]["pairs"] == len(pairs["dev"].index)
    assert sum(encoded) == sum(len(part.index) for part in parts)


@pytest.mark.parametrize(("backbone", "layers", "detectors"), [
    ("cross", "last", ["vim", "max_softmax", "relative_mahalanobis"]), ("llm", "last", ["vim"]),
    ("cross", "average", ["knn"]), ("llm", "average", ["knn"]),
])  # fmt: skip
def test_detectors_are_in_the_graph(runs, tmp_path, backbone, layers, detectors):
    """What is read of a backbone that reads query and item together: features, energy, probabilities."""
    trained, bundle, config = runs[backbone]
    data, features = read_data(trained.config, config.parent, bundle.tokenizer), Features(trained.model)
    for name in detectors:
        ood = fit_ood(features, Ood(detector=name, layers=layers, alpha=0.1), data)
        module = ContractModule(dataclasses.replace(trained, ood=ood)).eval()
        (folder := tmp_path / name).mkdir()
        export_graphs(module, folder, folder)
        assert all(finding.passed for finding in inspect_graph(folder / "model.onnx", width=6))
        encodings = bundle.tokenizer.encode_batch(PAIRS[:4])
        with torch.no_grad():
            wanted = [module(*(torch.tensor([v]) for v in (e.ids, e.attention_mask, e.type_ids))) for e in encodings]
        found = run_pairs(folder / "model.onnx", bundle.tokenizer, PAIRS[:4])
        distances = torch.cat([row["scores"] for row in wanted])[:, 5].numpy()
        assert np.abs(found[:, 5] - distances).max() <= 1e-3 * max(1, np.abs(distances).max())
        assert len(set(found[:, 5].tolist())) > 1
        held = run_pairs(folder / "features.onnx", bundle.tokenizer, PAIRS[:4])
        assert np.abs(held - torch.cat([row["features"] for row in wanted]).numpy()).max() <= 1e-4


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_averaged_layers_everywhere_the_same(starts, backbone):
    """Pairs, tables, halves alone and the graph's way give one answer; the last layer's is as ever."""
    model = BACKBONES[backbone].make.from_base(configured(backbone, starts[backbone]), "cumulative")
    queries, items = columns([PAIRS[n] for n in (0, 2, 3, 4)])  # short ones: a scorer cuts items to the cap before
    with torch.no_grad():
        both, last = (model.pair_features(queries, items, layers=layers) for layers in ("average", "last"))
        index = torch.arange(len(queries))[:, None].expand(-1, 2)
        table = model.feature_table(queries, items, index, layers="average").expand()
        passed = []
        for e in model.tokenizer().encode_batch(list(zip(queries, items, strict=True))):
            inputs = (torch.tensor([v]) for v in (e.ids, e.attention_mask, e.type_ids))
            passed.append(model.forward_features(*inputs, layers="average"))
    assert len(both.averaged) == len(both.halves) == model.halves and last.averaged == ()
    for side in range(model.halves):
        wanted = both.averaged[side]
        assert torch.allclose(wanted.norm(dim=1), torch.ones(len(wanted)), atol=1e-5)
        for other in (table.averaged[side], torch.cat([one.averaged[side] for one in passed])):
            assert torch.allclose(other, wanted, atol=1e-5)
        assert torch.allclose(both.halves[side], last.halves[side], atol=1e-6)
        assert not torch.allclose(wanted, last.halves[side], atol=5e-4)
    assert torch.allclose(both.head_input, last.head_input, atol=1e-6)
    if model.halves == 2:
        assert torch.allclose(model.pool_texts(items, "item", layers="average"), both.averaged[1], atol=1e-5)
        ids = torch.tensor([model.tokenizer().encode(items[0]).ids])  # by hand: the mean over tokens and layers
        states = model.encoder(ids, output_hidden_states=True).hidden_states[1:]
        mean = torch.stack(states).mean((0, 2))[0]
        assert torch.allclose(mean / mean.norm(), both.averaged[1][0], atol=1e-5)


# ---- weights in a file of their own


def test_what_the_exporter_writes_for_more_than_two_gigabytes(runs, tmp_path, monkeypatch):
    """Optimum then moves the weights itself, and small constants of nodes with them."""
    trained, small, _ = runs["cross"]
    monkeypatch.setenv("FORCE_ONNX_EXTERNAL_DATA", "1")
    export_graphs(ContractModule(trained), tmp_path, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["features.onnx", "model.onnx", "model.onnx_data"]
    one, other = (
        onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        for graph in (tmp_path / "model.onnx", small.file("model.onnx"))
    )
    fed = {name: np.array([[2, 40, 3, 41, 3]]) if name == "input_ids" else np.ones((1, 5), np.int64) for name in INPUTS}
    assert np.array_equal(one.run(None, fed)[0], other.run(None, fed)[0])
    findings = list(inspect_graph(tmp_path / "model.onnx", width=6, data="model.onnx_data"))
    assert all(f.passed for f in findings)


@pytest.fixture(scope="module")
def large(runs, tmp_path_factory):
    """The llm's bundle with a limit so low that its weights are too large for one file."""
    trained, _, config = runs["llm"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "MAX_ONE_FILE", 10_000)
        return export_run(trained, config.parent, tmp_path_factory.mktemp("large") / "bundle")


def copy_of(bundle, target):
    import shutil

    return shutil.copytree(bundle.path, target)


def test_weights_stand_once_beside_both_graphs(runs, large):
    _, small, _ = runs["llm"]
    assert files.MODEL_DATA in large.digests and files.ZIP not in large.digests
    names = {p.name for p in large.path.iterdir()}
    assert {"model.onnx", "model.onnx_data", "features.onnx"} <= names and "opensearch.zip" not in names
    both = sum(small.file(name).stat().st_size for name in (files.MODEL, files.FEATURES))
    apart = sum(large.file(name).stat().st_size for name in (files.MODEL, files.FEATURES, files.MODEL_DATA))
    assert apart < both - large.file(files.MODEL_DATA).stat().st_size / 2
    for name in (files.MODEL, files.FEATURES):
        locations = {
            entry.value
            for tensor in onnx.load(large.file(name), load_external_data=False).graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }
        assert locations == {"model.onnx_data"}
    with Scorer.open(large, threads=1) as one, Scorer.open(small, threads=1) as other:
        items = [item for _, item in PAIRS]
        assert np.array_equal(one.score("fire", items).score, other.score("fire", items).score)


def test_such_a_bundle_passes_its_check_and_says_that_it_has_no_zip(large):
    findings = {f.check: f for f in check_bundle(large.path)}
    assert all(f.passed for f in findings.values())
    assert "connector" in findings["opensearch.zip"].detail
    assert "model.onnx_data" in findings["model.onnx: weights"].detail


def test_changed_weights_are_found(large, tmp_path):
    folder = copy_of(large, tmp_path / "changed")
    with (folder / files.MODEL_DATA).open("r+b") as file:
        file.write(b"\x01\x02\x03\x04")
    with pytest.raises(BundleError, match=r"model\.onnx_data has SHA-256 .* but the card says"):
        Bundle.open(folder)
    (folder / files.MODEL_DATA).unlink()
    with pytest.raises(BundleError, match=r"model\.onnx_data is missing"):
        Bundle.open(folder)
    correct_digests(folder)
    with pytest.raises(BundleError, match=r"opensearch\.zip is missing"):
        Bundle.open(folder)


def test_weights_elsewhere_are_a_finding(large, tmp_path):
    folder = copy_of(large, tmp_path / "elsewhere")
    model = onnx.load(folder / "features.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "other_data"
    (folder / "features.onnx").write_bytes(model.SerializeToString())
    (folder / "other_data").write_bytes((folder / files.MODEL_DATA).read_bytes())
    correct_digests(folder)
    failed = {f.check: f.detail for f in check_bundle(folder) if f.passed is False}
    assert "other_data, must be in itself or model.onnx_data" in failed["features.onnx: weights"]


def test_the_cluster_itself_cannot_take_it(large):
    with pytest.raises(BundleError, match="ML Commons accepts at most 1.9") as told:
        register(large, None)  # refused before the cluster is asked anything
    assert "--mode connector" in told.value.todo and "student distilled from it" in told.value.todo


def test_identity_follows_what_scores(large, tmp_path):
    folder = copy_of(large, tmp_path / "same")
    (folder / "README.md").write_text("another")
    correct_digests(folder)
    assert Bundle.open(folder).identity == large.identity
    with (folder / files.MODEL_DATA).open("ab") as file:
        file.write(b"0")
    correct_digests(folder)
    assert Bundle.open(folder).identity != large.identity


def test_a_template_that_another_tokenizer_brought_is_a_finding(runs, tmp_path):
    """The frame of a split bundle is not the prompt of this one."""
    from trainer.models.framing import Frame, apply_frame

    folder = copy_of(runs["llm"][1], tmp_path / "other")
    bundle = Bundle.open(folder)
    apply_frame(bundle.tokenizer, Frame((0,), (2,), (2,)), bundle.card.max_length).save(str(folder / "tokenizer.json"))
    files.write_opensearch_zip(folder)
    correct_digests(folder)
    failed = {f.check for f in check_bundle(folder) if f.passed is False}
    assert {"tokenizer: pair template", "model.onnx: scores"} <= failed


def test_the_card_of_an_older_bundle_has_four_template_tokens(runs, tmp_path):
    folder = copy_of(runs["cross"][1], tmp_path / "older")
    data = json.loads((folder / files.CARD).read_text(encoding="utf-8"))
    assert data.pop("frame") == 3
    (folder / files.CARD).write_text(json.dumps(data), encoding="utf-8")
    assert Bundle.open(folder).card.frame == 4
