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
from darl_opensearch.text import ItemRenderer
from trainer.cycle.inputs import CycleInputs
from trainer.cycle.samples import render_catalogue
from trainer.evaluate.gate import measure_spread
from trainer.evaluate.gate_report import CONTROL

GAIN = 0.01  # of RPS, or of the measure of order, that a cycle should be able to show


@dataclass(frozen=True)
class ControlNeeds:
    """Control queries that the gate needs at a power of 80 %.

    :param available: queries of the control arm, ``[select] control_queries``.
    :param spread: standard deviation over queries of the differences between two versions, by measure.
    :param source: what the spread was measured on; empty: nothing yet.
    :param gain: queries that show a gain of .01, by measure.
    :param no_loss: queries that exclude a loss of order beyond the tolerance where there is none; None: no tolerance.
    """

    available: int
    spread: dict[str, float]
    source: str
    gain: dict[str, int]
    no_loss: int | None

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        return asdict(self) | {"spread": {name: round_figure(sd) for name, sd in self.spread.items()}}


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
        return ControlNeeds(available, {}, "", {}, None)
    z = Z_HALVED if len(spread) > 1 else Z_BOUND
    gain = {name: max(gate.min_queries, needed_queries(sd, GAIN, z=z)) for name, sd in spread.items()}
    order = spread.get(gate.measure)
    no_loss = None
    if order is not None and gate.tolerance:
        no_loss = max(gate.min_queries, needed_queries(order, gate.tolerance, z=Z_BOUND))
    return ControlNeeds(available, spread, source, gain, no_loss)


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
