"""``darl check`` finds what was changed in a bundle, and names it."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, processors

from darl_opensearch import bundle as files
from darl_opensearch.check import check_bundle
from tests.helpers.bundles import copy_bundle, correct_digests


def change_graph(folder, change, name="model.onnx"):
    """Change a graph; the zip follows, so that this is all that is wrong."""
    model = onnx.load(folder / name)
    change(model)
    (folder / name).write_bytes(model.SerializeToString())
    files.write_opensearch_zip(folder)


def change_tokenizer(folder, change):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    change(tokenizer)
    tokenizer.save(str(folder / "tokenizer.json"))
    files.write_opensearch_zip(folder)


def after_scores(kind, value):
    """Replace ``scores`` by ``scores`` (op) a row of constants."""

    def change(model):
        last = next(node for node in model.graph.node if "scores" in node.output)
        last.output[list(last.output).index("scores")] = "scores_before"
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), "moved"))
        model.graph.node.append(helper.make_node(kind, ["scores_before", "moved"], ["scores"]))

    return change


def without_types(model):
    """Take the third input away: the graph works it out as zeros."""
    model.graph.input.pop(2)
    model.graph.node.insert(0, helper.make_node("Sub", ["input_ids", "input_ids"], ["token_type_ids"]))


def reordered(model):
    types = model.graph.input.pop(2)
    model.graph.input.insert(0, types)


def extra_output(model):
    model.graph.output.append(helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "seq"]))


def custom_operator(model):
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    last = next(node for node in model.graph.node if "scores" in node.output)
    last.output[list(last.output).index("scores")] = "scores_before"
    model.graph.node.append(helper.make_node("Gelu", ["scores_before"], ["scores"], domain="com.microsoft"))


def set_opset(version):
    def change(model):
        model.opset_import[0].version = version

    return change


def set_ir(version):
    def change(model):
        model.ir_version = version

    return change


def int32_inputs(model):
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32


def one_cls(tokenizer):
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=ids
    )


def no_types(tokenizer):
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 [CLS]:0 $B:0 [SEP]:0", special_tokens=ids
    )


GRAPHS = {
    "newer opset": (set_opset(18), "model.onnx: opset: ai.onnx 18, must be 17"),
    "newer IR": (set_ir(10), "model.onnx: IR: 10, must be 8"),
    "extra output": (extra_output, "model.onnx: outputs: ['scores', 'attention_mask'], must be ['scores']"),
    "third input missing": (without_types, "model.onnx: inputs: ['input_ids', 'attention_mask'], must be"),
    "inputs in another order": (reordered, "model.onnx: inputs: ['token_type_ids', 'input_ids', 'attention_mask']"),
    "int32 input": (int32_inputs, "model.onnx: inputs:"),
    "operator of another domain": (custom_operator, "model.onnx: operators: unknown to ONNX Runtime 1.16.3: com."),
    "NaN": (after_scores("Div", [1, 1, 1, 1, 1, np.nan]), "model.onnx: output:"),
    "infinity": (after_scores("Add", [0, 0, 0, 0, 0, np.inf]), "model.onnx: output: shape (48, 6), 48 rows not finite"),
    "shifted scores": (after_scores("Add", [3e-4, 0, 0, 0, 0, 0]), "model.onnx: scores: off by at most 3.0e-04"),
    "probabilities that do not sum to 1": (after_scores("Add", [0, 8e-5, 0, 0, 0, 0]), "model.onnx: grade_probs:"),
    "shifted distance": (after_scores("Add", [0, 0, 0, 0, 0, 0.1]), "model.onnx: ood_distance:"),
    "shifted OOD score": (after_scores("Mul", [1, 1, 1, 1, 0.5, 1]), "model.onnx: ood_score:"),
}  # fmt: skip
TOKENIZERS = {
    "fixed padding": (lambda t: t.enable_padding(length=64), "tokenizer: padding:"),
    "one CLS only": (one_cls, "tokenizer: pair template: [CLS] a [SEP] b [SEP]"),
    "no token types": (no_types, "tokenizer: pair template:"),
    "shorter truncation": (lambda t: t.enable_truncation(32), "tokenizer: truncation: longest_first at 32 tokens"),
    "another truncation": (
        lambda t: t.enable_truncation(124, strategy="only_second"),
        "tokenizer: truncation: only_second at 124 tokens, must be longest_first at 124",
    ),
    "no truncation": (lambda t: t.no_truncation(), "tokenizer: truncation:"),
}  # fmt: skip


def refused(darl, folder, wanted):
    """It ends with 3, one line on stderr, and names what is wrong on stdout."""
    code, out, err = darl("check", folder)
    assert code == 3, out + err
    assert f"FAIL  {wanted}" in out
    assert err.startswith(f"darl: {folder}: ") and err.count("\n") == 1 and "export the model again" in err.lower()
    assert wanted.partition(": ")[0] in err
    return out


def test_a_bundle_as_exported_passes(small, darl):
    code, out, err = darl("check", small[1].path)
    assert (code, err) == (0, "") and "FAIL" not in out
    for name in ("digests", "model.onnx: scores", "features.onnx: output", "meet_int8.onnx: score", "opensearch.zip"):
        assert f"ok    {name}: " in out


def test_as_json(small, darl):
    code, out, _ = darl("check", small[1].path, "--json")
    said = json.loads(out)
    assert code == 0 and said["passed"] and all(f["passed"] for f in said["findings"])


def test_the_hand_made_bundle_passes_too(tiny, darl):
    code, out, _ = darl("check", tiny.path)
    assert code == 0 and "?   parity: the bundle has no probe pairs" in out


def test_a_changed_byte_is_a_wrong_digest(small, tmp_path, darl):
    folder = copy_bundle(small[1], tmp_path / "changed")
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)
    code, out, err = darl("check", folder)
    assert (code, out) == (1, "")
    assert err.startswith(f"darl: {folder}: model.onnx has SHA-256 ") and err.count("\n") == 1


@pytest.mark.parametrize("name", GRAPHS)
def test_a_changed_graph_is_found(small, tmp_path, darl, name):
    change, wanted = GRAPHS[name]
    folder = copy_bundle(small[1], tmp_path / "changed")
    change_graph(folder, change)
    refused(darl, correct_digests(folder), wanted)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_changed_tokenizer_is_found(small, tmp_path, darl, name):
    change, wanted = TOKENIZERS[name]
    folder = copy_bundle(small[1], tmp_path / "changed")
    change_tokenizer(folder, change)
    refused(darl, correct_digests(folder), wanted)


def npy(shape):
    """The head of a .npy file that promises what need not be there."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def test_other_changed_files_are_found(small, tmp_path, darl):
    def changed(name, data):
        folder = copy_bundle(small[1], tmp_path / f"b{len(list(tmp_path.iterdir()))}")
        (folder / name).write_bytes(data)
        if name in ("model.onnx", "tokenizer.json"):
            files.write_opensearch_zip(folder)
        return correct_digests(folder)

    refused(darl, changed("model.onnx", b"no graph"), "model.onnx: static: not an ONNX file")
    refused(darl, changed("features.onnx", b"no graph"), "features.onnx: runs: ")
    refused(darl, changed("tokenizer.json", b"{}"), "tokenizer: cannot be read")
    refused(darl, changed("opensearch.zip", b"PK"), "opensearch.zip: it cannot be read")
    refused(darl, changed("ood/calibration.npy", b"\x93NUMPY"), "calibration: ")
    refused(darl, changed("ood/calibration.npy", npy("(10000000000000,)")), "calibration: ")
    refused(darl, changed("ood/calibration.npy", npy("()") + bytes(4)), "calibration: ")
    refused(darl, changed("ood/calibration.npy", npy("(1,)") + b"\0\0\xc0\x7f"), "calibration: ")
    folder = copy_bundle(small[1], tmp_path / "few")
    np.save(folder / "ood/calibration.npy", np.ones(9, np.float32))
    refused(darl, correct_digests(folder), "calibration: 9 distances for alpha 0.05")


