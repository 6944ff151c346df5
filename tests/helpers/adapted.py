"""Each adapter behind one face, so that what they share is tested on all of them."""

from __future__ import annotations

import asyncio
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from darl_opensearch import adapters

HEAVY = ("torch", "transformers")  # imported by some libraries where they are installed, and needed by none


@contextmanager
def without_torch() -> Iterator[None]:
    """Import libraries as where torch is not installed, which is faster."""
    with pytest.MonkeyPatch.context() as patch:
        for name in HEAVY:
            patch.setitem(sys.modules, name, None)
        yield


@dataclass(frozen=True)
class Doc:
    """A document of any library."""

    text: str | None
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Ranked:
    """A document as an adapter returns it."""

    text: str | None
    score: float | None
    metadata: dict[str, Any]


class LangChain:
    """``DarlDocumentCompressor``."""

    limit = "top_n"

    def __init__(self, reranker, **options):
        self.adapter = adapters.DarlDocumentCompressor(reranker=reranker, **options)

    def documents(self, docs):
        from langchain_core.documents import Document

        return [Document(doc.text or "", metadata=doc.metadata, id=f"d{n}") for n, doc in enumerate(docs)]

    def rank(self, query, documents):
        return self.read(self.adapter.compress_documents(documents, query))

    def rank_async(self, query, documents):
        return self.read(asyncio.run(self.adapter.acompress_documents(documents, query)))

    def read(self, found):
        rows = [Ranked(d.page_content or None, d.metadata.get("relevance_score"), dict(d.metadata)) for d in found]
        for row in rows:
            row.metadata.pop("relevance_score", None)
        return rows


class LlamaIndex:
    """``DarlNodePostprocessor``."""

    limit = "top_n"

    def __init__(self, reranker, **options):
        self.adapter = adapters.DarlNodePostprocessor(reranker=reranker, **options)

    def documents(self, docs):
        from llama_index.core.schema import NodeWithScore, TextNode

        return [
            NodeWithScore(node=TextNode(text=doc.text or "", metadata=doc.metadata, id_=f"d{n}"), score=0.5)
            for n, doc in enumerate(docs)
        ]

    def rank(self, query, documents):
        return self.read(self.adapter.postprocess_nodes(documents, query_str=query))

    def rank_async(self, query, documents):
        return self.read(asyncio.run(self.adapter.apostprocess_nodes(documents, query_str=query)))

    def read(self, found):
        rows = [Ranked(node.text or None, node.score, dict(node.node.metadata)) for node in found]
        assert all(row.metadata.pop("previous_score") == 0.5 for row in rows)
        return rows


class Haystack:
    """``DarlRanker``."""

    limit = "top_k"

    def __init__(self, reranker, **options):
        self.adapter = adapters.DarlRanker(reranker, **options)

    def documents(self, docs):
        from haystack import Document

        return [Document(content=doc.text, meta=doc.metadata, id=f"d{n}", score=0.5) for n, doc in enumerate(docs)]

    def rank(self, query, documents):
        return self.read(self.adapter.run(query=query, documents=documents))

    def rank_async(self, query, documents):
        from haystack import Pipeline

        pipeline = Pipeline()
        pipeline.add_component("ranker", self.adapter)
        ran = asyncio.run(pipeline.run_async({"ranker": {"query": query, "documents": documents}}))
        return self.read(ran["ranker"])

    def read(self, found):
        rows = [Ranked(d.content, d.score, dict(d.meta)) for d in found["documents"]]
        assert all(row.metadata.pop("previous_score") == 0.5 for row in rows)
        return rows


class Rerankers:
    """``DarlReranker``; its results are cut by ``top_k``."""

    limit = None

    def __init__(self, reranker, **options):
        self.adapter = adapters.DarlReranker(reranker, **options)

    def documents(self, docs):
        from rerankers.documents import Document

        return [
            Document(doc.text, doc_id=f"d{n}", metadata=doc.metadata, document_type="text" if doc.text else "image")
            for n, doc in enumerate(docs)
        ]

    def rank(self, query, documents):
        return self.read(self.adapter.rank(query, documents))

    def rank_async(self, query, documents):
        return self.read(asyncio.run(self.adapter.rank_async(query, documents)))

    def read(self, found):
        assert [result.rank for result in found] == list(range(1, len(found.results) + 1))
        return [Ranked(result.text, result.score, dict(result.metadata)) for result in found]


SHAPES = {"langchain": LangChain, "llama-index": LlamaIndex, "haystack": Haystack, "rerankers": Rerankers}


def plain(rows: list[Ranked]) -> list[tuple[Any, ...]]:
    """What can be compared across processes."""
    return [(row.text, row.score, row.metadata) for row in (replace(row) for row in rows)]


def main() -> None:
    """Rank in this process with the adapters that arrive on stdin, and answer on stdout."""
    with without_torch():
        out = {}
        for name, (pickled, query, docs) in pickle.load(sys.stdin.buffer).items():
            shape = SHAPES[name].__new__(SHAPES[name])
            shape.adapter = pickle.loads(pickled)
            out[name] = plain(shape.rank(query, shape.documents(docs)))
    sys.stdout.buffer.write(pickle.dumps(out))


if __name__ == "__main__":
    main()
