"""Every detector on shifts of every size, on the frozen features of the packaged MiniLM.

``python -m benchmarks.ood.detectors``, with ``DARL_DATA`` naming the folder of real judgments. Texts are encoded once
and kept in ``--cache``. ``--peers`` names the interpreter of the environment of ``requirements/peers.txt``; without it
pytorch-ood is left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.measuring import data_folder
from benchmarks.ood import report
from benchmarks.ood.encoding import ITEMS, SETTINGS, SPEECH, TYPOS, Encoded, encode
from benchmarks.ood.measures import DRAWS, Part, claims, interval, over_repetitions, resamples
from benchmarks.ood.report import SEEN, UNSEEN
from benchmarks.quality import sets
from benchmarks.quality.data import ID_DOMAINS, OOD_DOMAIN
from benchmarks.quality.feedbackqa import circumstances
from benchmarks.quality.losses import method
from benchmarks.quality.methods import fitted
from darl_opensearch.errors import DarlError, UsageError
from darl_opensearch.scores import is_ood
from trainer.models.heads import Head
from trainer.ood import DETECTORS, ConformalCalibration, count_halves
from trainer.ood.base import split_chunks
from trainer.ood.reference import assign_centres, kmeans, sample
from trainer.ood.vim import VirtualLogit
from trainer.training_data.pairs import Pairs

ALPHA = 0.05
ESCI_INSIDE = sets.SETTINGS["ESCI"].inside
HEAD = method("cross_entropy")  # a nominal head: energy and ViM are about a logit a class
NAMED = ("mahalanobis, item", "knn k=5, pair", "knn k=5, query")  # whose figures the goal was set by
OURS = "catalogue, pair"

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class System:
    """A detector as it is tried.

    :param detector: registered name.
    :param space: ``query``, ``item`` or ``pair``.
    :param layers: 0: the last; 1: the average.
    :param params: of the detector.
    :param blind: the catalogue lacks the strange items: they came after training.
    """

    detector: str
    space: str = "pair"
    layers: int = 0
    params: tuple[tuple[str, Any], ...] = ()
    blind: bool = False


def _systems() -> dict[str, System]:
    found: dict[str, System] = {}
    for k in (5, 1):
        found |= {f"knn k={k}, {space}": System("knn", space, 0, (("k", k),)) for space in ("query", "item", "pair")}
    found["knn k=1, pair, average layers"] = System("knn", "pair", 1, (("k", 1),))
    found["knn k=1, pair, whitened"] = System("knn", "pair", 0, (("k", 1), ("whiten", 1.0)))
    for space in ("query", "item", "pair"):
        found[f"mahalanobis, {space}"] = System("mahalanobis", space)
    found["mahalanobis, item, average layers"] = System("mahalanobis", "item", 1)
    for name in ("relative_mahalanobis", "vim"):
        found[f"{name}, item"] = System(name, "item")
    found |= {name: System(name) for name in ("energy", "max_softmax")}
    for space in ("item", "pair"):
        found[f"catalogue, {space}"] = System("catalogue", space)
    found["catalogue, pair, items new to it"] = System("catalogue", "pair", blind=True)
    return found


SYSTEMS = _systems()


@dataclass(frozen=True)
class Shift:
    """What is known and what is strange.

    :param inside: domains that the detector is fitted on.
    :param outside: domains of each strange part, by its name.
    :param catalogue: domains of the items that the catalogue holds beside the judged ones.
    """

    inside: tuple[str, ...]
    outside: dict[str, tuple[str, ...]]
    catalogue: tuple[str, ...]


def shifts(data: Encoded) -> dict[str, Shift]:
    """The settings, by name.

    :param data: for the names of ESCI's categories.
    :return: three fits with six strange parts.
    """
    made = {*ID_DOMAINS, OOD_DOMAIN, sets.CHORUS, TYPOS, SPEECH}
    esci = tuple(sorted(set(data.query_domain.tolist()) - made))
    rest = tuple(name for name in esci if name not in ESCI_INSIDE)
    return {
        "FeedbackQA": Shift(
            ID_DOMAINS, {"near: Australia": (OOD_DOMAIN,), "far: ESCI": esci, TYPOS: (TYPOS,), SPEECH: (SPEECH,)},
            (*ID_DOMAINS, OOD_DOMAIN),
        ),
        "ESCI, two categories": Shift(ESCI_INSIDE, {"near: other categories": rest}, esci),
        "ESCI": Shift(esci, {"middle: Chorus": (sets.CHORUS,)}, (*esci, sets.CHORUS)),
    }  # fmt: skip


@dataclass(frozen=True)
class Split:
    """Pairs of one repetition, as rows.

    :param fit: the detector and the head.
    :param held: calibrate; like ``test``, of queries and items that are not in ``fit``.
    :param test: known pairs of fresh queries with fresh items.
    :param seen: fresh queries with items of ``fit``.
    :param outside: strange pairs by part, with items that are not in ``fit``.
    """

    fit: Rows
    held: Rows
    test: Rows
    seen: Rows
    outside: dict[str, Rows]


def split(data: Encoded, shift: Shift, *, seed: int) -> Split:
    """Draw half of the known queries to fit, a quarter to calibrate and a quarter to test.

    Questions that were translated are never fitted on, so that a translation is never of a known question.

    :param data: all pairs.
    :param shift: what is known and strange.
    :param seed: of the draw.
    :return: the parts.
    """
    rng = np.random.default_rng([seed, 7])
    known = np.flatnonzero(np.isin(data.query_domain, shift.inside))
    spoken = np.isin(known, data.origin[data.query_domain == SPEECH])
    order = np.concatenate([rng.permutation(known[~spoken]), rng.permutation(known[spoken])])
    half = len(order) // 2
    fit, rest = order[:half], rng.permutation(order[half:])
    held, test = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    of, item = data.index[:, 0], data.index[:, 1]
    known_items = np.zeros(len(data.item), dtype=bool)
    known_items[item[np.isin(of, fit)]] = True
    fresh = ~known_items[item]
    outside = {}
    for name, domains in shift.outside.items():
        strange = np.isin(data.query_domain[of], domains) & fresh
        if name == TYPOS:
            strange &= np.isin(data.origin[of], test)
        elif name == SPEECH:
            strange &= ~np.isin(data.origin[of], fit)
        outside[name] = np.flatnonzero(strange)
    return Split(
        np.flatnonzero(np.isin(of, fit)), np.flatnonzero(np.isin(of, held) & fresh),
        np.flatnonzero(np.isin(of, test) & fresh), np.flatnonzero(np.isin(of, test) & ~fresh), outside,
    )  # fmt: skip


class Bench:
    """One repetition of one fit: a head, and the distances of all pairs by every system.

    :param data: all pairs.
    :param shift: what is known.
    :param parts: of the repetition.
    """

    def __init__(self, data: Encoded, shift: Shift, parts: Split) -> None:
        self.data, self.shift, self.parts = data, shift, parts
        self.head_input = torch.from_numpy(data.similarity)
        self.head = self._head()
        with torch.no_grad():
            self.raw = self.head(self.head_input)

    def _head(self) -> Head:
        rows = self.parts.fit
        dev = self.data.index[rows, 0] % 5 == 0
        sides = []
        for part in (rows[~dev], rows[dev]):
            index, grades = (torch.from_numpy(values[part]) for values in (self.data.index, self.data.grades))
            sides.append((Pairs((), (), index, grades), self.head_input[part]))
        return fitted(HEAD, *sides)

    def halves(self, rows: Rows, system: System) -> Tensor:
        """``[n, w]`` features of some pairs."""
        query = self.data.query[self.data.index[rows, 0], system.layers]
        item = self.data.item[self.data.index[rows, 1], system.layers]
        return torch.from_numpy({"query": query, "item": item, "pair": np.hstack([query, item])}[system.space])

    def read(self, rows: Rows, system: System) -> tuple[Tensor, ...]:
        """What a system reads of some pairs."""
        given = {
            "features": lambda: self.halves(rows, system),
            "energy": lambda: self.head.energy(self.raw[rows]),
            "grade_probs": lambda: self.head.grade_probs(self.raw[rows]),
        }
        return tuple(given[name]() for name in DETECTORS[system.detector].make.reads)

    @torch.no_grad()
    def distances(self, system: System) -> NDArray[np.float64]:
        """``[n]`` of every pair there is."""
        make, params = DETECTORS.resolve(system.detector, dict(system.params))
        detector = make(
            self.halves(self.parts.fit[:1], system).shape[1], halves=count_halves(system.space, 2), **params
        )
        more: tuple[Any, ...] = ()
        if DETECTORS[system.detector].make.fits_catalogue:
            domains = self.shift.inside if system.blind else self.shift.catalogue
            listed = np.isin(self.data.item_domain, domains)
            listed[self.data.index[self.parts.fit, 1]] = False
            more = (split_chunks(torch.from_numpy(self.data.item[listed, system.layers])),)
        detector.fit(split_chunks(*self.read(self.parts.fit, system)), *more)
        found = detector(*self.read(np.arange(len(self.data.index)), system))
        return np.asarray(found.double().numpy())

    def peers(self, python: str) -> tuple[str, dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]]:
        """pytorch-ood's distances and ours, of every pair, from the same numbers; and its version."""
        item = torch.from_numpy(self.data.item[:, 0])
        fit = item[np.unique(self.data.index[self.parts.fit, 1])]
        rows = item[self.data.index[:, 1]]
        groups = assign_centres(fit, kmeans(sample(split_chunks(fit), 8192), 8))
        groups = torch.unique(groups, return_inverse=True)[1]
        read = self.head.standardise(self.head_input)
        weight, bias = self.head.weight.detach(), self.head.bias.detach()  # type: ignore[operator]
        given = {"fit": fit, "test": rows, "groups": groups, "head_fit": read[self.parts.fit], "head_test": read,
                 "weight": weight, "bias": bias}  # fmt: skip
        with tempfile.TemporaryDirectory() as scratch:
            paths = [Path(scratch) / name for name in ("given.npz", "found.npz")]
            np.savez(paths[0], **{name: value.numpy() for name, value in given.items()})
            subprocess.run([python, str(Path(__file__).parent / "peers.py"), *map(str, paths)], check=True)
            with np.load(paths[1]) as stored:
                theirs = {name: stored[name] for name in stored.files}
        ours = {
            name: self.distances(System(name.split()[0], "item", 0, (("k", int(name[-1])),) if "knn" in name else ()))
            for name in theirs if name not in ("version", "vim")
        }  # fmt: skip
        vim = VirtualLogit(read.shape[1])
        energy = self.head.energy(self.raw)
        vim.fit(split_chunks(read[self.parts.fit], energy[self.parts.fit]))
        ours["vim"] = vim(read, energy).double().numpy()
        return str(theirs["version"]), {name: (ours[name], theirs[name]) for name in ours}


