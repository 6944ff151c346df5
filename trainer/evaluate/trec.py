"""TREC run and qrels files: six or four columns per line, separated by blanks.

Unlike TREC's, our ids may contain blanks: ``%`` and blanks are written as ``%25`` and ``%20``, as in a URL. Other
programs write ids as they are, such as ``<dbpedia:%22Heroes%22>``, so a run is read as it stands, and :func:`match_ids`
decodes only ids that are not known as they stand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from darl_opensearch.errors import InputError
from darl_opensearch.io.reading import reading

Run = dict[str, list[tuple[str, float]]]
_COLUMNS = "query_id Q0 item_id rank score tag"
_UNSAFE = re.compile(r"[%\s]")


def read_run(path: Path) -> Run:
    """Read a run, with ids as they stand in the file.

    :return: items with scores by query, best first, ties by rank.
    :raises InputError: naming the invalid line.
    """
    rows: dict[str, list[tuple[float, float, str]]] = {}
    first_lines: dict[tuple[str, str], int] = {}
    with reading(path):
        data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise InputError(
            f"not UTF-8 at byte {err.start + 1}", where=str(path), todo="use a TREC run file, saved as UTF-8"
        ) from err
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        query_id, item_id, rank, score = _columns(line, where)
        if (first := first_lines.setdefault((query_id, item_id), number)) != number:
            raise InputError(
                f"item {item_id!r} appears twice for query {query_id!r} (first: line {first})", where=where,
                todo="keep one of the two",
            )  # fmt: skip
        rows.setdefault(query_id, []).append((-score, rank, item_id))
    if not rows:
        raise InputError("the file is empty", where=str(path), todo=f"write {_COLUMNS}, one item per line")
    return {query_id: [(item, -low) for low, _, item in sorted(ranked)] for query_id, ranked in rows.items()}


def _columns(line: str, where: str) -> tuple[str, str, float, float]:
    words = line.split()
    if len(words) != 6:
        raise InputError(f"{len(words)} columns instead of 6", where=where, todo=f"write {_COLUMNS}")
    numbers = []
    for name, word in (("rank", words[3]), ("score", words[4])):
        try:
            numbers.append(float(word))
        except ValueError:
            numbers.append(math.nan)
        if not math.isfinite(numbers[-1]):
            raise InputError(f"the {name} {word[:40]!r} is not a number", where=where, todo=f"write {_COLUMNS}")
    return words[0], words[2], numbers[0], numbers[1]


def match_ids(run: Run, queries: Container[str], items: Container[str]) -> Run:
    """Decode the ids of a run that are known only when decoded.

    :param queries: known query ids.
    :param items: known item ids.
    :return: the run, with unknown ids as they stand in it.
    """
    matched: Run = {}
    for query_id, given_query in _decode(run, queries).items():
        scores = dict(run[given_query])
        matched[query_id] = [(item_id, scores[given]) for item_id, given in _decode(scores, items).items()]
    return matched


def _decode(given: Iterable[str], known: Container[str]) -> dict[str, str]:
    """Map ids to how they are given: decoded if only that is known, and not given as it stands too."""
    taken = {name for name in given if name in known}
    decoded = {}
    for name in given:
        plain = unquote(name)
        use = plain if name not in taken and plain in known and plain not in taken else name
        taken.add(use)
        decoded[use] = name
    return decoded


def write_run(path: Path, rankings: Mapping[str, Sequence[str]], *, tag: str) -> None:
    """Write rankings, with scores that fall by one per rank, so that readers have no ties to break."""
    _write(
        path,
        (
            f"{_id(query_id)} Q0 {_id(item_id)} {rank} {len(items) - rank + 1} {_id(tag)}"
            for query_id, items in rankings.items()
            for rank, item_id in enumerate(items, start=1)
        ),
    )


def write_qrels(path: Path, grades: Mapping[str, Mapping[str, int]]) -> None:
    """Write judgments."""
    lines = (f"{_id(q)} 0 {_id(item)} {grade}" for q, judged in grades.items() for item, grade in judged.items())
    _write(path, lines)


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _id(text: str) -> str:
    return _UNSAFE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), text)
