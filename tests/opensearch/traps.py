"""What is known to go wrong on a node, each with the tests that hold us to it: the rows of docs/opensearch.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).with_name("results")
NO_MODE = "-"  # in results, of tests that have no mode as a parameter


@dataclass(frozen=True)
class Trap:
    """A row of the table.

    :param what: what holds although it might not, in Markdown.
    :param tests: ``file::function``, without ``tests/opensearch/test_`` and ``.py``.
    :param mode: of tests that do not have it as a parameter; ``""``: they need no model.
    """

    what: str
    tests: tuple[str, ...]
    mode: str = ""


TRAPS = (
    Trap("registering, deploying, comparing with the bundle; again without a change", (
        "opensearch_register::test_registering_again_changes_nothing",
        "opensearch_register::test_an_undeployed_model_is_deployed_again",
    )),
    Trap("hits in the model's order, with grades and OOD scores in each", (
        "opensearch_rank::test_ranks_as_the_bundle_does", "opensearch_rank::test_grades_and_ood_of_each_hit",
    )),
    Trap("`NAME-plain` ranks like `NAME`", ("opensearch_rank::test_plain_pipeline_ranks_too",)),
    Trap("any query by our clients: quotes, line breaks, JSON, `${…}`", (
        "opensearch_rank::test_every_query_is_reranked", "opensearch_rank::test_any_text_is_reranked",
    )),
    Trap("[queries as other clients send them](#queries-of-other-clients)", (
        "opensearch_rank::test_queries_as_they_are",
    )),
    Trap("the query text taken from the search body (`--query-path`)", ("opensearch_rank::test_query_path",)),
    Trap("`query_id`, `slice` and document ids reach the scorer", (
        "opensearch_rank::test_query_id_and_slice_reach_the_scorer",
    ), "connector"),
    Trap("the size asked for comes back, and no more than `--max-k` pairs are scored", (
        "opensearch_rank::test_sizes_and_the_cap",
    )),
    Trap("no search is made to pass `index.max_result_window`", (
        "opensearch_pages::test_no_search_is_made_to_pass_the_result_window",
    )),
    Trap("hybrid queries with two and three sub-queries", ("opensearch_pages::test_hybrid_queries",)),
    Trap("[other features of a search](#other-features-of-a-search)", ("opensearch_features::test_features",)),
    Trap("a scorer that is down: first-stage order, and reranked again once it is up", (
        "opensearch_register::test_the_scorer_goes_down",
    ), "connector"),
    Trap("a search that was not reranked is logged", (
        "opensearch_features::test_a_search_that_was_not_reranked_is_logged",
    )),
    Trap("the scorer's key changes while searches run; the next search uses it", (
        "opensearch_register::test_the_scorers_key_changes_while_searches_run",
        "opensearch_register::test_another_connector_is_used_by_the_next_search",
    ), "connector"),
    Trap("TLS, a client certificate and a password before the cluster", (
        "opensearch_secure::test_the_whole_way_through_tls_and_a_password",
    )),
    Trap("`darl doctor` finds nothing wrong, and writes nothing", (
        "opensearch_doctor::test_healthy_and_nothing_is_written",
    )),
    Trap("`darl doctor` finds a scorer that is down, moved, or has another key or model", (
        "opensearch_doctor::test_a_scorer_that_is_down_moved_or_another",
    ), "connector"),
    Trap("monitors and dashboards of `darl setup` over real records", (
        "opensearch_setup::test_the_share_ood_alerts_above_twice_alpha_or_the_limit_given",
        "opensearch_setup::test_a_slice_alerts_on_its_own",
        "opensearch_setup::test_a_day_unlike_the_week_before_alerts",
        "opensearch_setup::test_a_log_without_new_records_alerts",
        "opensearch_setup::test_searches_that_were_not_reranked_alert",
        "opensearch_setup::test_refused_and_unfinished_releases_alert",
        "opensearch_setup::test_visualizations_show_the_logs_figures",
    )),
    Trap("the actions that the roles name are those of OpenSearch", (
        "opensearch_setup::test_the_actions_of_the_roles_are_the_nodes_own",
    )),
)  # fmt: skip


def files_of_traps() -> list[Path]:
    """List the files of the tests."""
    names = {test.partition("::")[0] for trap in TRAPS for test in trap.tests}
    return [Path(__file__).with_name(f"test_{name}.py") for name in sorted(names)]


def tabulate(trap: Trap, results: Mapping[str, Mapping[str, Mapping[str, str]]]) -> dict[str, dict[str, set[str]]]:
    """Give the outcomes of a row's tests, by mode and by version; none if the version does not have the mode.

    :param results: see :func:`read_results`.
    """
    found: dict[str, dict[str, set[str]]] = {}
    for version, tests in results.items():
        for test in trap.tests:
            for mode, outcome in tests.get(test, {"": "missing"}).items():
                found.setdefault(trap.mode if mode == NO_MODE else mode, {}).setdefault(version, set()).add(outcome)
    return found


def read_results() -> dict[str, Mapping[str, Mapping[str, str]]]:
    """Read the committed results: outcome by version, by test and by mode, the newest version first."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")}
    newest = sorted(found, key=lambda version: tuple(map(int, version.split("."))), reverse=True)
    return {version: found[version]["tests"] for version in newest}
