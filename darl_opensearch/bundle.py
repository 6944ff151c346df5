"""The bundle: the model on disk. All its file names are defined here.

A bundle is written to a temporary sibling and renamed, so that it is never partial; opening it checks format, digests
and card. No file in it is a pickle.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import zipfile
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.errors import BundleError, InputError
from darl_opensearch.io.digest import digest_data, digest_file
from darl_opensearch.io.writing import new_folder
from darl_opensearch.scores import Columns, GradeScale
from darl_opensearch.text import LONG_TEXT_FIELD, TEXT_FIELD, ItemRenderer, ItemTemplate

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT = 1
MOST_TOKENS = 1 << 20  # no sequence is that long: a larger cap means a damaged card
CARD, MODEL, MODEL_INT8, FEATURES = "darl.json", "model.onnx", "model_int8.onnx", "features.onnx"
# Graphs for item states: encode a query or an item, score them together, compute their parts of the OOD distance.
ENCODE, MEET, OOD_SIDES = "encode.onnx", "meet.onnx", "ood/sides.onnx"
# meet_int8.onnx and ood/sides_int8.onnx have calibration and references that encode_int8.onnx encoded.
ENCODE_INT8, MEET_INT8, OOD_SIDES_INT8 = "encode_int8.onnx", "meet_int8.onnx", "ood/sides_int8.onnx"
MODEL_DATA = MODEL + "_data"  # weights of a model too large for one file, shared by model.onnx and features.onnx
MAX_ONE_FILE = 1_900_000_000  # bytes; protobuf, and so an ONNX file for ML Commons, is limited to 2 GiB
TOKENIZER, README, ZIP, CHECKPOINT = "tokenizer.json", "README.md", "opensearch.zip", "checkpoint"
CALIBRATION, REFERENCE, REFERENCE_QUERIES = "ood/calibration.npy", "ood/reference.npy", "ood/reference.json"
TEXTS = "ood/texts.jsonl"  # training queries and judged items, for people: only if asked for
PROBES = "probes.json"  # pairs with torch's scores, to check parity without torch
REQUIRED = (MODEL, FEATURES, TOKENIZER, README, CALIBRATION)  # and ZIP, except with MODEL_DATA
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True)
class OodCard:
    """How the OOD columns were made.

    :param detector: registered name.
    :param features: what the detector reads: ``query``, ``item`` or ``pair``.
    :param alpha: false-alarm rate of the calibration, in (0, 1).
    :param calibration_pairs: pairs behind the conformal p-value.
    :param calibration_queries: queries of those pairs.
    """

    detector: str
    features: str
    alpha: float
    calibration_pairs: int
    calibration_queries: int


@dataclass(frozen=True)
class Card:
    """Contents of ``darl.json`` except the digests.

    :param name: lower-case letters, digits, ``.``, ``_``, ``-``.
    :param version: letters, digits, ``.``, ``_``, ``-``.
    :param scale: the grades.
    :param template: how items become text.
    :param query_cap: maximum tokens per query.
    :param item_cap: maximum tokens per item.
    :param ood: how the OOD columns were made.
    :param backbone: registered name.
    :param created: ISO 8601 time in UTC.
    :param training: stages, seeds and digests of the training data.
    :param metrics: figures with their intervals.
    :param graphs: measured parity with torch, by graph file.
    :param frame: tokens that the pair template adds to the two texts.
    :param states: digest of the encoder of item states; empty without graphs for them.
    """

    name: str
    version: str
    scale: GradeScale
    template: ItemTemplate
    query_cap: int
    item_cap: int
    ood: OodCard
    backbone: str
    created: str
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    graphs: Mapping[str, Any] = field(default_factory=dict)
    frame: int = 4
    states: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse invalid values; ``name`` and ``version`` become parts of file, index and pipeline names."""
        check_name(self.name, self.version)
        for name, least in (("query_cap", 1), ("item_cap", 1), ("frame", 0)):
            cap = getattr(self, name)
            if not isinstance(cap, int) or not least <= cap < MOST_TOKENS:
                raise InputError(f"{name} {cap!r} is not a number of tokens", todo=f"give at least {least}")
        if not isinstance(self.ood.alpha, float) or not 0 < self.ood.alpha < 1:
            raise InputError(f"alpha {self.ood.alpha!r} is outside 0..1", todo="give a rate such as 0.05")
        if not all(isinstance(text, str) for text in (*self.scale.names, *self.template.fields)):
            raise InputError("a grade or a template field has a name that is not text", todo="quote it")
        if not isinstance(self.template.separator, str):
            raise InputError("the template's separator is not text", todo="quote it")

    @property
    def columns(self) -> Columns:
        """Layout of the graph's output."""
        return Columns(self.scale.k)

    @property
    def text_field(self) -> str:
        """Field of an indexed item with all the text that a scorer reads; in the cluster, models read ``darl_text``."""
        return TEXT_FIELD if self.template.chunks == 1 else LONG_TEXT_FIELD

    @property
    def max_length(self) -> int:
        """Maximum tokens of a sequence: both caps and the template's own tokens."""
        return self.query_cap + self.item_cap + self.frame

    def to_json(self) -> dict[str, Any]:
        """Render for ``darl.json``."""
        data = dataclasses.asdict(self)
        scale, template = data.pop("scale"), data.pop("template")
        data["grades"] = [{"name": n, "gain": g} for n, g in zip(scale["names"], scale["gains"], strict=True)]
        if self.template.chunks == 1:  # as in bundles of earlier versions
            del template["chunks"], template["title_fields"]
        data["template"] = template | {"fields": list(template["fields"])}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, where: str) -> Card:
        """Parse the output of :meth:`to_json`.

        :param where: path, for error messages.
        :raises BundleError: for a missing or invalid value.
        """
        try:
            data = {"frame": 4, "states": {}, **data}  # older cards lack both
            values = {f.name: data[f.name] for f in dataclasses.fields(cls) if f.name not in ("scale", "template")}
            values["ood"] = OodCard(**values["ood"])
            template = dict(data["template"])
            values["template"] = ItemTemplate(**(template | {"fields": tuple(template["fields"])}))
            grades = data["grades"]
            values["scale"] = GradeScale(tuple(g["name"] for g in grades), tuple(float(g["gain"]) for g in grades))
            return cls(**values)
        except InputError as err:
            raise BundleError(err.what, where=where, todo="export the model again") from err
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as err:
            raise BundleError(f"the card is incomplete ({err})", where=where, todo="export the model again") from err