def flag(distance: NDArray[np.float64], parts: Split) -> NDArray[np.bool_]:
    """Flag pairs at alpha, calibrated on the held-out ones, ``[n]``."""
    calibration = ConformalCalibration.fit(torch.from_numpy(distance[parts.held]), ALPHA)
    flagged: NDArray[np.bool_] = is_ood(calibration(torch.from_numpy(distance).float())[:, 0].numpy(), ALPHA)
    return flagged


def alarms(distance: NDArray[np.float64], parts: Split) -> dict[str, NDArray[np.bool_]]:
    """Which known pairs are called strange, by items that the fit has and by others.

    :param distance: of every pair.
    :param parts: of the repetition.
    :return: flags of ``seen`` and ``test``.
    """
    flagged = flag(distance, parts)
    return {name: flagged[rows] for name, rows in ((SEEN, parts.seen), (UNSEEN, parts.test))}


def share(flags: list[tuple[NDArray[np.bool_], Rows]], weight: NDArray[np.float64]) -> dict[str, float] | None:
    """Share flagged over repetitions, resampled by query.

    :param flags: of each repetition, with the query of each pair.
    :param weight: ``[b, queries]``.
    :return: the share with its interval; None where no pair is known.
    """
    if not any(len(rows) for _, rows in flags):
        return None
    hits, counts = np.zeros(weight.shape[1]), np.zeros(weight.shape[1])
    for flagged, query in flags:
        np.add.at(hits, query, flagged)
        np.add.at(counts, query, 1.0)
    with np.errstate(invalid="ignore"):
        return interval((weight @ hits) / (weight @ counts))


