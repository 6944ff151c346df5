"""The floor of all settings: one declaration becomes a checked key, an option and a row of the docs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import pytest
from click.testing import CliRunner

from darl_opensearch.errors import UsageError
from darl_opensearch.settings import Field, InputFile, Settings, read_fields, setting
from darl_opensearch.settings.options import with_options
from darl_opensearch.settings.secrets import first_key, read_secret
from docs import gen


class Wheel(Settings, table="wheel"):
    """Table ``[wheel]``: what the car runs on."""

    size: float = setting(17.0, "inches", above=0, most=40)


class Car(Settings, table="car", env="CAR_"):
    """Table ``[car]``: what is driven."""

    name: str = setting(..., "what it is called")
    doors: int = setting(4, "doors, the tailgate among them", least=2, most=5, env="DOORS")
    fuel: Literal["petrol", "diesel"] = setting("petrol", "what it burns")
    plate: str | None = setting(None, "its number plate", secret=True)
    gears: tuple[int, ...] = setting((1, 2), "gears there are", least=1)
    extras: Mapping[str, Any] = setting({}, "what else it has", flag="--extra", metavar="KEY=VALUE")
    wheels: tuple[Wheel, ...] = setting((), "others, each a table [[wheel]]")
    spare: Wheel = Wheel()

    def check(self) -> None:
        if self.fuel == "diesel" and self.doors == 2:
            raise UsageError("[car] a diesel has no 2 doors", todo="give it more")


def test_a_table_is_read_and_converted():
    car = Car.read({"name": "a", "spare": {"size": 5}, "gears": [1, 2, 3], "extras": {"radio": True}})
    assert (car.spare, car.gears, car.extras, car.doors) == (Wheel(size=5.0), (1, 2, 3), {"radio": True}, 4)
    assert type(car.spare.size) is float and Car.read(dataclasses.asdict(car)) == car
    assert Car(name="a").extras is not Car(name="a").extras
    assert "B-XY 1" not in repr(Car(name="a", plate="B-XY 1"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"nmae": "a"}, "unknown key [car] nmae. Did you mean 'name'?"),
        ({}, "[car] name is missing. Add it"),
        ({"name": 1}, "[car] name is 1, not text. What it is called."),
        ({"name": "a", "doors": 6}, "[car] doors is 6. Give 2 to 5."),
        ({"name": "a", "doors": 2.0}, "[car] doors is 2.0, not a whole number. Doors, the tailgate among them."),
        ({"name": "a", "doors": True}, "[car] doors is True, not a whole number"),
        ({"name": "a", "fuel": "wood"}, "[car] fuel is 'wood'. Choose petrol or diesel."),
        ({"name": "a", "fuel": ["petrol"]}, "[car] fuel is ['petrol']. Choose petrol or diesel."),
        ({"name": "a", "gears": 1}, "[car] gears is 1, not a list"),
        ({"name": "a", "gears": [0]}, "[car] gears holds 0. Give 1 or more."),
        ({"name": "a", "extras": 1}, "[car] extras is 1, not a table"),
        ({"name": "a", "spare": 1}, "[wheel] is not a table"),
        ({"name": "a", "spare": {"size": 0}}, "[wheel] size is 0.0. Give more than 0, at most 40."),
        ({"name": "a", "spare": {"size": float("nan")}}, "[wheel] size is nan. Give more than 0, at most 40."),
        ({"name": "a", "wheels": [{"sise": 1}]}, "unknown key [wheel] sise. Did you mean 'size'?"),
        ({"name": "a", "fuel": "diesel", "doors": 2}, "[car] a diesel has no 2 doors. Give it more."),
        (3, "[car] is not a table"),
    ],
)
def test_mistakes_are_named_by_file_table_and_key(data, message):
    with pytest.raises(UsageError) as caught:
        Car.read(data, "car.toml")
    assert str(caught.value).startswith(f"car.toml: {message}")


@pytest.mark.parametrize("size", [float("inf"), -float("inf"), 10**400])
def test_a_bounded_number_is_finite(size):
    class Endless(Settings):
        size: float = setting(1.0, "metres", least=-1)

    with pytest.raises(UsageError, match=r"^size is -?inf. Give -1 or more."):
        Endless(size=size)


def test_made_from_python_it_is_checked_too():
    with pytest.raises(UsageError, match=r"\[car\] doors is 1"):
        Car(name="a", doors=1)


def test_a_function_and_a_class_declare_their_own():
    def drive(car: str, speed: Annotated[int, Field("km/h", least=0)] = 50) -> None: ...

    class Driver:
        def __init__(self, car: str, *, calm: Annotated[bool, Field("no horn")] = True) -> None: ...

    assert {name: (one.kind, one.default) for name, one in read_fields(drive).items()} == {"speed": (int, 50)}
    assert list(read_fields(Driver)) == ["calm"]


@click.command()
@with_options
def command(
    out: InputFile | None = setting(None, "where it goes"),
    loud: bool = setting(False, "say more", flag="--loud/--quiet"),
    car: Car = setting(..., "the car", without=("gears",)),
) -> None:
    click.echo(repr((out, loud, car.name, car.doors, car.fuel, car.plate, car.gears, dict(car.extras))))


def test_options_of_a_command():
    run = CliRunner().invoke
    told = run(command, ["--name", "a", "--loud", "--extra", "seats=5", "--extra", "red=yes"], env={"DOORS": "3"})
    assert told.output == "(None, True, 'a', 3, 'petrol', None, (1, 2), {'seats': 5, 'red': 'yes'})\n"
    assert run(command, ["--name", "a"], env={"CAR_DOORS": "5", "DOORS": "3"}).output.split(", ")[3] == "5"
    for arguments, message in (
        ([], "Missing option '--name'"), (["--name", "a", "--doors", "6"], "6 is not in the range 2<=x<=5"),
        (["--name", "a", "--fuel", "wood"], "'wood' is not one of 'petrol', 'diesel'"),
        (["--name", "a", "--extra", "x"], "'x' is not key=value"), (["--gears", "1"], "No such option"),
        (["--out", str(Path("nowhere"))], "File 'nowhere' does not exist"),
    ):  # fmt: skip
        wrong = run(command, arguments)
        assert wrong.exit_code == 2 and message in wrong.output


def test_help_of_a_command():
    text = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    assert "--doors INTEGER RANGE Doors, the tailgate among them. [env var: CAR_DOORS, DOORS; default: 4;" in text
    assert "--loud / --quiet Say more. [default: quiet]" in text
    assert "--extra KEY=VALUE What else it has. May be repeated. [env var: CAR_EXTRAS]" in text
    assert "--plate-file FILE Its number plate, in a file; or set CAR_PLATE to it. [env var: CAR_PLATE_FILE]" in text


def test_rows_of_the_docs():
    rows = gen.keys(Car).splitlines()
    assert "| `name` | text | required | what it is called |" in rows
    assert "| `doors` | whole number, 2 to 5 | `4` | doors, the tailgate among them |" in rows
    assert '| `fuel` | "petrol" or "diesel" | `"petrol"` | what it burns |' in rows
    assert "| `gears` | list of whole number, 1 or more | `[1, 2]` | gears there are |" in rows


def drive(*arguments: object, **environment: str) -> tuple[int, str]:
    @click.command()
    @with_options
    def cli(car: Car = setting(..., "the car")) -> None:
        click.echo(f"plate {car.plate}")

    done = CliRunner(env=environment).invoke(cli, [*map(str, arguments), "--name", "a"])
    return done.exit_code, done.output or str(done.exception)


def test_a_secret_comes_from_a_variable_or_a_file(tmp_path):
    file = tmp_path / "plate"
    file.write_text("\n  B-XY 1 \n", encoding="utf-8")
    assert drive(CAR_PLATE="B-XY 1") == (0, "plate B-XY 1\n")
    assert drive("--plate-file", file) == drive(CAR_PLATE_FILE=str(file)) == (0, "plate B-XY 1\n")
    assert drive() == (0, "plate None\n")
    code, said = drive("--plate-file", file, CAR_PLATE="B-XY 2")
    assert code and said == "CAR_PLATE and CAR_PLATE_FILE are both set. Keep one of the two."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n", "the file holds no secret. Write it on one line."),
        (b"B-XY 1\nB-XY 2\n", "the file holds 2 lines, not one secret. Keep one line."),
        (b"B-XY \xff", "the file is not UTF-8. Write the secret as plain text."),
    ],
)
def test_a_file_without_one_secret_is_refused_and_not_quoted(tmp_path, content, message):
    file = tmp_path / "plate"
    file.write_bytes(content)
    code, said = drive("--plate-file", file)
    assert code and said == f"{file}: {message}"


def test_a_secret_is_no_argument_and_not_in_the_help():
    code, said = drive("--plate", "B-XY 1")
    assert code and said == (
        "--plate is not accepted as an argument, which other users of this machine can see. "
        "Set CAR_PLATE, or pass --plate-file."
    )
    _, text = drive("--help")
    assert "--plate-file FILE" in text and "--plate " not in text
    assert "Its number plate, in a file; or set CAR_PLATE to it." in " ".join(text.split())


def test_a_secret_of_another_kind_is_not_quoted():
    with pytest.raises(UsageError, match="plate is not text") as err:
        Car.read({"name": "a", "plate": 4711})
    assert "4711" not in str(err.value)


def test_a_variable_read_without_an_option_has_its_file_too(tmp_path, monkeypatch):
    file = tmp_path / "key"
    file.write_text("k1\n", encoding="utf-8")
    monkeypatch.setenv("SOME_KEY_FILE", str(file))
    assert read_secret("SOME_KEY") == "k1"
    monkeypatch.setenv("SOME_KEY", "k2")
    with pytest.raises(UsageError, match="SOME_KEY and SOME_KEY_FILE are both set"):
        read_secret("SOME_KEY")
    monkeypatch.delenv("SOME_KEY_FILE")
    assert read_secret("SOME_KEY") == "k2"
    monkeypatch.delenv("SOME_KEY")
    assert read_secret("SOME_KEY") is None


def test_a_scorer_gets_the_first_of_several_keys(tmp_path):
    file = tmp_path / "keys"
    file.write_text("new\nold\n", encoding="utf-8")
    assert (first_key(None, file), first_key("k", None), first_key(None, None)) == ("new", "k", None)
    with pytest.raises(UsageError, match="DARL_API_KEY and DARL_API_KEY_FILE are both set"):
        first_key("k", file)
