"""What was simulated of the gate, as Markdown for the README."""

from __future__ import annotations

from typing import Any

from benchmarks.pages import table


def render_gate(result: dict[str, Any]) -> str:
    """Lay out how often the gate sees a gain where there is none.

    :param result: what ``benchmarks.cycle.gate`` wrote.
    :return: Markdown.
    """
    kinds = list(result["rows"][0]["false_gains"])
    rows = [[str(row["queries"]), *(f"{100 * row['false_gains'][kind]:.1f} %" for kind in kinds)]
            for row in result["rows"]]  # fmt: skip
    about = f"{result['trials']:,} trials; the bound promises {100 * result['promised']:.1f} %."
    return f"{about}\n\n{table(['queries', *kinds], rows)}"


def render_looks(result: dict[str, Any]) -> str:
    """Lay out how often the gate says yes, and after how many labels, by its looks.

    :param result: what ``benchmarks.cycle.looks`` wrote.
    :return: Markdown.
    """
    promised = result["promised"]
    power, false = (f"{100 * promised[key]:g} %" for key in ("power", "false"))
    parts = [
        f"Seed {promised['seed']}, {promised['draws']:,} resamples and sign patterns. Goals: yes in {power} of cycles "
        f"with a gain, and in at most {false} without. In brackets: standard errors. "
        "Judged: queries on average. Left: of the gain in RPS, calibrated alike."
    ]
    for name, found in result["sets"].items():
        rows = []
        for kind, cycle in found["cycles"].items():
            mean = {key: f"{round(change['mean'], 4) or 0.0:+.4f}" for key, change in cycle["changes"].items()}
            for row in cycle["rows"]:
                first = row is cycle["rows"][0]
                rows.append([
                    kind if first else "", *(mean[key] if first else "" for key in ("ndcg@10", "rps", "left")),
                    str(row["looks"]), f"{row['planned']:,}", f"{row['judged']:,.0f} ({row['judged_error']:.0f})",
                    f"{100 * row['yes']:.1f} % ({100 * row['yes_error']:.1f})", str(row["trials"]),
                ])  # fmt: skip
        header = ["", "nDCG@10", "RPS", "left", "looks", "asked for", "judged", "yes", "arms"]
        parts += [f"### {name}, {found['queries']} test queries", table(header, rows)]
    return "\n\n".join(parts)
