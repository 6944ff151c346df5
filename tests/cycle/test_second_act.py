"""The demo's second act without a cluster, on the random BERT: real searches, a real cycle, and the way back."""

from __future__ import annotations

from darl_opensearch.cli.demo.report import lay_out_cycle, lay_out_second_act
from darl_opensearch.cli.demo.sample import read_sample
from darl_opensearch.cli.demo.second_act import DemoBackend, play_second_act
from tests.helpers.files import read_rows
from tests.helpers.trained import SAMPLE


def test_later_traffic_becomes_a_version_and_goes_again(small, tmp_path):
    """A random encoder learns nothing worth having: the gate says no, and the demo goes on by hand."""
    sample = read_sample(SAMPLE, small[1])
    place = DemoBackend(small[1], sample, tmp_path, None)
    settings = ["start.when=always", "select.budget=60", "select.control_queries=12", "train.int8=false",
                "gate.tolerance=0", "gate.min_queries=12", "select.selector=random", "select.noise=0"]  # fmt: skip
    act = play_second_act(
        place, small[0].folder.parent / "data" / "darl.toml", lambda *_: None, lambda _: None, settings=settings
    )
    assert act.outcome == "refused" and "the gate refused it" in act.reason
    assert act.bundle.card.version == "2" and act.rolled_back
    cycle = tmp_path / "cycles" / "0001"
    own = {query.query for query in sample.queries}
    asked = {row["query"] for row in read_rows(cycle / "judge" / "tasks.jsonl")}
    later = {row["query"] for row in read_rows(SAMPLE / "later_traffic.jsonl")}
    assert asked <= later and not asked & own
    # The sample's judgments know what BM25 finds in whole texts; this bundle's are cut to 72 tokens.
    assert act.cycle["judge"]["selected"] >= 0.5 * act.cycle["select"]["selected"]
    table, figures = lay_out_second_act(act, act.before, sample, small[1].card.scale.gains)
    assert figures.keys() == {"kinds trained on", "new kinds", "served_minus_python"} and len(table.rows) == 2
    change = figures["served_minus_python"]  # without a cluster both are the Python reranker
    assert change["mean"] == 0.0 and change["n"] > 20
    assert lay_out_cycle(act).rows and all(query in act.after.is_ood for query in act.before.is_ood)
