"""Results of the drift tests, by window."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from darl_opensearch.ood.record import format_timestamp
from darl_opensearch.stats.shares import Share

SHARE, MMD, AUC = "share", "mmd", "auc"
ALL = None  # the slice of a test on the whole window

DRIFT, NO_DRIFT, TOO_FEW, INCOMPLETE = "drift", "no drift", "too few queries", "incomplete"


@dataclass(frozen=True)
class DriftTest:
    """One test of one window.

    :param test: ``share``, ``mmd`` or ``auc``.
    :param slice: the traffic slice; None for all traffic.
    :param value: share OOD, unbiased squared MMD, or AUC.
    :param expected: value without drift: alpha, 0, or one half.
    :param p_holm: ``p``, adjusted for all tests of the window.
    :param drift: whether ``p_holm`` is at or below the window's level.
    """

    test: str
    slice: str | None
    value: float
    expected: float
    queries: int
    p: float
    p_holm: float
    drift: bool

    def __str__(self) -> str:
        """Render in one line."""
        prefix = f"slice {self.slice!r}: " if self.slice is not None else ""
        text = {
            SHARE: f"share OOD {100 * self.value:.1f} %, expected {100 * self.expected:.1f} %",
            MMD: f"squared MMD {self.value:.4f}, expected 0",
            AUC: f"a classifier tells window and reference apart with AUC {self.value:.3f}, expected 0.5",
        }[self.test]
        return f"{prefix}{text} (p {self.p:.2g}, Holm {self.p_holm:.2g})"


@dataclass(frozen=True)
class SampleReport:
    """Sample of the MMD and classifier tests.

    :param rate: sampling rate of scored pairs, in window and reference.
    :param unjoined: sampled pairs left out for lack of their item's text.
    """

    queries: int
    pairs: int
    reference_queries: int
    reference_pairs: int
    rate: float
    unjoined: int


@dataclass(frozen=True)
class WindowReport:
    """One window of one model version.

    :param sampled: whether queries were left out because there were too many.
    :param share_ood: share of OOD pairs, counting each query once, with its interval.
    :param sample: sample of the MMD and classifier tests; None if they did not run.
    :param notes: what could not be tested, and why.
    :param verdict: ``drift``, ``no drift``, ``too few queries`` or ``incomplete``.
    """

    model: str
    version: str
    alpha: float
    start: datetime
    end: datetime
    requests: int
    queries: int
    sampled: bool
    share_ood: Share
    tests: tuple[DriftTest, ...]
    sample: SampleReport | None
    notes: tuple[str, ...]
    verdict: str

    @property
    def reasons(self) -> tuple[str, ...]:
        """The tests that detected drift, most significant first."""
        return tuple(str(t) for t in sorted((t for t in self.tests if t.drift), key=lambda t: (t.p_holm, t.p)))


@dataclass(frozen=True)
class DriftReport:
    """Drift tests of a period of the log.

    :param bundle: name and version of the bundle that provides the reference, or None.
    :param since: earliest time, or None for all.
    :param until: latest time, excluded.
    :param one_in: windows without drift per false alarm.
    :param windows: by end time, earliest first.
    """

    store: str
    bundle: str | None
    since: datetime | None
    until: datetime
    one_in: int
    windows: tuple[WindowReport, ...]

    @property
    def _own_windows(self) -> list[WindowReport]:
        """The windows of the bundle's version; without a bundle, all."""
        return [w for w in self.windows if self.bundle is None or f"{w.model} {w.version}" == self.bundle]

    @property
    def latest(self) -> WindowReport | None:
        """The last tested window of the bundle's version, or without a bundle of the version seen last."""
        windows = self._own_windows
        if not windows:
            return None
        newest = windows[-1]
        tested = [w for w in windows if (w.model, w.version) == (newest.model, newest.version) and w.tests]
        return tested[-1] if tested else None

    @property
    def start_cycle(self) -> bool:
        """Whether the latest tested window has drifted; older windows do not count."""
        return self.latest is not None and self.latest.verdict == DRIFT

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why a cycle should start, one line per test; empty if it should not."""
        return self.latest.reasons if self.latest and self.start_cycle else ()

    @property
    def decision(self) -> str:
        """Whether a cycle should start, in one sentence."""
        if self.start_cycle:
            return "The latest window has drifted: a cycle is due."
        if self.latest is None:
            return "No window could be tested."
        return "The latest tested window has not drifted."

    @property
    def why_not(self) -> str:
        """Why no cycle should start, as a clause; empty if one should."""
        if self.start_cycle:
            return ""
        if self.latest is not None:
            return "there is no drift"
        windows = self._own_windows
        if not windows:
            of_bundle = f" of {self.bundle}" if self.bundle else ""
            since = f" since {self.since:%Y-%m-%d %H:%M}" if self.since else ""
            others = ", ".join(dict.fromkeys(f"{w.model} {w.version}" for w in self.windows))
            return f"the log ({self.store}) holds no requests{of_bundle}{since}" + (
                f", only of {others}" if others else ""
            )
        reason = "the window is not over" if windows[-1].verdict == INCOMPLETE else "; ".join(windows[-1].notes)
        return f"nothing could be tested for drift: {reason}"

    def to_json(self) -> dict[str, Any]:
        """Render as JSON values."""
        windows = [
            dataclasses.asdict(w)
            | {"start": format_timestamp(w.start), "end": format_timestamp(w.end), "reasons": list(w.reasons)}
            for w in self.windows
        ]
        return {
            "store": self.store,
            "bundle": self.bundle,
            "since": format_timestamp(self.since) if self.since else None,
            "until": format_timestamp(self.until),
            "one_in": self.one_in,
            "start_cycle": self.start_cycle,
            "reasons": list(self.reasons),
            "windows": windows,
        }
