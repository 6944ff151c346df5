"""What the serving benchmarks score: ESCI products and queries of ``DARL_DATA``, and the insurance sample's model."""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import data_folder
from darl_opensearch import bundle as files
from darl_opensearch.bundle import Bundle
from darl_opensearch.errors import UsageError

SAMPLE = Path(__file__).parents[2] / "examples" / "insurance"
FIELDS = ("title", "brand", "color", "description")
ITEMS = 4000


def find_data(parser: argparse.ArgumentParser) -> Path:
    """Find the folder of judgments, or end with the parser's usage."""
    try:
        return data_folder()
    except UsageError as err:
        parser.error(str(err))


def read_texts(folder: Path, tokenizer: Any, most: int = ITEMS) -> tuple[list[str], list[str], float]:
    """Read products and queries of ESCI.

    :param tokenizer: without padding, and with no truncation below the length of a pair.
    :param most: maximum items; the file holds 6,764.
    :return: item texts, queries, and the mean number of tokens of a pair.
    """
    from darl_opensearch.text import cut_to_tokens

    with gzip.open(folder / "esci" / "products.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    raw = [" | ".join(str(row.get(name) or "") for name in FIELDS) for row in rows]
    items = [cut_to_tokens(text, tokenizer, 96) for text in itertools.islice(dict.fromkeys(raw), most)]
    with gzip.open(folder / "esci" / "judgments.jsonl.gz", "rt", encoding="utf-8") as file:
        queries = list(dict.fromkeys(json.loads(line)["query"] for line in file))
    tokens = [len(tokenizer.encode(queries[n % len(queries)], text).ids) for n, text in enumerate(items[:500])]
    return items, queries, float(np.mean(tokens))


def make_bundle(folder: Path, given: Path | None = None) -> Bundle:
    """Train the sample's model and export it to ``bundle`` in a folder, or link a bundle that is given there."""
    if given is not None:
        (folder / "bundle").symlink_to(given.resolve())
        return Bundle.open(folder / "bundle")
    from trainer.config import read_config
    from trainer.export import export_run
    from trainer.stages.plan import train

    config = read_config(SAMPLE / "darl.toml")
    return export_run(train(config, SAMPLE, folder / "run"), SAMPLE, folder / "bundle", checkpoint=False)


def add_pair_graph(bundle: Bundle, folder: Path) -> Bundle:
    """Copy a bundle and add ``model_int8.onnx``, which reads pairs; with item states none is exported."""
    from trainer.export.int8 import quantise

    with files.writing(folder, bundle.card) as work:
        shutil.copytree(bundle.path, work, dirs_exist_ok=True)
        (work / files.CARD).unlink()
        quantise(bundle.file(files.MODEL), work / files.MODEL_INT8)
    return Bundle.open(folder)
