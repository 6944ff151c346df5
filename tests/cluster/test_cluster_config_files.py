"""``plugin_config``: readable by itself, rendered with every placeholder filled."""

from __future__ import annotations

import dataclasses
import json

import pytest

from darl_opensearch import config_files, resources
from darl_opensearch.cluster.pipelines import PipelineOptions, PipelineShape, render_pipelines
from darl_opensearch.config_files import OMIT, placeholders, render_body
from darl_opensearch.errors import ClusterError, DarlError, UsageError
from tests.helpers.cluster import file_of

FILES = sorted(resources.plugin_config().glob("*.json"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(config_files, "plugin_config", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_file_renders_and_is_told_of(file):
    data = json.loads(file.read_text(encoding="utf-8"))
    values = {name: f"<{name}>" for name in placeholders(data)}
    assert not placeholders(render_body(file.name, **values))  # {{ctx.…}} is alerting's own
    readme = (file.parent / "README.md").read_text(encoding="utf-8")
    assert f"`{file.name}`" in readme
    for name in values:
        assert f"`{name}`" in readme, f"README.md does not say what {name} is"


def test_values_keep_their_type(folder):
    (folder / "x.json").write_text(
        '{"a": "{{n}}", "b": "n is {{n}}", "{{key}}": ["{{gone}}", "${parameters.q}", {"c": "{{gone}}"}]}'
    )
    assert render_body("x.json", n=3, key="k", gone=OMIT) == {"a": 3, "b": "n is 3", "k": ["${parameters.q}", {}]}
    assert render_body("x.json", n={"m": 1}, key="k", gone=None)["a"] == {"m": 1}


def test_placeholders_in_values_stay(folder):
    (folder / "x.json").write_text('{"a": "{{n}}", "b": "{{n}}!"}')
    assert render_body("x.json", n="{{other}}") == {"a": "{{other}}", "b": "{{other}}!"}


@pytest.mark.parametrize(
    ("values", "message"),
    [({}, r"no value for {{n}}"), ({"n": 1, "m": 2}, r"the placeholder {{m}} is gone. Put it back")],
)
def test_values_and_placeholders_match(folder, values, message):
    (folder / "x.json").write_text('{"a": "{{n}}"}')
    with pytest.raises(DarlError, match=message):
        render_body("x.json", **values)


def test_broken_files(folder):
    with pytest.raises(DarlError, match="the file is missing. Reinstall the package"):
        render_body("x.json")
    (folder / "x.json").write_text("{")
    with pytest.raises(DarlError, match="not JSON"):
        render_body("x.json")
    (folder / "x.json").write_text("[]")
    with pytest.raises(DarlError, match="not a JSON object"):
        render_body("x.json")


@pytest.mark.parametrize("mode", ["local", "connector"])
def test_columns_come_from_the_bundle(tmp_path, mode):
    from darl_opensearch.scores import GradeScale
    from tests.helpers.bundles import SCALE3, tiny_bundle

    for scale in (GradeScale(("no", "yes"), (0, 1)), SCALE3, GradeScale(tuple("abcde"), (0, 1, 2, 3, 4))):
        bundle = tiny_bundle(tmp_path / f"{scale.k}", scale=scale)
        bodies = render_pipelines(bundle.card, mode, "m", PipelineOptions(name="p"))
        assert bodies.keys() == {"p", "p-plain", "p-hybrid"}
        [output] = bodies["p"]["response_processors"][0]["ml_inference"]["output_map"]
        assert output.keys() == bundle.card.columns.hit_fields().keys()
        assert output[f"darl_grade_probs_{scale.k - 1}"].endswith(f"data[{scale.k}]")
        assert output["darl_ood_distance"].endswith(f"data[{scale.k + 2}]")
        graded = f"pipeline_{mode}.json"
        assert [file_of(body) for body in bodies.values()] == [graded, "pipeline_plain.json", graded]
        shapes = [PipelineShape.of(name, bodies[name], where="u") for name in ("p", "p-hybrid")]
        assert [shape.normalizes for shape in shapes] == [False, True]
        assert dataclasses.replace(shapes[1], phases=()) == shapes[0]


@pytest.mark.parametrize("mode", ["local", "connector"])
def test_every_processor_may_fail(tiny, mode):
    for body in render_pipelines(tiny.card, mode, "m", PipelineOptions()).values():
        steps = body["request_processors"] + body["response_processors"]
        assert [next(iter(step.values()))["ignore_failure"] for step in steps] == [True] * len(steps)


def test_what_a_pipeline_says_of_itself(tiny):
    options = PipelineOptions(name="p", query_path="query.match.title.query", oversample=7)
    shape = PipelineShape.of("p", render_pipelines(tiny.card, "local", "m", options)["p"], where="u")
    fields = frozenset(tiny.card.columns.hit_fields())
    assert shape == PipelineShape("local", "m", "query.match.title.query", False, 7.0, fields, 50, 10_000)
    bodies = render_pipelines(tiny.card, "connector", "m", PipelineOptions(name="p", with_query_id=True))
    assert PipelineShape.of("p", bodies["p"], where="u") == PipelineShape(
        "connector", "m", "ext.ml_inference.query_text", True, 5.0, fields, 200, 10_000
    )
    with pytest.raises(ClusterError, match="'p-plain' does not write grades; 'p' does"):
        PipelineShape.of("p-plain", bodies["p-plain"], where="u")


@pytest.mark.parametrize(
    "options",
    [
        {"name": "a,b"},
        {"name": "*"},
        {"name": "_none"},
        {"max_k": 0},
        {"oversample": 0},
        {"query_path": "a b"},
        {"query_path": "$.x"},
    ],
)
def test_options_that_are_none(options):
    with pytest.raises(UsageError):
        PipelineOptions(**options)
