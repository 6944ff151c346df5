"""How many control queries the gate needs, by the spread of earlier differences between two versions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.records.items import Item
from darl_opensearch.stats.numbers import round_figure
from darl_opensearch.stats.paired import Z_BOUND, Z_HALVED, needed_queries
from darl_opensearch.stats.sequential import NORMAL, POWER, find_boundaries, find_inflation, find_stops
from darl_opensearch.text import ItemRenderer
from trainer.cycle.inputs import CycleInputs
from trainer.cycle.samples import render_catalogue
from trainer.evaluate.gate import measure_spread
from trainer.evaluate.gate_report import AGREEMENT, CONTROL
from trainer.evaluate.looks import FUTILE, LEVEL

GAIN = 0.01  # of RPS, or of the measure of order, that a cycle should be able to show


@dataclass(frozen=True)
class ControlNeeds:
    """Control queries that the gate needs at a power of 80 %.

    :param available: queries of the control arm, ``[select] control_queries``.
    :param spread: standard deviation over queries of the differences between two versions, by measure.
    :param source: what the spread was measured on; empty: nothing yet.
    :param gain: queries that show a gain of .01, by measure.
    :param no_loss: queries that exclude a loss of order beyond the tolerance where there is none; None: the tolerance
        is no more than machines may differ by.
    :param looks: of the gate at the control arm.
    :param judged: share of these queries that is judged on average, with the gain and without one.
    """

    available: int
    spread: dict[str, float]
    source: str
    gain: dict[str, int]
    no_loss: int | None
    looks: int = 1
    judged: tuple[float, float] = (1.0, 1.0)

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        return asdict(self) | {
            "spread": {name: round_figure(sd) for name, sd in self.spread.items()},
            "judged": [round_figure(share) for share in self.judged],
        }


def plan_control(inputs: CycleInputs) -> ControlNeeds:
    """Estimate how many control queries the gate needs: by earlier control arms, else by ``[start] twin``."""
    gate, available = inputs.config.gate, inputs.config.select.control_queries
    spread, source = _read_earlier(inputs), "the control arms of earlier cycles"
    if not spread and (name := inputs.config.start.twin):
        twin = Bundle.open(inputs.base / name)
        source = f"{name} against the serving bundle on the ID test"
        blank: Counter[str] = Counter()
        spread = measure_spread(
            inputs.serving, twin, items=partial(_read_items, inputs.catalogues, blank), judgments=inputs.id_test,
            options=gate, blank=blank, report=inputs.world.report,
        )  # fmt: skip
    spread = {name: sd for name, sd in spread.items() if math.isfinite(sd)}
    if not spread:
        return ControlNeeds(available, {}, "", {}, None, gate.looks)
    needed = partial(count_control_queries, least=gate.min_queries, looks=gate.looks)
    gain = {name: needed(sd, GAIN, tests=len(spread)) for name, sd in spread.items()}
    order, margin = spread.get(gate.measure), gate.tolerance - AGREEMENT
    no_loss = None if order is None or margin <= 0 else needed(order, margin, tests=1)
    return ControlNeeds(available, spread, source, gain, no_loss, gate.looks, expect_judged(gate.looks, len(spread)))


def count_control_queries(sd: float, distance: float, *, tests: int, least: int, looks: int) -> int:
    """Count the queries that show with a power of 80 % that a mean is above a bound.

    :param sd: standard deviation of the differences over queries.
    :param distance: of the mean from the bound, above 0.
    :param tests: that share the level.
    :param least: minimum number of queries.
    :param looks: at equal shares of them; each stop for futility is paid for as well.
    """
    fixed = needed_queries(sd, distance, z=Z_HALVED if tests > 1 else Z_BOUND)
    return max(least, math.ceil(fixed * find_inflation(_shares(looks), LEVEL / 2 / tests, least=FUTILE)))


def expect_judged(looks: int, tests: int) -> tuple[float, float]:
    """Compute the expected share of the control arm that is judged, with the gain that it is planned for and without.

    :param tests: that share the level; of one alone, which is that of a gain in one measure.
    """
    shares, level = _shares(looks), LEVEL / 2 / tests
    boundaries, inflation = find_boundaries(shares, level), find_inflation(shares, level, least=FUTILE)
    drift = (NORMAL.inv_cdf(1 - level) + NORMAL.inv_cdf(POWER)) * math.sqrt(inflation)
    with_gain, without = (find_stops(shares, boundaries, d, least=FUTILE).share for d in (drift, 0.0))
    return with_gain, without


def _shares(looks: int) -> list[float]:
    return [number / looks for number in range(1, looks + 1)]


def _read_items(catalogues: Sequence[Path], blank: Counter[str], renderer: ItemRenderer) -> dict[str, Item]:
    """Read the catalogues as items of no slice."""
    texts = render_catalogue(catalogues, renderer, blank=blank)
    return {item_id: Item(item_id, text, "") for item_id, text in texts.items()}


def _read_earlier(inputs: CycleInputs) -> dict[str, float]:
    """Pool the spread of the control arms that earlier gates have compared versions on."""
    sums: dict[str, tuple[float, int]] = {}
    for cycle in inputs.cycles.all():
        verdict = cycle.read_result("gate") if cycle.number < inputs.cycle.number else None
        control = ((verdict or {}).get("conditions") or {}).get(CONTROL) or {}
        for change in control.get("changes") or []:
            if change["measure"] in inputs.config.gate.gaining and change.get("sd") is not None:
                square, free = sums.get(change["measure"], (0.0, 0))
                n = change["change"]["n"] - 1
                sums[change["measure"]] = square + n * change["sd"] ** 2, free + n
    return {name: math.sqrt(square / free) for name, (square, free) in sums.items() if free}
