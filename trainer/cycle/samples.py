"""Training samples of a cycle: the first training's data, earlier cycles' judgments, and this cycle's samples.

``lineage.jsonl`` traces each sample to its log records, its judge and its role.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from darl_opensearch.io.digest import name_text
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.io.writing import write_lines
from darl_opensearch.records.values import parse_text
from darl_opensearch.text import TEXT_FIELD, ItemRenderer, ItemTemplate, NoTextError, same_text

SELECTED, CONTROL = "selected", "control"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Roles:
    """Judged pairs by role.

    :param new: this cycle's samples to train on.
    :param ood_dev: this cycle's samples for early stopping.
    :param control: for the gate; never trained on in this cycle.
    :param old: judged in earlier cycles, and trained on again.
    """

    new: Sequence[Row]
    ood_dev: Sequence[Row]
    control: Sequence[Row]
    old: Sequence[Row]


def assign_roles(
    judged: Sequence[Row], former: Sequence[Row], control: Iterable[str], *, share: float, seed: int
) -> Roles:
    """Assign every judged pair a role, the same for all pairs of a query; the last judgment of a pair counts.

    :param judged: rows of this cycle, of both arms.
    :param former: rows of earlier cycles, oldest first.
    :param control: texts of the queries in this cycle's control arm, including those kept from the previous one.
    :param share: share of the selected queries for early stopping; none if that is fewer than five queries.
    """
    control_keys = {same_text(query) for query in control}
    pairs: dict[tuple[str, str], tuple[bool, Row]] = {}
    for is_now, rows in ((False, former), (True, judged)):
        for row in rows:
            if row["arm"] in (SELECTED, CONTROL):
                pairs[same_text(row["query"]), row["item_id"]] = is_now and row["arm"] == SELECTED, row
    selected = list(dict.fromkeys(q for (q, _), (is_new, _) in pairs.items() if is_new and q not in control_keys))
    count = int(round(share * len(selected)))
    drawn = np.random.default_rng([seed, 2]).permutation(len(selected))[: count if count >= 5 else 0]
    stopping = {selected[place] for place in drawn.tolist()}
    roles: dict[str, list[Row]] = {"new": [], "ood_dev": [], "control": [], "old": []}
    chosen = set(selected)
    for (query, _), (_, row) in pairs.items():
        role = (
            "control" if query in control_keys
            else "ood_dev" if query in stopping
            else "new" if query in chosen
            else "old"
        )  # fmt: skip
        roles[role].append(row)
    return Roles(**roles)


def write_items(path: Path, catalogues: Sequence[Path], template: ItemTemplate, logged: Iterable[Row]) -> int:
    """Write every item that may be judged: the catalogues' rows, then items that only the log has.

    :param catalogues: JSONL files; of an item that is in several the first counts.
    :param logged: tasks, each with ``item_id`` and ``text``.
    :return: number of items that only the log has.
    """
    written: set[str] = set()
    logged_only = 0

    def rows() -> Iterator[str]:
        nonlocal logged_only
        for catalogue in catalogues:
            ids: set[str] = set()
            for where, row in read_jsonl(catalogue):
                item_id = template.item_id(row, where=where)
                if item_id not in written:  # duplicates within a file are left for the reader to report
                    ids.add(item_id)
                    yield json.dumps(row, ensure_ascii=False)
            written.update(ids)
        for task in logged:
            if task["item_id"] not in written:
                written.add(task["item_id"])
                logged_only += 1
                row = {template.id_field: task["item_id"], TEXT_FIELD: task["text"]}
                if template.slice_field and task.get("slice"):
                    row[template.slice_field] = task["slice"]
                yield json.dumps(row, ensure_ascii=False)

    write_lines(path, rows(), fixed_name=True)
    return logged_only


def render_catalogue(
    catalogues: Iterable[Path], renderer: ItemRenderer, wanted: Collection[str] | None = None,
    blank: Counter[str] | None = None,
) -> dict[str, str]:  # fmt: skip
    """Render the items of catalogues as texts by id, without those that have no text.

    :param catalogues: JSONL files; of an item that is in several the first counts.
    :param wanted: ids of the items to render; None: all of them.
    :param blank: gets the ids of items without text.
    :raises InputError: for a broken line, or an item without an id.
    """
    texts: dict[str, str] = {}
    for where, row in itertools.chain.from_iterable(map(read_jsonl, catalogues)):
        item_id = renderer.template.item_id(row, where=where)
        if item_id not in texts and (wanted is None or item_id in wanted):
            try:
                texts[item_id] = renderer(row, where=where)
            except NoTextError:
                if blank is not None:
                    blank[item_id] = 0
    return texts


def reduce_rows(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Reduce judged rows to the fields of judgments: ``query_id``, ``query``, ``item_id``, ``grade``, maybe ``slice``.

    The query's id is derived from its text, because clients map one id to several texts and several ids to one text.
    """
    texts: dict[str, str] = {}
    for row in rows:
        key = same_text(row["query"])
        query_id = name_text("log", key)
        reduced = {"query_id": query_id, "query": texts.setdefault(key, row["query"])}
        reduced |= {"item_id": row["item_id"], "grade": row["grade"]}
        yield reduced | ({"slice": row["slice"]} if row.get("slice") else {})


def trace_lineage(roles: Roles, tasks: Iterable[Row], *, cycle: str) -> Iterator[dict[str, Any]]:
    """Yield for each judged pair its log records, its judge and its role.

    :param tasks: tasks with log record ids, of this and earlier cycles.
    """
    records = {task["task"]: task.get("records", []) for task in tasks}
    for role in ("new", "ood_dev", "control", "old"):
        for row in getattr(roles, role):
            yield {
                "cycle": cycle, "role": role, "task": row.get("task"), "query_id": row["query_id"],
                "item_id": row["item_id"], "grade": row["grade"], "judge": row.get("judge"),
                "records": records.get(row.get("task"), []),
            }  # fmt: skip


def read_rows(path: Path, *texts: str) -> list[dict[str, Any]]:
    """Read a JSONL file that a step has written, and that people may have edited.

    :param *texts: fields that every line must have, as text.
    :raises InputError: if a line lacks a field, or the file is missing: judgments must not be lost silently.
    """
    rows = []
    for where, row in read_jsonl(path):
        for name in texts:
            parse_text(row, name, where, todo="restore the line")
        rows.append(row)
    return rows
