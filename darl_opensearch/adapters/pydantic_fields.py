"""A reranker as a field of a pydantic model, for the libraries whose classes are such models."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

from darl_opensearch.adapters.ranking import open_reranker
from darl_opensearch.reranker import Reranker

RerankerField = Annotated[Reranker, BeforeValidator(open_reranker), PlainSerializer(Reranker.options)]