@pytest.mark.parametrize("oddity", ["encrypted", "unknown method", "longer", "damaged"])
def test_an_odd_zip_is_found(small, tmp_path, darl, oddity):
    folder = copy_bundle(small[1], tmp_path / "changed")
    with zipfile.ZipFile(folder / "opensearch.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("model.onnx", "tokenizer.json"):
            archive.writestr(name, (folder / name).read_bytes() + bytes(1 << 20 if oddity == "longer" else 0))
    data = bytearray((folder / "opensearch.zip").read_bytes())
    if oddity == "damaged":
        data[100:200] = bytes(100)
    entry = data.find(b"PK\x01\x02")
    while entry >= 0 and oddity in ("encrypted", "unknown method"):
        offset, value = (8, 1) if oddity == "encrypted" else (10, 99)
        data[entry + offset] = value
        entry = data.find(b"PK\x01\x02", entry + 4)
    (folder / "opensearch.zip").write_bytes(data)
    refused(darl, correct_digests(folder), "opensearch.zip: it")


def test_int8_that_is_another_model_is_found(small_cross, tmp_path, darl):
    for step, wanted in (([0.3, 0, 0, 0, 0, 0], "score: off by at most 0.3"), ([np.nan] * 6, "output: shape (48, 6)")):
        folder = copy_bundle(small_cross[1], tmp_path / wanted[:5])
        change_graph(folder, after_scores("Add", step), "model_int8.onnx")
        out = refused(darl, correct_digests(folder), f"model_int8.onnx: {wanted}")
        assert "FAIL  model.onnx" not in out


def test_a_zip_of_another_model_is_found(small, tmp_path, darl):
    folder = copy_bundle(small[1], tmp_path / "changed")
    with zipfile.ZipFile(folder / "opensearch.zip", "w") as archive:
        archive.writestr("model.onnx", b"another")
        archive.write(folder / "tokenizer.json", "tokenizer.json")
    refused(darl, correct_digests(folder), "opensearch.zip: its model.onnx differs")


def test_a_card_with_other_grades_is_found(small, tmp_path, darl):
    folder = copy_bundle(small[1], tmp_path / "changed")
    grades = [{"name": n, "gain": g} for g, n in enumerate("abcd")]
    code, _, err = darl("check", correct_digests(folder, grades=grades))
    assert code == 1 and "probes.json: damaged" in err and err.count("\n") == 1
    (folder / "probes.json").unlink()
    refused(darl, correct_digests(folder), "model.onnx: columns: 6, must be 7")


def test_a_graph_that_depends_on_batch_mates_is_found(small, tmp_path):
    def mean_of_the_batch(model):
        last = next(node for node in model.graph.node if "scores" in node.output)
        last.output[list(last.output).index("scores")] = "scores_before"
        model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "half"))
        for node in (
            helper.make_node("ReduceMean", ["scores_before"], ["batch_mean"], axes=[0], keepdims=1),
            helper.make_node("Add", ["scores_before", "batch_mean"], ["both"]),
            helper.make_node("Mul", ["both", "half"], ["scores"]),
        ):
            model.graph.node.append(node)

    folder = copy_bundle(small[1], tmp_path / "changed")
    change_graph(folder, mean_of_the_batch)
    found = {f.check: f for f in check_bundle(correct_digests(folder))}
    assert found["model.onnx: scores"].passed  # alone, each pair is as it was
    assert found["model.onnx: batch mates"].passed is False
