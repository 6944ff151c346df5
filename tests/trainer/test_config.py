"""``darl.toml``: each mistake in one line that says what to write instead."""

from __future__ import annotations

import json

import pytest

from darl_opensearch.errors import DarlError, InputError, UsageError
from darl_opensearch.settings import read_fields
from tests.helpers.training_project import toml_of, write_project
from trainer.config import Config, parse_config, read_config
from trainer.stages.objective import Objective
from trainer.stages.registry import check_plan

MINIMAL = {
    "model": {"name": "shoes"},
    "data": {"items": "items.jsonl", "judgments": "judgments.jsonl"},
    "grades": {"names": ["no", "yes"]},
    "template": {"fields": ["=title"]},
}


def config(**tables) -> Config:
    merged = {name: dict(MINIMAL.get(name, {})) for name in (*MINIMAL, *tables)}
    for name, keys in tables.items():
        merged[name] |= keys
    return parse_config(merged, where="darl.toml")


def write(folder, text):
    path = folder / "darl.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_defaults_and_order(tmp_path):
    path = write(tmp_path, toml_of(MINIMAL | {"loss": {"l2": 0.5}}))
    assert read_config(path).loss.l2 == 0.5
    assert read_config(path).stages.run == ("head", "full")
    assert read_config(path).grades.scale.gains == (0.0, 1.0)
    changed = read_config(path, ["loss.l2=2", "stages.run=['head']", "ood.detector=mahalanobis", "seed=7"])
    assert (changed.loss.l2, changed.stages.run, changed.ood.detector, changed.seed) == (
        2.0,
        ("head",),
        "mahalanobis",
        7,
    )


@pytest.mark.parametrize("value", [5000 * "1", 3000 * "["])
def test_what_the_parser_gives_up_on(tmp_path, value):
    with pytest.raises(InputError, match=r"darl\.toml: not TOML .*\. Correct the line\."):
        read_config(write(tmp_path, f"seed = {value}"))


def test_a_byte_order_mark_and_line_ends_of_windows_are_nothing(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbf" + toml_of(MINIMAL).replace("\n", "\r\n").encode())
    assert read_config(path) == config()


def test_the_resolved_configuration_can_be_read_again():
    one = config(loss={"grade": "yes_no", "grade_params": {"threshold": 1}}, grades={"gains": [0, 3]})
    text = json.dumps(one.to_json())
    assert parse_config(json.loads(text), where="config.json") == one


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"model": {"nmae": "x"}}, "unknown key [model] nmae. Did you mean 'name'?"),
        ({"modle": {}}, "unknown key modle. Did you mean 'model'?"),
        ({"loss": {"xyzzy": 1}}, "unknown key [loss] xyzzy. There are also, grade, grade_params"),
        ({"stages": {"run": ["head", "ful"]}}, "[stages] run lists 'ful'. Did you mean 'full'?"),
        ({"loss": {"l2": "much"}}, "[loss] l2 is 'much', not a number"),
        ({"loss": {"l2": True}}, "[loss] l2 is True, not a number"),
        ({"loss": {"l2": 10**400}}, "[loss] l2 is inf"),
        ({"stages": {"cutoff": 2.5}}, "[stages] cutoff is 2.5, not a whole number"),
        ({"stages": {"cutoff": False}}, "[stages] cutoff is False, not a whole number"),
        ({"template": {"fields": "title"}}, "[template] fields is 'title', not a list"),
        ({"template": {"fields": [1]}}, "[template] fields holds 1, not text"),
        ({"ood": {"params": 3}}, "[ood] params is 3, not a table"),
        ({"grades": {"names": []}}, "a scale needs at least two grades"),
        ({"grades": {"names": ["a", "a"]}}, "are not distinct"),
        ({"grades": {"gains": [1]}}, "2 grade names but 1 gains"),
        ({"template": {"fields": []}}, "the item template names no fields"),
        ({"ood": {"alpha": 0.5}}, "[ood] alpha is 0.5"),
        ({"ood": {"alpha": float("nan")}}, "[ood] alpha is nan"),
        ({"ood": {"features": "pairs"}}, "[ood] features is 'pairs'. Choose query, item or pair"),
        ({"ood": {"depth": 0}}, "[ood] depth is 0. Give 1 or more"),
        ({"data": {"dev_share": 0}}, "[data] dev_share is 0.0"),
        ({"data": {"traffic_share": 0.9}}, "[data] traffic_share is 0.9"),
        ({"model": {"query_cap": 3}}, "[model] query_cap is 3"),
        ({"model": {"item_cap": 500}}, "[model] query_cap + item_cap + 4 is 568 tokens"),
        ({"stages": {"batch_queries": 0}}, "[stages] batch_queries is 0. Give 1 or more"),
        ({"stages": {"evaluations": 0}}, "[stages] evaluations is 0"),
        ({"stages": {"patience": -1}}, "[stages] patience is -1"),
        ({"stages": {"full_epochs": -1}}, "[stages] full_epochs is -1"),
        ({"stages": {"folds": 1}}, "[stages] folds is 1. Set at least 2, or 0 for none"),
        ({"stages": {"full_learning_rate": -1.0}}, "[stages] full_learning_rate is -1.0"),
        ({"stages": {"head_learning_rate": float("inf")}}, "[stages] head_learning_rate is inf"),
        ({"loss": {"l2": -1}}, "[loss] l2 is -1.0"),
        ({"loss": {"rank_weight": float("nan")}}, "[loss] rank_weight is nan"),
        ({"loss": {"rank_weight": 0, "grade_weight": 0}}, "are both 0"),
        ({"loss": {"group_queries": 0}}, "[loss] group_queries is 0. Give 1 or more"),
        ({"loss": {"also": [{"kind": "rank"}]}}, "[loss.also] name is missing"),
        ({"loss": {"also": {"kind": "rank"}}}, "[loss] also is {'kind': 'rank'}, not a list"),
        ({"stages": {"items_per_query": 0}}, "[stages] items_per_query is 0. Give 1 or more"),
        ({"stages": {"micro_queries": -1}}, "[stages] micro_queries is -1"),
        ({"stages": {"checkpoint_steps": -1}}, "[stages] checkpoint_steps is -1"),
        ({"stages": {"precision": "fp16"}}, "[stages] precision is 'fp16'. Choose fp32 or bf16"),
        ({"stages": {"run": ["augmented"]}}, "lists augmented, but [data] new is empty"),
        ({"augmnt": {}}, "unknown key augmnt. Did you mean 'augment'?"),
        ({"augment": {"replays": 1}}, "unknown key [augment] replays. Did you mean 'replay'?"),
    ],
)
def test_mistakes(tables, message):
    with pytest.raises(DarlError) as caught:
        check_plan(config(**tables), "darl.toml")
    text = str(caught.value)
    assert text.startswith("darl.toml: ") and message in text
    assert caught.value.todo and "\n" not in text


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "x", True])
def test_seeds(seed):
    with pytest.raises(UsageError, match="darl.toml: seed is"):
        parse_config(MINIMAL | {"seed": seed}, where="darl.toml")


