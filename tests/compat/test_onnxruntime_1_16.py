"""Exported graphs run under ONNX Runtime 1.16.3, which is what ML Commons carries, and say the same there.

It needs Python 3.11 and numpy below 2, so it gets an environment of its own: made once from
``requirements/onnxruntime-1.16.3.txt`` and kept in the cache folder. Without Python 3.11 or the packages the
tests are skipped, unless ``DARL_REQUIRE_ORT_1_16=1``: then they fail.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from darl_opensearch.graph_contract import INPUTS
from darl_opensearch.io.cache import find_user_cache
from tests.helpers.bundles import QUERIES

LOCK = Path(__file__).resolve().parents[2] / "requirements" / "onnxruntime-1.16.3.txt"
FP32_BOUND = 1e-4
# Dynamic int8 rounds activations: where two versions' float32 noise meets a rounding step, a code moves by one.
INT8_BOUND = 0.02
AWKWARD = [("", ""), ("x", "y"), ("q " * 400, "i " * 900), ('say "x" \\ {y}', "été 中文 😀"), ("one", "")]

PROGRAM = """
import sys
import numpy as np
import onnxruntime
assert onnxruntime.__version__ == "1.16.3", onnxruntime.__version__
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
assert [i.name for i in session.get_inputs()] == ["input_ids", "attention_mask", "token_type_ids"]
assert len(session.get_outputs()) == 1
with np.load(sys.argv[2]) as probes:
    count = int(probes["count"])
    fed = [{i.name: probes[f"{i.name}_{n}"] for i in session.get_inputs()} for n in range(count)]
np.savez(sys.argv[3], **{f"rows_{n}": session.run(None, inputs)[0] for n, inputs in enumerate(fed)})
"""


def unavailable(reason):
    if os.environ.get("DARL_REQUIRE_ORT_1_16") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def find_uv():
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.is_file() else shutil.which("uv")


def find_python(uv):
    if sys.version_info[:2] == (3, 11):
        return sys.executable
    found = subprocess.run([uv, "python", "find", "3.11"], capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


@pytest.fixture(scope="session")
def old_python():
    """The interpreter of an environment with ONNX Runtime 1.16.3 and nothing else of ours."""
    uv = find_uv()
    if uv is None:
        unavailable("uv is not installed: pip install 'darl-opensearch[dev]'")
    python = find_python(uv)
    if python is None:
        unavailable("there is no Python 3.11: ONNX Runtime 1.16.3 has no wheels for later ones")
    digest = hashlib.sha256(LOCK.read_bytes() + python.encode()).hexdigest()[:12]
    folder = find_user_cache() / "environments" / f"onnxruntime-1.16.3-{digest}"
    made, done = folder / "bin" / "python", folder / "complete"
    if not done.is_file():
        work = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        commands = (
            [uv, "venv", "--quiet", "--python", python, str(work)],
            [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", str(work / "bin" / "python"), str(LOCK)],
        )
        for command in commands:
            ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
            if ran.returncode:
                shutil.rmtree(work, ignore_errors=True)
                unavailable(f"{' '.join(command[1:3])} failed: {ran.stderr.strip()[-300:]}")
        (work / "complete").write_text("")
        shutil.rmtree(folder, ignore_errors=True)  # one that was left half made
        work.rename(folder)
    return made


def feeds(bundle):
    """Probe pairs alone, then a padded batch of all of them."""
    pairs = AWKWARD + [(query, f"{query} covered | {text}") for query in QUERIES for text in QUERIES[:3]]
    if "probes.json" in bundle.digests:
        pairs += bundle.probes()[0]
    encodings = bundle.tokenizer.encode_batch(pairs)
    columns = [(e.ids, e.attention_mask, e.type_ids) for e in encodings]
    fed = [{n: np.array([v], dtype=np.int64) for n, v in zip(INPUTS, values, strict=True)} for values in columns]
    width = max(len(e.ids) for e in encodings)
    rows = [[v + [0] * (width - len(v)) for v in values] for values in columns]
    fed.append({name: np.array([row[n] for row in rows], dtype=np.int64) for n, name in enumerate(INPUTS)})
    return fed


def both(python, graph, fed, tmp_path):
    """Rows of the probes under the old runtime and under the current one."""
    arrays = {f"{name}_{n}": values for n, inputs in enumerate(fed) for name, values in inputs.items()}
    np.savez(tmp_path / "probes.npz", count=len(fed), **arrays)
    command = [python, "-I", "-c", PROGRAM, graph, tmp_path / "probes.npz", tmp_path / "rows.npz"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    new = [session.run(None, inputs)[0] for inputs in fed]
    with np.load(tmp_path / "rows.npz") as rows:
        return [rows[f"rows_{n}"] for n in range(len(fed))], new


def assert_same(old, new, bundle):
    k, step = bundle.card.columns.k, 1 / bundle.card.ood.calibration_pairs
    for a, b in zip(old, new, strict=True):
        assert a.shape == b.shape and a.dtype == np.float32 and np.isfinite(a).all()
        off = np.abs(a.astype(np.float64) - b)
        assert off[:, : 1 + k].max() <= FP32_BOUND
        assert (off[:, k + 2] <= FP32_BOUND * np.maximum(1, np.abs(b[:, k + 2]))).all()
        assert off[:, k + 1].max() <= 2 * step + 1e-6  # at an edge of the step function, noise moves it by one


def test_a_hand_made_bundle(old_python, tiny, tmp_path):
    assert_same(*both(old_python, tiny.file("model.onnx"), feeds(tiny), tmp_path), tiny)


def test_a_trained_bundle(old_python, small, tmp_path):
    _, bundle = small
    fed = feeds(bundle)
    assert_same(*both(old_python, bundle.file("model.onnx"), fed, tmp_path), bundle)
    old, new = both(old_python, bundle.file("features.onnx"), fed, tmp_path)
    assert max(np.abs(a - b).max() for a, b in zip(old, new, strict=True)) <= FP32_BOUND


def test_a_trained_int8_graph(old_python, small_cross, tmp_path):
    _, bundle = small_cross
    old, new = both(old_python, bundle.file("model_int8.onnx"), feeds(bundle)[:-1], tmp_path)
    off = np.abs(np.concatenate(old)[:, :4] - np.concatenate(new)[:, :4])
    assert off.max() <= INT8_BOUND


def test_a_real_model(old_python, minilm_bundle, tmp_path):
    _, bundle = minilm_bundle
    fed = feeds(bundle)[:-1]
    assert_same(*both(old_python, bundle.file("model.onnx"), fed, tmp_path), bundle)