@dataclass(frozen=True)
class TrainingTexts:
    """Texts of the training data.

    :param queries: training queries.
    :param items: judged items: id and text of each.
    """

    queries: tuple[str, ...]
    items: tuple[tuple[str, str], ...]

    def to_jsonl(self) -> str:
        """Render as lines of JSON."""
        rows: list[dict[str, str]] = [{"query": query} for query in self.queries]
        rows += [{"item_id": item_id, "text": text} for item_id, text in self.items]
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@dataclass(frozen=True)
class DriftReference:
    """Sampled features of the pairs that held-out queries retrieve, as the reference for drift tests.

    :param features: ``[n, h]`` float32 as ``features.onnx`` gives them, pairs of a query adjacent.
    :param sizes: ``[q]`` rows of each query, sampled from its retrieved items.
    :param candidates: ``[q]`` number of items that each query retrieved.
    :param slices: traffic slice of each query, or ``""``.
    """

    features: NDArray[np.float32]
    sizes: NDArray[np.int64]
    candidates: NDArray[np.int64]
    slices: tuple[str, ...]

    @property
    def depth(self) -> int:
        """Maximum number of items that a query retrieved."""
        return int(self.candidates.max())

    @property
    def most_rows(self) -> int:
        """Maximum rows of a query; a query with fewer rows has all its retrieved items."""
        return int(self.sizes.max())


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    :param path: its folder.
    :param card: contents of ``darl.json``.
    :param digests: SHA-256 of every other file, by relative path.
    """

    path: Path
    card: Card
    digests: Mapping[str, str]

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
        """Open and verify a bundle.

        :param verify: check every digest; turn it off only for a bundle that was just verified.
        :raises BundleError: if it is missing, of another format, incomplete or changed.
        """
        folder = Path(path)
        card_path = folder / CARD
        if not card_path.is_file():
            raise BundleError("there is no bundle here", where=str(folder), todo="create one with darl export")
        try:
            data = json.loads(card_path.read_text(encoding="utf-8"))
            bundle_format, digests = data["format"], dict(data.get("files") or {})
        except RecursionError as err:
            raise BundleError("nested too deeply", where=str(card_path), todo="export the model again") from err
        except (ValueError, KeyError, TypeError) as err:
            raise BundleError(
                f"not a bundle card ({err})", where=str(card_path), todo="export the model again"
            ) from err
        if bundle_format != FORMAT:
            raise BundleError(
                f"bundle {data.get('name')!r} has format {bundle_format}, but this version reads format {FORMAT}",
                where=str(folder),
                todo="upgrade darl-opensearch, or export the model again",
            )
        _check_files(digests, str(card_path))
        for name in _required(digests):
            if name not in digests or not (folder / name).is_file():
                raise BundleError(f"{name} is missing", where=str(folder), todo="export the model again")
        if verify:
            for name, digest in digests.items():
                file = folder / name
                if not file.is_file():
                    raise BundleError(f"{name} is missing", where=str(folder), todo="export the model again")
                if (actual := digest_file(file)) != digest:
                    raise BundleError(
                        f"{name} has SHA-256 {actual[:12]}… but the card says {digest[:12]}…",
                        where=str(folder),
                        todo="the file was changed or damaged: copy the bundle again, or export the model again",
                    )
        return cls(folder, Card.from_json(data, where=str(card_path)), digests)

    def has_states(self, *, int8: bool = False) -> bool:
        """Whether the bundle has the graphs that score from item states."""
        return self.state_files(int8=int8)[0] in self.digests

    def state_files(self, *, int8: bool = False) -> tuple[str, str, str]:
        """Name the graphs that score from item states: they score, encode, and compute a text's part of the distance.

        Only a detector that adds parts has the third. Earlier bundles have one of it for both precisions.
        """
        sides = OOD_SIDES_INT8 if int8 and OOD_SIDES_INT8 in self.digests else OOD_SIDES
        return (MEET_INT8, ENCODE_INT8, sides) if int8 else (MEET, ENCODE, sides)

    def file(self, name: str) -> Path:
        """Path of one of the bundle's files.

        :raises BundleError: if the bundle does not have it.
        """
        if name not in self.digests:
            raise BundleError(f"this bundle has no {name}", where=str(self.path), todo="export the model again with it")
        return self.path / name

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The pair tokenizer, truncating at :attr:`Card.max_length`, without padding."""
        from tokenizers import Tokenizer

        try:
            return Tokenizer.from_file(str(self.path / TOKENIZER))
        except Exception as err:  # the tokenizers library raises plain Exception
            raise BundleError(
                f"cannot be read ({err})", where=str(self.path / TOKENIZER), todo="run darl check on the bundle"
            ) from err

    @cached_property
    def renderer(self) -> ItemRenderer:
        """Renders an item as text, and cuts texts into chunks."""
        return ItemRenderer(self.card.template, self.tokenizer, self.card.item_cap)

    def calibration(self) -> NDArray[np.float32]:
        """Read the calibration distances, ``[n]`` float32, ascending."""
        table: NDArray[np.float32] = np.load(self.path / CALIBRATION, allow_pickle=False).astype(np.float32)
        return table

    def reference(self) -> DriftReference:
        """Read the reference sample for drift tests.

        :raises BundleError: if it is missing or damaged.
        """
        rows, path = self.file(REFERENCE), self.file(REFERENCE_QUERIES)
        try:
            features = np.load(rows, allow_pickle=False).astype(np.float32)
            queries = json.loads(path.read_text(encoding="utf-8"))["queries"]
            sizes, candidates = (np.array([q[name] for q in queries], np.int64) for name in ("rows", "candidates"))
            slices = tuple(str(q["slice"]) for q in queries)
        except (ValueError, KeyError, TypeError) as err:
            raise BundleError(f"damaged ({err})", where=str(path), todo="export the model again") from err
        if not (
            features.ndim == 2 and 0 < len(features) == sizes.sum() and np.isfinite(features).all()
            and (sizes == np.minimum(candidates, sizes.max())).all() and sizes.min() > 0
        ):  # fmt: skip
            raise BundleError(
                "the rows do not match the row counts of the queries", where=str(path), todo="export the model again"
            )
        return DriftReference(features, sizes, candidates, slices)

    def training_texts(self) -> TrainingTexts:
        """Read the texts of the training data.

        :raises BundleError: if they were not exported, or are damaged.
        """
        path = self.file(TEXTS)
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            queries = tuple(str(row["query"]) for row in rows if "query" in row)
            items = tuple((str(row["item_id"]), str(row["text"])) for row in rows if "query" not in row)
        except (ValueError, KeyError, TypeError) as err:
            raise BundleError(f"damaged ({err})", where=str(path), todo="export the model again") from err
        return TrainingTexts(queries, items)

    def probes(self) -> tuple[list[tuple[str, str]], NDArray[np.float32]]:
        """Read the probe pairs and torch's scores.

        :return: ``n`` pairs of query and item text, and ``[n, 3 + k]`` float32.
        :raises BundleError: if they are missing or damaged.
        """
        path = self.file(PROBES)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            pairs = [(str(p["query"]), str(p["text"])) for p in data]
            rows = np.array([p["scores"] for p in data], dtype=np.float32).reshape(len(pairs), self.card.columns.width)
        except (ValueError, KeyError, TypeError) as err:
            raise BundleError(f"damaged ({err})", where=str(path), todo="export the model again") from err
        return pairs, rows

    @property
    def identity(self) -> str:
        """SHA-256 of ``opensearch.zip``; for a bundle without one, of the digests of graph, weights and tokenizer."""
        if ZIP in self.digests:
            return self.digests[ZIP]
        parts = "".join(self.digests[name] for name in (MODEL, MODEL_DATA, TOKENIZER))
        return digest_data(parts)


