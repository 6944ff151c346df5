"""What a check found."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from darl_opensearch.cluster.calls import Call

Verdict = Literal["ok", "warning", "problem", "not checked"]


@dataclass(frozen=True)
class CheckResult:
    """One thing that was checked.

    :param text: what was found, as a clause.
    :param todo: what mends it, unless the requests do.
    :param requests: that mend it, in order; the check sends none of them.
    :param check: filled in by :func:`diagnose`.
    """

    verdict: Verdict
    text: str
    todo: str | None = None
    requests: tuple[Call, ...] = ()
    check: str = ""

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        requests = [request.to_json() for request in self.requests]
        return {
            "check": self.check, "verdict": self.verdict, "text": self.text, "todo": self.todo, "requests": requests
        }  # fmt: skip

    def mends(self) -> list[str]:
        """Write what mends it, a line each: the requests as Dashboards' Dev Tools takes them."""
        lines = [self.todo] if self.todo else []
        for request in self.requests:
            body = request.to_json().get("body")
            shown = "" if body is None else f" {json.dumps(body, ensure_ascii=False)}"
            lines.append(f"{request.method} {request.path}{shown}")
        return lines


@dataclass(frozen=True)
class Diagnosis:
    """The results of all checks.

    :param url: of the cluster.
    :param version: of OpenSearch.
    """

    url: str
    version: str
    results: tuple[CheckResult, ...]

    def count(self, verdict: Verdict) -> int:
        """Count the results with a verdict."""
        return Counter(result.verdict for result in self.results)[verdict]

    def of(self, check: str) -> list[CheckResult]:
        """Return the results of one check."""
        return [result for result in self.results if result.check == check]

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        return {
            "url": self.url, "version": self.version, "problems": self.count("problem"),
            "warnings": self.count("warning"), "not_checked": self.count("not checked"),
            "results": [result.to_json() for result in self.results],
        }  # fmt: skip
