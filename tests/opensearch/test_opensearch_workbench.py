"""The bodies of search configurations on a real node: filled as the Workbench fills them, they are reranked.

The Workbench itself is not on the node.
"""

from __future__ import annotations

import pytest

from darl_opensearch.cluster.calls import join_path
from darl_opensearch.cluster.history import History, Served
from darl_opensearch.cluster.pipelines import fetch_pipeline
from darl_opensearch.cluster.switching import PipelineHistory
from darl_opensearch.cluster.workbench.api import Workbench
from darl_opensearch.cluster.workbench.configurations import list_configurations, try_configuration
from darl_opensearch.cluster.workbench.push import check_index, count_found
from darl_opensearch.errors import ClusterError
from tests.helpers.bundles import ITEMS

pytestmark = pytest.mark.opensearch
PLAIN, QUOTED = "lost luggage cover", 'a "lost" bike \\ cover'


@pytest.fixture
def configurations(both):
    """Of the connector's pipeline, with the in-cluster model as an earlier version; removes the history."""
    cluster, name, history = both.cluster, f"{both.name}-connector", f"{both.name}-releases"
    before, now = fetch_pipeline(cluster, f"{both.name}-local"), fetch_pipeline(cluster, name)
    served = {mode: Served(both.bundle.card.name, mode, mode, key) for mode, key in both.ids.items()}
    History(cluster, name, history).begin(
        0, "release", served["connector"], state="done", came_from=served["local"], before={name: before},
        after={name: now},
    )  # fmt: skip
    place = PipelineHistory(pipeline=name, history=history)
    found, gone = list_configurations(Workbench(cluster, (3, 8), 1000), place)
    assert [one.label for one in found] == ["first stage", name, f"{both.bundle.card.name} local"]
    assert gone == []
    yield found
    cluster.send("DELETE", join_path(history))


@pytest.mark.local_mode
def test_filled_bodies_are_reranked(both, configurations):
    first, through, earlier = configurations
    for query in (PLAIN, QUOTED):
        assert try_configuration(both.cluster, both.index, first, [query])
        assert try_configuration(both.cluster, both.index, through, [query])  # by the connector, quotes included
    assert both.scorer.requests[-1]["query"] == QUOTED
    assert try_configuration(both.cluster, both.index, earlier, [PLAIN])  # by its pipeline, sent with the search
    # Why push leaves such queries out, and docs/evaluation.md warns of them: in the cluster nothing can escape them.
    with pytest.raises(ClusterError, match="is not reranked"):
        try_configuration(both.cluster, both.index, earlier, [QUOTED])
    assert not try_configuration(both.cluster, both.index, through, ["zebra"])


def test_items_are_looked_up_by_id(both):
    check_index(both.cluster, both.index)
    assert count_found(both.cluster, both.index, [ITEMS[0]["id"], "no such item"]) == 1
    with pytest.raises(ClusterError, match=f"is not an index but stands for {both.index}"):
        check_index(both.cluster, f"{both.index[:-1]}*")