def _required(names: Container[str]) -> tuple[str, ...]:
    """List the files that a bundle must have; a model in two files has no zip for ML Commons."""
    return REQUIRED if MODEL_DATA in names else (*REQUIRED, ZIP)


def _check_files(digests: Mapping[str, Any], where: str) -> None:
    """Refuse a card that names files outside the bundle."""
    for name, digest in digests.items():
        if not isinstance(digest, str) or name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise BundleError(
                f"the card names {name!r}, which is not a bundle file",
                where=where,
                todo="export the model again, and find out where this bundle comes from",
            )


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], card: Card) -> Iterator[Path]:
    """Write a bundle into the temporary folder that is yielded; on exit, add digests and zip and rename it.

    :param path: the bundle's folder; an existing bundle is replaced.
    :raises BundleError: if a required file is missing, or ``path`` is not a bundle.
    """
    target = Path(path).absolute()
    if target.exists() and any(target.iterdir()) and not (target / CARD).is_file():
        raise BundleError("the folder exists and is not a bundle", where=str(target), todo="choose another folder")
    with new_folder(target, replace=True) as work:
        (work / "ood").mkdir()
        yield work
        if not (work / MODEL_DATA).is_file():
            write_opensearch_zip(work)
        for name in _required({MODEL_DATA} if (work / MODEL_DATA).is_file() else ()):
            if not (work / name).is_file():
                raise BundleError(f"{name} was not written", where=str(target), todo="report this: export is broken")
        files = sorted(p for p in work.rglob("*") if p.is_file())
        for file in files:
            file.chmod(0o644)  # some libraries write private files, but a scorer may run as another user
        digests = {p.relative_to(work).as_posix(): digest_file(p) for p in files}
        data = {"format": FORMAT} | card.to_json() | {"files": digests}
        (work / CARD).write_text(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def write_opensearch_zip(folder: Path) -> None:
    """Pack one ONNX file and its tokenizer for ML Commons.

    Entries have a fixed date, so that a model always has the same digest and is recognised when registered again. They
    are stored as they are: compression takes seconds to save 8 % of the weights.
    """
    with zipfile.ZipFile(folder / ZIP, "w") as archive:
        for name in (MODEL, TOKENIZER):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=False) as out, (folder / name).open("rb") as source:
                shutil.copyfileobj(source, out, 1 << 20)


def check_name(name: str, version: str) -> None:
    """Refuse a name or version that would not be valid in file, index and pipeline names.

    :raises InputError: if either is invalid.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"invalid model name {name!r}", todo="use at most 63 of a-z, 0-9, '.', '_', '-'")
    if not _VERSION.fullmatch(version):
        raise InputError(f"invalid version {version!r}", todo="use at most 63 letters, digits, '.', '_', '-'")
