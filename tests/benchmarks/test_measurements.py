"""The page of measurements says what the results on disk say."""

from __future__ import annotations

import copy
import json

from benchmarks import measurements


def test_the_page_is_up_to_date():
    assert measurements.is_fresh(), "run: python -m benchmarks.measurements"


def test_every_section_is_on_the_page_with_its_result():
    page = measurements.PAGE.read_text(encoding="utf-8")
    for name, (path, _) in measurements.SECTIONS.items():
        assert path.is_file() and page.count(f"<!-- {name}: begin -->") == page.count(f"<!-- {name}: end -->") == 1


def test_the_fastest_of_the_others_is_compared_with():
    """Not ours, and not one that keeps embeddings, however fast."""
    result = json.loads(measurements.SECTIONS["peers"][0].read_text(encoding="utf-8"))
    assert "(FlashRank, int8) takes 1 ms" not in measurements.render_peers(result)
    changed = copy.deepcopy(result)
    changed["workloads"]["warm"]["FlashRank, int8"]["ms"]["p50"] = 0.6
    assert "(FlashRank, int8) takes 1," in measurements.render_peers(changed).replace("\n", " ")
    faster = copy.deepcopy(result)
    faster["workloads"]["warm"]["MultiVectorEncoder, warm"]["ms"]["p50"] = 0.6
    assert measurements.render_peers(faster) == measurements.render_peers(result)
