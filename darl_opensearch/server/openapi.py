"""The OpenAPI document, written by hand, because eight routes need no framework."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from darl_opensearch.server.config import ServerConfig
from darl_opensearch.server.errors import TYPES
from darl_opensearch.version import __version__

_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_INTEGER = {"type": "integer"}
_DOCUMENT = {"oneOf": [_TEXT, {"type": "object", "required": ["text"], "properties": {"text": _TEXT}}]}

_THRESHOLDS: dict[str, dict[str, Any]] = {
    "min_grade": {"type": ["integer", "string", "null"], "description": "Lowest grade returned: its number or name."},
    "min_score": {"type": ["number", "null"], "minimum": 0, "maximum": 1, "description": "Lowest score returned."},
    "drop_ood": {"type": ["boolean", "null"], "description": "Leave out documents out of distribution."},
}


def describe_api(config: ServerConfig, rerank_paths: Sequence[str]) -> dict[str, Any]:
    """Describe the routes and their limits as an OpenAPI 3.1 document."""
    secured: list[dict[str, Any]] = [{"key": []}] if config.api_key or config.api_key_file else []
    rerank = {
        "summary": "Rank documents by relevance to a query.",
        "security": secured,
        "parameters": [{"name": "X-Request-Id", "in": "header", "schema": _TEXT, "description": "Echoed, and logged."}],
        "requestBody": {"required": True, "content": _json({"oneOf": [_ref("Rerank"), _ref("TeiRerank")]})},
        "responses": {
            "200": {"description": "Ranked.", "content": _json({"oneOf": [_ref("Ranked"), _ref("TeiRanked")]})}
        }
        | {str(status): _failure(status) for status in (400, 401, 408, 413, 422, 429, 500, 503)},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DaRL for OpenSearch",
            "version": __version__,
            "description": "Graded, distribution-aware reranking. Numbers have six decimals at most.",
        },
        "paths": {path: {"post": rerank | {"operationId": f"rerank{i}"}} for i, path in enumerate(rerank_paths)}
        | {
            "/health": {"get": _plain("The process runs.", [])},
            "/ready": {"get": _plain("The model is loaded and warm; 503 until then.", [], 503)},
            "/info": {"get": _plain("What is served, where it runs, and the state of the OOD log.", secured, 401)},
            "/metrics": {"get": _plain("Prometheus metrics.", secured, 401, media="text/plain")},
            "/openapi.json": {"get": _plain("This document.", secured, 401)},
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(config),
        },
    }


def _schemas(config: ServerConfig) -> dict[str, Any]:
    texts = {"type": "array", "maxItems": config.max_documents}
    unit = _NUMBER | {"minimum": 0, "maximum": 1}
    ranked = {
        "index": _INTEGER,
        "relevance_score": unit | {"description": "Expected gain over the highest gain."},
        "document": {"type": "object", "properties": {"text": _TEXT}},
        "grade": _INTEGER | {"description": "Most probable grade."},
        "grade_name": _TEXT,
        "grade_probs": {"type": "array", "items": unit},
        "ood_score": unit | {"description": "1 minus the conformal p-value."},
        "ood_distance": _NUMBER | {"description": "0 at the calibration median, 1 at its 95th percentile."},
        "is_ood": {"type": "boolean"},
    }
    label = {"type": ["string", "null"], "maxLength": 1024}
    return {
        "Rerank": _object(
            ["query", "documents"],
            query=_TEXT | {"minLength": 1},
            documents=texts | {"items": _DOCUMENT},
            model=_TEXT | {"description": "Read by other services; ignored here."},
            top_n={"type": ["integer", "null"], "minimum": 1},
            **_THRESHOLDS,
            return_documents={"type": "boolean", "default": False},
            query_id=label,
            slice=label | {"description": "Traffic slice of the query."},
            doc_ids={"type": ["array", "null"], "items": _TEXT, "description": "One id per document."},
        ),
        "TeiRerank": _object(
            ["query", "texts"],
            query=_TEXT | {"minLength": 1},
            texts=texts | {"items": _TEXT},
            return_text={"type": "boolean", "default": False},
            **_THRESHOLDS,
        ),
        "Ranked": _object(
            ["id", "model", "results", "dropped", "ood", "tensors", "usage"],
            id=_TEXT | {"description": "The request's id."},
            model=_TEXT,
            dropped=_INTEGER | {"description": "Documents that do not reach the thresholds."},
            results={"type": "array", "items": _object(sorted(set(ranked) - {"document"}), **ranked)},
            ood=_object(
                ["alpha", "candidates", "ood_pairs", "ood_share"],
                alpha=_NUMBER,
                candidates=_INTEGER,
                ood_pairs=_INTEGER,
                ood_share=unit,
                max_ood_score={"type": ["number", "null"]},
                max_ood_distance={"type": ["number", "null"]},
            ),
            tensors=_TEXT | {"description": "JSON for ML Commons: all columns of all documents, in their order."},
            usage=_object(["total_tokens", "pairs"], total_tokens=_INTEGER, pairs=_INTEGER),
        ),
        "TeiRanked": {
            "type": "array",
            "items": _object(["index", "score"], index=_INTEGER, score=unit, text=_TEXT),
        },
        "Error": _object(
            ["error"],
            error=_object(
                ["status", "type", "message"],
                status=_INTEGER,
                type={"enum": list(TYPES.values())},
                message=_TEXT | {"description": "What happened, in which field, and what to do."},
            ),
        ),
    }


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _failure(status: int) -> dict[str, Any]:
    failure: dict[str, Any] = {"description": TYPES[status].replace("_", " "), "content": _json(_ref("Error"))}
    if status in (429, 503):
        failure["headers"] = {"Retry-After": {"schema": _INTEGER, "description": "Seconds."}}
    return failure


def _plain(summary: str, security: list[Any], *failures: int, media: str = "application/json") -> dict[str, Any]:
    answers = {"200": {"description": "OK", "content": {media: {"schema": {}}}}}
    return {
        "summary": summary,
        "security": security,
        "responses": answers | {str(status): _failure(status) for status in failures},
    }