def run(folder: Path, cache: Path, *, seeds: int, draws: int, peers: str, only: tuple[str, ...] = ()) -> dict[str, Any]:
    """Fit, measure, compare.

    :param folder: what ``DARL_DATA`` names.
    :param cache: folder for encodings.
    :param seeds: repetitions.
    :param draws: resamples.
    :param peers: interpreter that has pytorch-ood; empty: left out.
    :param only: systems; empty: all. The differences need all.
    :return: JSON-ready result.
    """
    begin = time.perf_counter()
    data = encode(folder, cache, seed=0)
    encoded = time.perf_counter() - begin
    weight = resamples(len(data.query), draws, seed=0)
    of = data.index[:, 0]
    tables: dict[str, Any] = {}
    false_alarms: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    family: dict[str, NDArray[np.float64]] = {}
    beside: dict[str, Any] = {}
    for fit_name, shift in shifts(data).items():
        splits = [split(data, shift, seed=seed) for seed in range(seeds)]
        benches = [Bench(data, shift, parts) for parts in splits]
        counts[fit_name] = {
            "fit": [len(s.fit) for s in splits], "held": [len(s.held) for s in splits],
            "test": [len(s.test) for s in splits], "seen": [len(s.seen) for s in splits],
            **{name: [len(s.outside[name]) for s in splits] for name in shift.outside},
        }  # fmt: skip
        auroc: dict[tuple[str, str], NDArray[np.float64]] = {}
        for name, system in ((name, SYSTEMS[name]) for name in only or SYSTEMS):
            distances = [bench.distances(system) for bench in benches]
            flags = [alarms(d, s) for d, s in zip(distances, splits, strict=True)]
            false_alarms.setdefault(fit_name, {})[name] = {
                part: share([(f[part], of[rows]) for f, rows in zip(flags, places, strict=True)], weight)
                for part, places in ((SEEN, [s.seen for s in splits]), (UNSEEN, [s.test for s in splits]))
            }
            for part in shift.outside:
                found = over_repetitions(
                    [_part(d, s.test, s.outside[part], of) for d, s in zip(distances, splits, strict=True)], weight
                )
                auroc[part, name] = found["auroc"]
                tables.setdefault(part, {})[name] = {figure: interval(values) for figure, values in found.items()}
            print(f"{fit_name}: {name}", file=sys.stderr)
        for part in (part for part in shift.outside if part.startswith("near") and not only):
            for other in (*NAMED, "knn k=1, item"):
                family[f"{part}: {OURS} − {other}"] = auroc[part, OURS] - auroc[part, other]
        if peers and fit_name == "FeedbackQA":
            beside = _beside(benches, splits, peers, of)
    return {
        "tables": tables, "false_alarms": false_alarms, "claims": claims(family), "counts": counts, "peers": beside,
        "circumstances": circumstances(),
        "seconds": {"encode": round(encoded, 1), "all": round(time.perf_counter() - begin, 1)},
        "config": {
            "seeds": seeds, "draws": draws, "alpha": ALPHA, "items_a_query": ITEMS, "base": SETTINGS.base,
            "query_cap": SETTINGS.query_cap, "item_cap": SETTINGS.item_cap,
            "data": sets.digests(folder, tuple(ITEMS)),
        },
    }  # fmt: skip


