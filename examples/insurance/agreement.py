"""How far two blind judgments of the same pairs agree: ``python examples/insurance/agreement.py``.

Exact agreement, Cohen's kappa and quadratic kappa (Cohen 1960 and 1968), each with a 95 % bootstrap interval
over pairs; then the later part's pairs apart. Kappa is agreement beyond what the two grade distributions would give
by chance; where a pass gave one grade only there is nothing for it to tell, and it is not printed.

Pairs of the help part, whose query or item is about help, are in neither: they were drawn by the first judge's grade,
so that their kappa is of the draw and not of a pool. They are reported last, with the equal share by that grade.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.records.lines import LineKind
from darl_opensearch.stats.bootstrap import percentiles
from darl_opensearch.stats.grades import confusion, kappa, quadratic_kappa, share_equal

FIRST = ("judgments.jsonl", "dev_judgments.jsonl", "test_judgments.jsonl", "later_judgments.jsonl")
LATER = FIRST[-1:]
SECOND = "second_pass.jsonl"
GRADES = 3
HELP = "help"
AT_RANDOM = "drawn at random and judged twice; the second time blind"
BY_GRADE = "drawn by the first judge's grade and judged twice; the second time blind; kappa is of this stratified draw"


def main(folder: Path) -> None:
    """Print the agreement of the folder's two passes.

    :param folder: the sample.
    """
    first, second = read_passes(folder, help_part=True)
    lines = [*report("all parts", *read_passes(folder)), "", *report("the later part", *read_passes(folder, LATER)), ""]
    lines += [*report("the help part", first, second, BY_GRADE), *report_by_grade(first, second)]
    sys.stdout.write("\n".join(lines) + "\n")


def report(what: str, first: NDArray[np.int64], second: NDArray[np.int64], drawn_how: str = AT_RANDOM) -> list[str]:
    """Put the agreement of two passes in lines.

    :param what: what the pairs are from.
    :param first: ``[n]`` grades.
    :param second: ``[n]`` grades.
    :return: the figures with their intervals, then the counts.
    """
    table = confusion(first, second, GRADES)
    lines = [f"{what}: {len(first)} pairs, {drawn_how}"]
    if len(first):
        draws = np.random.default_rng(0).integers(len(first), size=(10_000, len(first)))
        drawn = confusions(first, second, draws)
        lines.append(_line("equal", share_equal(table), share_equal(drawn)))
        if min(len(set(first)), len(set(second))) > 1:
            lines.append(_line("Cohen's kappa", kappa(table), kappa(drawn)))
            lines.append(_line("quadratic kappa", quadratic_kappa(table), quadratic_kappa(drawn)))
        else:
            lines.append("kappa            not told: one of the passes gave one grade only")
    lines.append("first \\ second " + "".join(f"{grade:>5}" for grade in range(GRADES)))
    for grade, row in enumerate(table.astype(int)):
        lines.append(f"{grade:>14} " + "".join(f"{count:>5}" for count in row))
    return lines


def report_by_grade(first: NDArray[np.int64], second: NDArray[np.int64]) -> list[str]:
    """Put the equal share by the first judge's grade in lines, which a draw by that grade leaves as it is.

    :param first: ``[n]`` grades.
    :param second: ``[n]`` grades.
    """
    groups = [(grade, second[first == grade]) for grade in range(GRADES)]
    return [
        f"first judge {grade}: {(again == grade).sum()} of {len(again)} equal" for grade, again in groups if len(again)
    ]


def read_passes(
    folder: Path, names: Sequence[str] = FIRST, *, help_part: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read both grades of every pair that was judged twice.

    :param folder: the sample.
    :param names: files of the first pass whose pairs are wanted.
    :param help_part: whether the pairs with a help query or a help page are wanted, or all others.
    :return: first and second grades, each ``[n]``.
    """
    kind = LineKind(query="optional", k=GRADES)  # the second pass names queries by id alone
    pages = {str(row["id"]) for _, row in read_jsonl(folder / "new_items.jsonl") if row["kind"] == HELP}
    grades = {
        (line.query_id, line.item_id): (name, line.slice == HELP or line.item_id in pages, line.grade)
        for name in FIRST
        for line in kind.read(folder / name)
    }
    both = [(*grades[line.query_id, line.item_id], line.grade) for line in kind.read(folder / SECOND)]
    pairs = [(first, second) for name, about_help, first, second in both if name in names and about_help == help_part]
    first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return first, second


def confusions(first: NDArray[np.int64], second: NDArray[np.int64], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """Count drawn pairs by both grades.

    :param first: ``[n]`` grades.
    :param second: ``[n]`` grades.
    :param draws: ``[b, m]`` which pairs are in each draw.
    :return: ``[b, k, k]`` counts.
    """
    cells = (first * GRADES + second)[draws]
    return np.stack([(cells == c).sum(1) for c in range(GRADES**2)], axis=1).reshape(-1, GRADES, GRADES).astype(float)


def _line(name: str, value: NDArray[np.float64], drawn: NDArray[np.float64]) -> str:
    low, high = percentiles(drawn)
    return f"{name:16} {value:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
