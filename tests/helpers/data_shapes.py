"""Small files of the exact shapes that each format has, and what an import of them must give."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers.files import write_rows

Rows = Sequence[Mapping[str, Any]]
PRODUCTS = [
    {"sku": "p1", "title": "Trail running shoes", "about": "Light shoes for rough ground", "price": 90},
    {"sku": "p2", "title": "Road running shoes", "about": "Cushioned shoes for tarmac", "price": 80},
    {"sku": "p3", "title": "Rain jacket", "about": "Keeps water out", "price": 120},
]


def table(path: Path, rows: Rows, delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def plain(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parquet(path: Path, rows: Rows) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


@dataclass(frozen=True)
class Shape:
    """One format: its files, how to import them, what comes out, and ways to break them.

    ``needed``: a needed field with a slip of the pen in it, which the error must name.
    """

    write: Callable[[Path], list[Path]]
    judgments: list[tuple[str, str, int]]
    grades: list[str]
    gains: list[float]
    needed: tuple[int, str, str]
    params: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)


def write_jsonl(folder: Path) -> list[Path]:
    rows = [
        {"q": "running shoes", "query_id": "q1", "item_id": "p1", "grade": "fits", "slice": "shoes"},
        {"q": "running shoes", "query_id": "q1", "item_id": "p3", "grade": "irrelevant", "slice": "shoes"},
        {"q": "jacket", "query_id": "q2", "item_id": "p3", "grade": 2},
    ]
    return [write_rows(folder / "judgments.jsonl", rows), write_rows(folder / "items.jsonl", PRODUCTS)]


def esci_examples() -> list[dict[str, Any]]:
    common = {"small_version": 1, "large_version": 1, "split": "train", "product_locale": "us"}
    made = [("q1", "running shoes", "B1", "E"), ("q1", "running shoes", "B2", "S"), ("q1", "running shoes", "B3", "I"),
            ("q2", "rain jacket", "B3", "C")]  # fmt: skip
    rows = [
        {"example_id": n, "query": query, "query_id": int(qid[1:]), "product_id": item, "esci_label": label} | common
        for n, (qid, query, item, label) in enumerate(made)
    ]
    filtered = [{"product_locale": "es"}, {"split": "test"}, {"small_version": 0}]
    return rows + [
        rows[0] | {"query_id": 10 + n, "query": f"other {n}", "example_id": 10 + n} | other
        for n, other in enumerate(filtered)
    ]


def esci_products() -> list[dict[str, Any]]:
    rows = [
        {
            "product_id": f"B{n}", "product_title": item["title"], "product_description": item["about"],
            "product_bullet_point": None, "product_brand": "Acme", "product_color": "", "product_locale": "us",
        }
        for n, item in enumerate(PRODUCTS, 1)
    ]  # fmt: skip
    return [*rows, rows[0] | {"product_title": "Zapatillas", "product_locale": "es"}]


def write_esci(folder: Path) -> list[Path]:
    return [
        parquet(folder / "shopping_queries_dataset_examples.parquet", esci_examples()),
        parquet(folder / "shopping_queries_dataset_products.parquet", esci_products()),
    ]


def write_wands(folder: Path) -> list[Path]:
    queries = [{"query_id": 0, "query": "salon chair", "query_class": "Massage Chairs"},
               {"query_id": 1, "query": "smart coffee table", "query_class": "Coffee Tables"}]  # fmt: skip
    products = [
        {
            "product_id": n, "product_name": name, "product_class": "Furniture", "category hierarchy": "Home / Living",
            "product_description": 'it "folds"\nwhen not\tin use', "product_features": "overallwidth:64.7|dsprimary",
            "rating_count": "15.0", "average_rating": "4.5", "review_count": "",
        }
        for n, name in enumerate(["21.7 '' w waiting room chair", "solid wood table", "lamp"])
    ]  # fmt: skip
    labels = [(0, 0, "Exact"), (0, 1, "Irrelevant"), (1, 1, "Partial")]
    rows = [{"id": n, "query_id": q, "product_id": p, "label": label} for n, (q, p, label) in enumerate(labels)]
    files = {"query.csv": queries, "product.csv": products, "label.csv": rows}
    return [table(folder / name, rows, "\t") for name, rows in files.items()]


def write_trec(folder: Path) -> list[Path]:
    (folder / "qrels.txt").write_text("301 0 d1 2\n301 0 d2 0\n\n302\t0\td2\t1\n", encoding="utf-8")
    topics = plain(folder / "topics.tsv", [("301", 'the "Hubble" telescope'), ("302", "rain coats")])
    texts = [("d1", 'it saw "far'), ("d2", "coats for rain")]
    documents = write_rows(folder / "documents.jsonl", [{"id": key, "text": text, "url": "u"} for key, text in texts])
    return [folder / "qrels.txt", topics, documents]


def ratings() -> dict[str, Any]:
    return {
        "name": "Imported Judgments", "type": "IMPORT_JUDGMENT", "status": "COMPLETED",
        "judgmentRatings": [
            {"query": "running shoes", "ratings": [{"docId": "p1", "rating": "3.000"}, {"docId": "p3", "rating": 0.4}]},
            {"query": "jacket", "ratings": [{"docId": "p3", "rating": "1.5"}]},
        ],
    }  # fmt: skip


def write_search_relevance(folder: Path) -> list[Path]:
    answer = {"took": 3, "hits": {"total": {"value": 1}, "hits": [{"_index": "search-relevance-judgment", "_id": "j-1",
                                                                  "_source": ratings()}]}}  # fmt: skip
    (folder / "judgments.json").write_text(json.dumps(answer, indent=1), encoding="utf-8")
    return [folder / "judgments.json", write_rows(folder / "items.jsonl", PRODUCTS)]


def ubi_queries(count: int = 10) -> list[dict[str, Any]]:
    return [
        {
            "application": "shop", "query_id": f"s{n}", "client_id": "c", "user_query": "Shoes" if n % 2 else "shoes ",
            "timestamp": "2025-11-17T10:30:00.000Z", "query_response_id": f"r{n}", "object_id_field": "sku",
            "query_response_hit_ids": ["p1", "p2"] if n % 2 else ["p2", "p1"], "query_attributes": {},
        }
        for n in range(count)
    ]  # fmt: skip


def ubi_event(search: str, item: str, rank: int, action: str = "click") -> dict[str, Any]:
    return {
        "action_name": action, "query_id": search, "client_id": "c", "user_query": "shoes", "session_id": "x",
        "timestamp": "2025-11-17T10:30:15.000Z", "message_type": "CLICK_THROUGH",
        "event_attributes": {"object": {"object_id": item, "object_id_field": "sku"}, "position": {"ordinal": rank}},
    }  # fmt: skip


def write_ubi(folder: Path) -> list[Path]:
    """Ten searches show p1 and p2 five times each at ranks 1 and 2; p1 is clicked 6 times, p2 twice.

    Rank 1: 3 clicks on p1 and 1 on p2 of 10; rank 2: 3 and 1 of 10. So expected of each: 5 · .4 + 5 · .4 = 4,
    COEC 6/4 and 2/4.
    """
    clicks = [ubi_event(f"s{n}", "p1", 1) for n in (1, 3, 5)] + [ubi_event(f"s{n}", "p1", 2) for n in (0, 2, 4)]
    clicks += [ubi_event("s6", "p2", 1), ubi_event("s7", "p2", 2), ubi_event("s7", "p2", 2)]
    events = [*clicks, ubi_event("s1", "p9", 7), {"action_name": "on_search", "query_id": "s1"}]
    return [
        write_rows(folder / "ubi_queries.jsonl", ubi_queries()),
        write_rows(folder / "ubi_events.jsonl", [{"_index": "ubi_events", "_source": event} for event in events]),
        write_rows(folder / "items.jsonl", PRODUCTS),
    ]


def write_triples(folder: Path) -> list[Path]:
    rows = [("what is a lizard", "a reptile", 'a "plant'), ("what is a lizard", "a reptile", "a stone"),
            ("what is granite", "a stone", "a reptile")]  # fmt: skip
    return [plain(folder / "triples.tsv", rows)]


SHAPES = {
    "jsonl": Shape(
        write_jsonl,
        [("running shoes", "p1", 2), ("running shoes", "p3", 0), ("jacket", "p3", 2)],
        ["irrelevant", "related", "fits"], [0, 1, 3], (0, "item_id", "itemid"),
        {"labels": "irrelevant,related,fits", "gains": "0,1,3"}, {"query": "q", "id": "sku"},
    ),
    "esci": Shape(
        write_esci,
        [("running shoes", "B1", 3), ("running shoes", "B2", 2), ("running shoes", "B3", 0), ("rain jacket", "B3", 1)],
        ["irrelevant", "complement", "substitute", "exact"], [0, 0.01, 0.1, 1], (1, "product_title", "product_titel"),
    ),
    "wands": Shape(
        write_wands,
        [("salon chair", "0", 2), ("salon chair", "1", 0), ("smart coffee table", "1", 1)],
        ["Irrelevant", "Partial", "Exact"], [0, 1, 2], (2, "label", "lable"),
    ),
    "trec": Shape(
        write_trec,
        [('the "Hubble" telescope', "d1", 2), ('the "Hubble" telescope', "d2", 0), ("rain coats", "d2", 1)],
        ["grade 0", "grade 1", "grade 2"], [0, 1, 2], (2, "id", "idd"),
    ),
    "search-relevance": Shape(
        write_search_relevance,
        [("running shoes", "p1", 2), ("running shoes", "p3", 0), ("jacket", "p3", 1)],
        ["grade 0", "grade 1", "grade 2"], [0, 1, 2], (0, "docId", "docid"), {"cuts": "0.5,2"}, {"id": "sku"},
    ),
    "ubi": Shape(
        write_ubi, [("shoes", "p1", 2), ("shoes", "p2", 1)], ["grade 0", "grade 1", "grade 2"], [0, 1, 2],
        (1, "action_name", "action_nam"), {}, {"id": "sku"},
    ),
    "triples": Shape(
        write_triples,
        [("what is a lizard", "a reptile", 1), ("what is a lizard", 'a "plant', 0), ("what is a lizard", "a stone", 0),
         ("what is granite", "a stone", 1), ("what is granite", "a reptile", 0)],
        ["irrelevant", "relevant"], [0, 1], (0, "negative", ""),
    ),
}  # fmt: skip