def _part(distance: NDArray[np.float64], inside: Rows, outside: Rows, of: Rows) -> Part:
    return Part(distance[inside], of[inside], distance[outside], of[outside])


def _beside(benches: list[Bench], splits: list[Split], python: str, of: Rows) -> dict[str, Any]:
    """AUROC of our detectors and pytorch-ood's on identical features, near and far."""
    found = [bench.peers(python) for bench in benches]
    one = np.ones((1, int(of.max()) + 1))
    result: dict[str, Any] = {"version": found[0][0]}
    for part in ("near: Australia", "far: ESCI"):
        for name in found[0][1]:
            both: Mapping[str, float] = {
                who: round(
                    float(over_repetitions(
                        [_part(pair[name][at], s.test, s.outside[part], of)
                         for (_, pair), s in zip(found, splits, strict=True)], one,
                    )["auroc"][0]), 4,
                )
                for at, who in enumerate(("ours", "pytorch-ood"))
            }  # fmt: skip
            result.setdefault(part, {})[name] = both
    return result


def _into(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Put the systems that were measured anew into an earlier result of the same repetitions."""
    if (old["config"], old["counts"]) != (new["config"], new["counts"]):
        raise UsageError("the result is of other seeds, draws or data", todo="leave --only out")
    for key in ("tables", "false_alarms"):
        for part, systems in new[key].items():
            old[key][part].update(systems)
    old["peers"] = new["peers"] or old["peers"]
    return old


def main(argv: list[str] | None = None) -> int:
    """Run from the command line.

    :param argv: arguments; none: those of the process.
    :return: exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ood.detectors", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="repetitions (default: 5)")
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"resamples of the queries (default: {DRAWS})")
    parser.add_argument("--peers", default="", help="python with pytorch-ood (default: left out)")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "darl-ood", help="folder for encodings"
    )
    parser.add_argument(
        "--only", action="append", default=[], choices=tuple(SYSTEMS),
        help="measure these anew into the result that is there, with its seeds and draws (default: all)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=report.RESULT, help="where the result goes")
    args = parser.parse_args(argv)
    try:
        how = {"seeds": args.seeds, "draws": args.draws, "peers": args.peers, "only": tuple(args.only)}
        result = run(data_folder(), args.cache, **how)
        if args.only:
            result = _into(json.loads(args.out.read_text(encoding="utf-8")), result)
    except DarlError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(report.render(result))
    report.refresh()
    return 0


if __name__ == "__main__":
    sys.exit(main())
