"""Registries: what is declared is what is checked, and a misspelt name is answered with the right one."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest

from darl_opensearch.errors import UsageError
from darl_opensearch.settings import Field
from trainer.losses import GRADE_LOSSES, RANK_LOSSES
from trainer.models import BACKBONES
from trainer.ood import DETECTORS
from trainer.registry import Registry


@pytest.fixture
def tools() -> Registry:
    tools: Registry = Registry("tool")

    @tools.register("hammer", cite="ours")
    def hammer(
        weight: Annotated[float, Field("kilograms", least=0.5, most=2)] = 1.0,
        blows: Annotated[int, Field("blows a nail", least=1)] = 3,
        grip: Annotated[Literal["wood", "rubber"], Field("what the handle is made of")] = "wood",
    ):
        """Drive nails.

        And pull them.
        """

    tools.register("saw", cite="ours")(lambda: None)
    return tools


def test_entries(tools):
    assert list(tools) == ["hammer", "saw"]
    entry = tools["hammer"]
    assert (entry.name, entry.cite, entry.summary) == ("hammer", "ours", "Drive nails.")
    assert tools["saw"].summary == ""


def test_a_second_one_of_that_name_is_refused(tools):
    with pytest.raises(ValueError, match="tool 'saw' is registered twice"):
        tools.register("saw", cite="other")(lambda: None)
    assert tools["saw"].cite == "ours"


def test_unknown_names(tools):
    with pytest.raises(UsageError, match="^unknown tool 'hamer'. Did you mean 'hammer'?"):
        tools["hamer"]
    with pytest.raises(UsageError, match="unknown tool 'xyz'. There are hammer, saw"):
        tools.resolve("xyz", {})


def test_defaults_are_filled_in_and_integers_are_numbers(tools):
    _, values = tools.resolve("hammer", {"weight": 2})
    assert values == {"weight": 2.0, "blows": 3, "grip": "wood"}
    assert type(values["weight"]) is float


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("hammer", {"wieght": 1.0}, "tool 'hammer' has no parameter 'wieght'. It takes weight, blows, grip"),
        ("saw", {"teeth": 1}, "tool 'saw' has no parameter 'teeth'. It takes none"),
        ("hammer", {"weight": 3.0}, "hammer.weight is 3.0. Give 0.5 to 2"),
        ("hammer", {"weight": 0}, "hammer.weight is 0.0. Give 0.5 to 2"),
        ("hammer", {"weight": float("nan")}, "hammer.weight is nan. Give 0.5 to 2"),
        ("hammer", {"weight": "1"}, "hammer.weight is '1', not a number. Kilograms"),
        ("hammer", {"blows": True}, "hammer.blows is True, not a whole number"),
        ("hammer", {"blows": 2.0}, "hammer.blows is 2.0, not a whole number"),
        ("hammer", {"blows": 0}, "hammer.blows is 0. Give 1 or more"),
        ("hammer", {"grip": "steel"}, "hammer.grip is 'steel'. Choose wood or rubber"),
    ],
)
def test_wrong_parameters(tools, name, params, message):
    with pytest.raises(UsageError) as caught:
        tools.resolve(name, params)
    assert message in str(caught.value)


@pytest.mark.parametrize("registry", [GRADE_LOSSES, RANK_LOSSES, BACKBONES, DETECTORS], ids=lambda r: r.kind)
def test_what_is_registered_has_a_source_a_summary_and_valid_defaults(registry):
    assert list(registry)
    for name in registry:
        entry = registry[name]
        assert entry.cite and entry.summary.endswith((".", "?")), name
        _, values = registry.resolve(name, {})
        assert values == {key: param.default for key, param in entry.params.items()}
        for key, param in entry.params.items():
            assert param.field.help, (name, key)
