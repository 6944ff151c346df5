"""``[judge]``: who judges, and how good a judge has to be."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.errors import UsageError
from darl_opensearch.fields import check_least, option, parameters
from trainer.judging.base import JUDGES
from trainer.registry import nearest

_LABEL = re.compile(r"[A-Za-z0-9_-]{1,40}")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Table ``[judge]``: who judges what was selected."""

    judges: tuple[str, ...] = option(("file",), "registered judges; 'llm:a' and 'llm:b' are two of one kind")
    params: Mapping[str, Any] = parameters("a table of parameters for each judge, by its name in judges")
    guideline: str = option("", "Markdown file that says what each grade means")
    gold: str = option("", "judgments with known grades, on which judges are scored first")
    gold_pairs: int = option(60, "most gold pairs mixed among the tasks of a judge that costs something")
    min_kappa: float = option(0.4, "lower 95 % bound of quadratic kappa on gold below which a judge is refused")
    min_gold: int = option(20, "gold pairs that a judge must have graded to be scored at all")
    trusted: tuple[str, ...] = option((), "judges that may be used without a score; people and 'judgments' may always")
    partial: bool = option(False, "use what people have answered so far, without waiting for the rest")
    smoothing: float = option(4.0, "pairs that the prior counts for, a grade, where several judges are combined")
    draws: int = option(2000, "resamples of every interval")
    seed: int = option(0, "seed of the order, the gold drawn and the resampling")

    def __post_init__(self) -> None:
        """Check names and ranges."""
        if not self.judges:
            raise UsageError("[judge] judges is empty", todo=f"name one or more of {', '.join(JUDGES)}")
        for name in self.judges:
            parse_name(name)
        if len(set(self.judges)) < len(self.judges):
            raise UsageError(
                f"[judge] judges names one twice: {', '.join(self.judges)}", todo="tell them apart: llm:a, llm:b"
            )
        for key in (*self.params, *self.trusted):
            if key not in self.judges:
                raise UsageError(f"[judge] names {key!r}, which is no judge here", todo=nearest(key, self.judges))
        for key, given in self.params.items():
            if not isinstance(given, Mapping):
                raise UsageError(f"[judge.params] {key} is {given!r}, not a table", todo="write { key = value }")
            JUDGES.resolve(parse_name(key)[0], given)
        check_least("judge", self, 0, "gold_pairs", "seed")
        check_least("judge", self, 2, "min_gold")
        check_least("judge", self, 100, "draws")
        if not -1.0 <= self.min_kappa < 1.0:
            raise UsageError(f"[judge] min_kappa is {self.min_kappa}", todo="give a number from -1 to below 1")
        if not 0.0 < self.smoothing < math.inf:
            raise UsageError(f"[judge] smoothing is {self.smoothing}", todo="give a number above 0")

    def make(self, name: str) -> tuple[Any, str]:
        """Make a judge.

        :return: the judge, and its label.
        :raises UsageError: for a parameter that it has not, or one out of range.
        """
        kind, label = parse_name(name)
        make, values = JUDGES.resolve(kind, self.params.get(name, {}))
        return make(**values), label

    def gold_path(self, base: Path) -> Path | None:
        """Find the gold.

        :param base: folder that the configuration's paths are relative to.
        :return: its file, or None where none is named.
        """
        return base / self.gold if self.gold else None

    def guideline_text(self, base: Path) -> str:
        """Read the guideline.

        :param base: folder that the configuration's paths are relative to.
        :return: Markdown; ``""`` where none is named.
        :raises UsageError: when it cannot be read.
        """
        if not self.guideline:
            return ""
        path = base / self.guideline
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as err:
            reason = getattr(err, "strerror", None) or "not UTF-8"
            raise UsageError(
                f"the guideline cannot be read ({reason})", where=str(path), todo="check the path"
            ) from err


def parse_name(name: str) -> tuple[str, str]:
    """Take a judge's name apart.

    :param name: ``kind`` or ``kind:label``.
    :return: the registered kind, and the label or ``""``.
    :raises UsageError: for an unknown kind, or a label that no file name could hold.
    """
    kind, colon, label = name.partition(":")
    JUDGES[kind]
    if colon and not _LABEL.fullmatch(label):
        raise UsageError(f"judge {name!r} has no good label", todo="write letters, digits, '-' and '_': llm:small")
    return kind, label
