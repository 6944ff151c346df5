"""``darl check``: checks of digests, graph contract, tokenizer, and parity with torch."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.bundle import (
    CALIBRATION,
    ENCODE,
    ENCODE_INT8,
    FEATURES,
    MEET,
    MEET_INT8,
    MODEL,
    MODEL_DATA,
    MODEL_INT8,
    OOD_SIDES,
    OOD_SIDES_INT8,
    PROBES,
    TOKENIZER,
    ZIP,
    Bundle,
)
from darl_opensearch.errors import BundleError
from darl_opensearch.graph_contract import ENCODE_INPUTS, MEET_INPUTS, Finding, inspect_graph
from darl_opensearch.io.digest import digest_file
from darl_opensearch.io.progress import count_up
from darl_opensearch.scores import Columns

FP32_BOUND = 1e-4
STATES_BOUND = 0.005  # for scores from item states, which are rounded to eight bits
HALF = {"inputs": ENCODE_INPUTS, "outputs": ("states", "pooled")}
SIDES = {"inputs": ("pooled",), "outputs": ("sides",)}
INT8_BOUND = 0.15  # for scores: quantisation changes them by less, a wrong graph by more


def check_bundle(path: Path) -> Iterator[Finding]:
    """Check a bundle.

    :raises BundleError: if it cannot be opened.
    """
    bundle = Bundle.open(path)
    yield Finding("digests", True, f"{len(bundle.digests)} files match the card")
    columns = bundle.card.columns
    scores = {"width": columns.width}
    graphs: dict[str, dict[str, Any]] = {
        MODEL: scores, FEATURES: {"outputs": ("features",)}, MODEL_INT8: scores,
        ENCODE: HALF, ENCODE_INT8: HALF, MEET: scores | {"inputs": MEET_INPUTS},
        MEET_INT8: scores | {"inputs": MEET_INPUTS}, OOD_SIDES: SIDES, OOD_SIDES_INT8: SIDES,
    }  # fmt: skip
    for name, contract in graphs.items():
        if name in bundle.digests:
            data = MODEL_DATA if MODEL_DATA in bundle.digests and name in (MODEL, FEATURES) else None
            yield from inspect_graph(bundle.file(name), data=data, **contract)
    yield _check_zip(bundle)
    tokenizer = list(_check_tokenizer(bundle))
    yield from tokenizer
    try:
        calibration = bundle.calibration()
    except (ValueError, EOFError, MemoryError) as err:
        yield Finding("calibration", False, f"{CALIBRATION} cannot be read ({err})")
        return
    if calibration.ndim != 1 or not np.isfinite(calibration).all():
        yield Finding("calibration", False, f"{CALIBRATION} has shape {calibration.shape}; must be finite distances")
        return
    enough = len(calibration) + 1 >= 1 / bundle.card.ood.alpha
    yield Finding("calibration", enough, f"{len(calibration)} distances for alpha {bundle.card.ood.alpha}")
    if (chunks := bundle.card.template.chunks) > 1:
        yield Finding("chunks", None, f"up to {chunks} an item; a model in the cluster scores only the first")
    if PROBES not in bundle.digests:
        yield Finding("parity", None, "the bundle has no probe pairs")
    elif len(tokenizer) > 1:  # a single finding means that it cannot be read
        yield from _check_answers(bundle, calibration)


def _check_answers(bundle: Bundle, calibration: NDArray[Any]) -> Iterator[Finding]:
    """Run the graphs on the probe pairs and compare with torch."""
    columns = bundle.card.columns
    pairs, reference = bundle.probes()
    rows = yield from _answers(bundle, MODEL, pairs)
    if rows is not None:
        yield from compare(MODEL, rows, reference, columns, calibration)
        batched = yield from _answers(bundle, MODEL, pairs, batch=8)
        if batched is not None and batched.shape == rows.shape:
            off = float(np.abs(batched[:, : 1 + columns.k] - rows[:, : 1 + columns.k]).max())
            detail = f"a score moves by {off:.1e}, bound {FP32_BOUND}"
            yield Finding(f"{MODEL}: batch mates", off <= FP32_BOUND, detail)
    features = yield from _answers(bundle, FEATURES, pairs)
    if features is not None:
        right = features.ndim == 2 and len(features) == len(pairs) and bool(np.isfinite(features).all())
        yield Finding(f"{FEATURES}: output", right, f"shape {features.shape}, must have one finite row per pair")
    for int8 in (False, True):
        if bundle.has_states(int8=int8):
            yield _check_states(bundle, pairs, int8=int8)
    if MODEL_INT8 not in bundle.digests:
        return
    quantised = yield from _answers(bundle, MODEL_INT8, pairs)
    if quantised is not None:
        if quantised.shape != reference.shape or not np.isfinite(quantised).all():
            yield _not_finite(MODEL_INT8, quantised, reference)
            return
        off = float(np.abs(quantised[:, 0] - reference[:, 0]).max())
        yield Finding(f"{MODEL_INT8}: score", off <= INT8_BOUND, f"off by at most {off:.4f}, bound {INT8_BOUND}")


def _check_states(bundle: Bundle, pairs: Sequence[tuple[str, str]], *, int8: bool) -> Finding:
    """Compare scores from item states with those of the graph that reads pairs."""
    from darl_opensearch.scoring import Scorer
    from darl_opensearch.states import StateStore

    name, bound = (MEET_INT8, INT8_BOUND) if int8 else (MEET, STATES_BOUND)
    try:
        with (
            StateStore(None) as store,
            Scorer.open(bundle) as whole,
            Scorer.open(bundle, states=store, int8=int8) as halves,
        ):
            rows = [[scorer.score(q, [text]) for q, text in pairs] for scorer in (whole, halves)]
    except Exception as err:  # noqa: BLE001  ONNX Runtime's exceptions share no base class
        return Finding(f"{name}: runs", False, " ".join(str(err).split())[:300])
    off = max(float(np.abs(a.score - b.score).max()) for a, b in zip(*rows, strict=True))
    return Finding(f"{name}: score", off <= bound, f"off by at most {off:.1e}, bound {bound}")


def _answers(
    bundle: Bundle, name: str, pairs: Sequence[tuple[str, str]], *, batch: int = 1
) -> Generator[Finding, None, NDArray[np.float32] | None]:
    """Run a graph; if it fails, yield a finding and return None."""
    try:
        return run_pairs(bundle.file(name), bundle.tokenizer, pairs, batch=batch)
    except BundleError as err:
        yield Finding(f"{name}: runs", False, err.what)
    except Exception as err:  # noqa: BLE001  ONNX Runtime's exceptions share no base class
        yield Finding(f"{name}: runs", False, " ".join(str(err).split())[:300])
    return None


def _check_zip(bundle: Bundle) -> Finding:
    """Check that the zip contains the files that are checked here."""
    if ZIP not in bundle.digests:
        return Finding(ZIP, True, "none: a model with separate weights is served by darl serve through a connector")
    wrong = None
    try:
        with zipfile.ZipFile(bundle.path / ZIP) as archive:
            if sorted(archive.namelist()) != sorted((MODEL, TOKENIZER)):
                wrong = f"it holds {', '.join(archive.namelist())}"
            else:
                for name in (MODEL, TOKENIZER):
                    if archive.getinfo(name).file_size != (bundle.path / name).stat().st_size:
                        wrong = f"its {name} differs"  # checked before unpacking, which could be endless
                        break
                    with archive.open(name) as packed:
                        if digest_file(packed) != bundle.digests[name]:
                            wrong = f"its {name} differs"
    # RuntimeError: encrypted, or an unknown compression
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as err:
        wrong = f"it cannot be read ({err})"
    must = f"must hold this bundle's {MODEL} and {TOKENIZER}"
    return Finding(ZIP, wrong is None, f"{wrong}; {must}" if wrong else "holds the files checked here")


def _check_tokenizer(bundle: Bundle) -> Iterator[Finding]:
    """Check pair template, truncation and padding, which ML Commons reads as well."""
    try:
        tokenizer = bundle.tokenizer
    except BundleError as err:
        yield Finding("tokenizer", False, err.what)
        return
    card, pair = bundle.card, tokenizer.encode("a", "b")
    actual = f"{' '.join(pair.tokens[-12:])}, type ids {pair.type_ids[-12:]}"
    if card.backbone == "split":
        switch = pair.type_ids.index(1) if 1 in pair.type_ids else 0
        right = switch > 0 and pair.ids[switch] == pair.ids[0] and pair.special_tokens_mask[switch] == 1
        must = "CLS a SEP CLS b SEP with type 1 from the second CLS"
    else:
        first = pair.sequence_ids.index(1) if 1 in pair.sequence_ids else 0
        right = 0 in pair.sequence_ids[:first] and pair.type_ids == [0] * first + [1] * (len(pair) - first)
        right = right and tokenizer.num_special_tokens_to_add(is_pair=True) == card.frame
        must = f"a and b within {card.frame} tokens of the template, with type 1 from the first of b"
    yield Finding("tokenizer: pair template", right, f"{actual}, must be {must}")
    truncation = tokenizer.truncation or {}
    right = truncation.get("max_length") == card.max_length and truncation.get("strategy") == "longest_first"
    actual = f"{truncation.get('strategy')} at {truncation.get('max_length')} tokens"
    yield Finding("tokenizer: truncation", right, f"{actual}, must be longest_first at {card.max_length}")
    yield Finding("tokenizer: padding", tokenizer.padding is None, f"{tokenizer.padding}, must be None")


def compare(
    name: str, rows: NDArray[Any], reference: NDArray[Any], columns: Columns, calibration: NDArray[Any]
) -> Iterator[Finding]:
    """Compare a graph's output with torch's, within the bounds of the contract.

    :param rows: ``[n, 3 + k]`` from the graph.
    :param reference: ``[n, 3 + k]`` from torch.
    :param calibration: ``[m]`` calibration distances, for the steps of ``ood_score``.
    """
    if rows.shape != reference.shape or not np.isfinite(rows).all():
        yield _not_finite(name, rows, reference)
        return
    off = np.abs(rows.astype(np.float64) - reference)
    worst = float(off[:, : 1 + columns.k].max())
    yield Finding(f"{name}: scores", worst <= FP32_BOUND, f"off by at most {worst:.1e}, bound {FP32_BOUND}")
    allowed = FP32_BOUND * np.maximum(1.0, np.abs(reference[:, columns.ood_distance]))
    far = float((off[:, columns.ood_distance] / allowed).max())
    yield Finding(f"{name}: ood_distance", far <= 1.0, f"{far:.3f} of its bound")
    sums = float(np.abs(rows[:, columns.grade_probs].sum(1) - 1.0).max())
    yield Finding(f"{name}: grade_probs", sums <= 1e-5, f"rows sum to 1 within {sums:.1e}")
    # Bound: one step of the calibration table, plus the table's mass within the bound of the distance.
    median, tail = np.quantile(calibration, [0.5, 0.95])
    spread = max(float(tail - median), 1e-6)
    raw = reference[:, columns.ood_distance] * spread + median
    within_bound = np.abs(calibration[None, :] - raw[:, None]) <= (allowed * spread)[:, None] + 1e-6
    bound = (1.0 + within_bound.sum(1)) / (len(calibration) + 1) + 1e-6
    steps = float((off[:, columns.ood_score] / bound).max())
    yield Finding(f"{name}: ood_score", steps <= 1.0, f"{steps:.3f} of its bound")


def _not_finite(name: str, rows: NDArray[Any], reference: NDArray[Any]) -> Finding:
    bad = int((~np.isfinite(rows)).any(axis=1).sum()) if rows.ndim == 2 else 0
    detail = f"shape {rows.shape}, {bad} rows not finite; must be {reference.shape} and finite"
    return Finding(f"{name}: output", False, detail)


def run_pairs(graph: Path, tokenizer: Any, pairs: Sequence[tuple[str, str]], *, batch: int = 1) -> NDArray[np.float32]:
    """Run a graph on pairs of query and item text, without a scorer.

    :param batch: pairs per pass.
    :return: ``[n, 3 + k]``.
    """
    from concurrent.futures import ThreadPoolExecutor

    from darl_opensearch.scoring.cores import available_cores
    from darl_opensearch.scoring.encode import pad_batch
    from darl_opensearch.scoring.runtime import open_session

    session = open_session(graph, "cpu").session
    encodings = tokenizer.encode_batch(list(pairs))

    def run_batch(start: int) -> NDArray[np.float32]:
        out: NDArray[np.float32] = session.run(None, pad_batch(encodings[start : start + batch]))[0]
        return out

    if not encodings:
        return np.zeros((0, 0), dtype=np.float32)
    with ThreadPoolExecutor(available_cores()) as pool:
        starts = range(0, len(encodings), batch)
        return np.concatenate(list(count_up(pool.map(run_batch, starts), f"running {graph.name}", len(starts))))
