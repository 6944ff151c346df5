"""``[judge]``: the judges, and how good they must be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from darl_opensearch.errors import UsageError
from darl_opensearch.settings import Settings, nearest, setting
from trainer.judging.base import JUDGES

_LABEL = re.compile(r"[A-Za-z0-9_-]{1,40}")


class JudgeConfig(Settings, table="judge"):
    """Table ``[judge]``: who labels the selected pairs."""

    judges: tuple[str, ...] = setting(("file",), "registered judges; 'llm:a' and 'llm:b' are two of one kind")
    params: Mapping[str, Any] = setting({}, "parameters of each judge, a table per name in judges")
    guideline: str = setting("", "Markdown file that defines each grade")
    gold: str = setting("", "judgments with known grades, for scoring the judges first")
    gold_pairs: int = setting(
        60, "maximum gold pairs mixed into the tasks of people and LLMs", least=0, env="DARL_GOLD_PAIRS"
    )
    min_kappa: float = setting(
        0.4, "lower 95 % bound of quadratic kappa on gold below which a judge is refused", least=-1, below=1,
        env="DARL_MIN_KAPPA",
    )  # fmt: skip
    min_gold: int = setting(20, "minimum gold pairs that a judge must grade to be scored", least=2)
    trusted: tuple[str, ...] = setting((), "judges that may be used without a score; people and 'judgments' always may")
    partial: bool = setting(
        False, "use the answers that people have given so far, without waiting for the rest", env="DARL_PARTIAL"
    )
    smoothing: float = setting(
        4.0, "weight of the prior, in pairs per grade, when several judges are combined", above=0
    )
    draws: int = setting(2000, "bootstrap resamples per interval", least=100)
    seed: int = setting(0, "seed of the task order, the gold sample and the resampling", least=0, env="DARL_SEED")

    def check(self) -> None:
        """Check the judges' names and their parameters."""
        if not self.judges:
            raise UsageError("[judge] judges is empty", todo=f"list one or more of {', '.join(JUDGES)}")
        for name in self.judges:
            parse_name(name)
        if len(set(self.judges)) < len(self.judges):
            raise UsageError(
                f"[judge] judges lists one twice: {', '.join(self.judges)}", todo="tell them apart: llm:a, llm:b"
            )
        for key in (*self.params, *self.trusted):
            if key not in self.judges:
                raise UsageError(f"[judge] names {key!r}, not one of the judges", todo=nearest(key, self.judges))
        for key, given in self.params.items():
            if not isinstance(given, Mapping):
                raise UsageError(f"[judge.params] {key} is {given!r}, not a table", todo="write { key = value }")
            JUDGES.resolve(parse_name(key)[0], given)

    def make(self, name: str) -> tuple[Any, str]:
        """Make a judge; also return its label.

        :raises UsageError: for an unknown parameter, or one out of range.
        """
        kind, label = parse_name(name)
        make, values = JUDGES.resolve(kind, self.params.get(name, {}))
        return make(**values), label

    def gold_path(self, base: Path) -> Path | None:
        """Return the gold file, if any.

        :param base: folder that the configuration's paths are relative to.
        """
        return base / self.gold if self.gold else None

    def guideline_text(self, base: Path) -> str:
        """Read the guideline's Markdown; ``""`` without one.

        :param base: folder that the configuration's paths are relative to.
        :raises UsageError: if it cannot be read.
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
    """Split a judge's name, ``kind`` or ``kind:label``, into the registered kind and the label or ``""``.

    :raises UsageError: for an unknown kind, or a label that cannot be part of a file name.
    """
    kind, colon, label = name.partition(":")
    JUDGES[kind]
    if colon and not _LABEL.fullmatch(label):
        raise UsageError(f"judge {name!r} has an invalid label", todo="use letters, digits, '-', '_': llm:small")
    return kind, label