@pytest.mark.parametrize(
    ("drop", "message"),
    [("model", "[model] is missing"), ("model.name", "[model] name is missing"), ("grades.names", "[grades] names is")],
)
def test_what_must_be_there(drop, message):
    table, _, key = drop.partition(".")
    data = {name: dict(keys) for name, keys in MINIMAL.items()}
    if key:
        del data[table][key]
    else:
        del data[table]
    with pytest.raises(UsageError) as caught:
        parse_config(data, where="darl.toml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("=", "is not table.key=value. Write for example --set loss.l2=0.1"),
        ("l2=1", "is not table.key=value"),
        ("loss.l2", "is not table.key=value"),
        ("loss.ranks=1", "unknown key [loss] ranks. Did you mean 'rank'?"),
        ("loss.l2=x", "[loss] l2 is 'x', not a number"),
        ("lss.l2=1", "unknown key lss. Did you mean 'loss'?"),
        ("seed.x=1", "seed is not a table"),
        ("seed=1.5", "seed is 1.5, not a whole number"),
    ],
)
def test_wrong_overrides(tmp_path, text, message):
    path = write(tmp_path, "seed = 3\n" + toml_of(MINIMAL))
    with pytest.raises(UsageError) as caught:
        read_config(path, [text])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[model", b"name = '\xff'", "[model]\nname = 'a'\nname = 'b'\n"])
def test_what_is_not_toml(tmp_path, text):
    with pytest.raises(InputError, match=r"darl\.toml: not TOML .*\. Correct the line\."):
        read_config(write(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"nope\.toml: cannot be read .No such file"):
        read_config(tmp_path / "nope.toml")
    with pytest.raises(InputError, match="cannot be read .Is a directory"):
        read_config(tmp_path)


def test_losses_are_checked_against_the_scale():
    with pytest.raises(UsageError, match="unknown grade loss 'cumulativ'. Did you mean 'cumulative'"):
        Objective.make(config(loss={"grade": "cumulativ"}).loss, (0.0, 1.0))
    three = config(loss={"grade": "yes_no", "grade_params": {"threshold": 3}}).loss
    Objective.make(three, (0.0, 1.0, 2.0, 3.0))
    with pytest.raises(UsageError, match="threshold 3 is not in 1..2"):
        Objective.make(three, (0.0, 1.0, 2.0))


def test_every_key_says_what_it_is():
    for name, table in read_fields(Config).items():
        for key in read_fields(table.kind).values() if table.is_table else [table]:
            assert key.field.help, f"[{name}] {key.name}"


@pytest.mark.parametrize("keys", [{"name": "My Shoes"}, {"name": "../shoes"}, {"name": ""}, {"version": "a/b"}])
def test_a_name_that_no_bundle_can_have(keys):
    with pytest.raises(DarlError):
        config(model=keys)


def test_the_project_of_the_tests_is_one(tmp_path):
    assert read_config(write_project(tmp_path, "base")).grades.scale.k == 3
