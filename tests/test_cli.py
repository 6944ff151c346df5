"""The ``darl`` command as a whole: quick to load, every option explained, every mistake one line."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import click
import pytest

import darl_opensearch
from darl_opensearch import cli, errors
from darl_opensearch.cli.output import emit_calls, progress_line
from darl_opensearch.cli.stopping import Stopped
from darl_opensearch.cluster import Call
from darl_opensearch.errors import DarlError, GateRefused, InputError, MissingExtra, UsageError, load

ROOT = Path(darl_opensearch.__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def python(*words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, **options
    )


def commands(command: click.Command, path: str):
    yield path, command
    if isinstance(command, click.Group):
        for name, sub in command.commands.items():
            yield from commands(sub, f"{path} {name}")


# ---- what is loaded

HEAVY = ("torch", "transformers", "trainer", "onnxruntime", "onnx", "numpy", "tokenizers", "opensearchpy", "starlette")


@pytest.mark.parametrize("module", ["darl_opensearch", "darl_opensearch.cli"])
def test_the_command_line_loads_nothing_heavy(module):
    code = f"import json, sys, {module}; print(json.dumps(sorted(set(sys.modules) & set({HEAVY!r}))))"
    assert json.loads(python("-c", code).stdout) == []


def test_help_answers_without_loading_a_command():
    code = (
        "import sys; sys.argv = ['darl', '--help']\n"
        "import atexit, darl_opensearch.cli as c\n"
        f"atexit.register(lambda: print(sorted(set(sys.modules) & set({HEAVY!r})), file=sys.stderr))\n"
        "c.main()"
    )
    start = time.monotonic()
    answer = python("-c", code)
    print(f"darl --help: {time.monotonic() - start:.2f} s")
    assert answer.returncode == 0 and answer.stderr == "[]\n"
    for name, (_, text) in cli.COMMANDS.items():
        assert name in answer.stdout and text.split()[0] in answer.stdout


def test_python_m_is_darl():
    answer = python("-m", "darl_opensearch", "--version")
    assert answer.returncode == 0 and darl_opensearch.__version__ in answer.stdout


# ---- every command


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_is_there_and_explains_itself(name):
    module, line = cli.COMMANDS[name]
    command = importlib.import_module(f"darl_opensearch.cli.{module}").cli
    assert isinstance(command, click.Command) and line.endswith(".")
    for path, sub in commands(command, name):
        assert sub.help, path
        for param in sub.params:
            if isinstance(param, click.Option):
                assert param.help, f"darl {path} {param.opts[0]} has no help"
        if not isinstance(sub, click.Group):
            names = [option for param in sub.params for option in param.opts]
            assert len(names) == len(set(names)), path


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_prints_its_help(name, darl):
    code, out, err = darl(name, "--help")
    assert code == 0 and out.startswith("Usage: darl ") and not err


# ---- mistakes


def test_wrong_usage(capsys, darl):
    for words in (["nosuch"], ["train", "--nosuch"], ["node", "up", "--port", "x"]):
        code, out, err = darl(*words)
        assert code == 2 and out == "" and "Traceback" not in err
    code, out, err = darl(capsys)
    assert code == 2 and "Usage: darl" in err and out == ""


@pytest.fixture
def raising(monkeypatch):
    """Make ``darl train`` raise."""

    def prepare(error: BaseException) -> None:
        @click.command()
        def broken() -> None:
            raise error

        monkeypatch.setattr(importlib.import_module("darl_opensearch.cli.train"), "cli", broken)

    return prepare


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DarlError("it broke", where="here", todo="mend it"), 1, "darl: here: it broke. Mend it."),
        (InputError("bad\nline", where="a.jsonl, line 3"), 1, "darl: a.jsonl, line 3: bad line."),
        (UsageError("no such key", todo="did you mean x?"), 2, "darl: no such key. Did you mean x?"),
        (GateRefused("worse than before"), 3, "darl: worse than before."),
        (KeyboardInterrupt(), 130, "darl: interrupted; run the same command again to resume."),
        (Stopped(signal.SIGTERM), 143, "darl: stopped by SIGTERM; run the same command again to resume."),
        (Stopped(signal.SIGHUP), 129, "darl: stopped by SIGHUP; run the same command again to resume."),
        (FileNotFoundError(2, "No such file or directory", "x.json"), 1, "darl: x.json: No such file or directory."),
        (PermissionError("no"), 1, "darl: system: no."),
        (DarlError("said \x1b]0;x\x07\ud800", where="a\tb"), 1, "darl: a b: said \ufffd]0;x\ufffd\ufffd."),
        (
            UnicodeEncodeError("utf-8", "s3cret\udcff", 6, 7, "surrogates not allowed"),
            1,
            "darl: an argument or variable has a character outside utf-8. Write it in UTF-8.",
        ),
    ],
)
def test_an_error_is_one_line_and_a_code(raising, error, code, line, darl):
    raising(error)
    found, out, err = darl("train")
    assert (found, out) == (code, "")
    assert err.lstrip("\n") == line + "\n"


def in_a_process_of_its_own(body: str, *arguments: str) -> None:
    """Run Python code with a fresh process's signal handlers, not those of a test runner."""
    code = "import os, signal, sys, time\nfrom darl_opensearch.cli.stopping import Stopped, stopped_by_signals\n"
    done = python(
        "-c", code + textwrap.dedent(body), *arguments,
        preexec_fn=lambda: [signal.signal(one, signal.SIG_DFL) for one in SIGNALS],
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done\n"), done


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_command_after_its_cleanup(number):
    """A second SIGTERM, as timeout and make both send one, does not stop the cleanup."""
    in_a_process_of_its_own(
        """
        number, cleaned_up, caught = int(sys.argv[1]), False, None
        try:
            with stopped_by_signals():
                try:
                    os.kill(os.getpid(), number)
                    time.sleep(20)
                finally:
                    os.kill(os.getpid(), signal.SIGTERM)
                    os.kill(os.getpid(), signal.SIGHUP)
                    cleaned_up = True
        except Stopped as err:
            caught = err.number
        assert caught == number and cleaned_up, (caught, cleaned_up)
        for restored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            assert signal.getsignal(restored) == signal.SIG_DFL  # a later one ends Python's own shutdown
        print("done")
        """,
        str(int(number)),
    )


def test_signals_that_the_caller_ignores_stay_ignored():
    """As nohup has it."""
    in_a_process_of_its_own(
        """
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with stopped_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
        print("done")
        """
    )


def test_a_command_that_starts_over_does_not_promise_to_resume(raising, capsys, monkeypatch):
    raising(KeyboardInterrupt())
    train = importlib.import_module("darl_opensearch.cli.train").cli
    monkeypatch.setattr(importlib.import_module("darl_opensearch.cli.demo"), "cli", train)
    monkeypatch.setattr(sys, "argv", ["darl", "demo"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err.strip() == "darl: interrupted; run the same command again."
    with pytest.raises(SystemExit):
        cli.main(announce=False)
    assert capsys.readouterr().err.strip() == ""


def test_a_reader_that_left(raising, monkeypatch):
    raising(BrokenPipeError())
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # put back afterwards
    monkeypatch.setattr(sys, "argv", ["darl", "train"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    sys.stdout.close()
    assert ended.value.code == 1


def test_a_bug_is_not_hidden(raising, capsys):
    raising(ZeroDivisionError("a bug"))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(sys, "argv", ["darl", "train"])
        cli.main()


def test_a_question_ends_with_its_mark():
    assert str(UsageError("unknown key", todo="did you mean 'x'?")) == "unknown key. Did you mean 'x'?"


# ---- extras

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
sys.argv = ["darl", *{words!r}]
from darl_opensearch.cli import main
main()
"""


def test_training_without_the_train_extra(tmp_path):
    """The trainer's own code is installed with the rest; what it needs is not."""
    code = BLOCK.format(blocked=("torch", "transformers", "safetensors"), words=("train", str(tmp_path / "x.toml")))
    answer = python("-c", code)
    assert answer.returncode == 1, answer.stderr
    assert answer.stderr.startswith("darl: ") and answer.stderr.count("\n") == 1
    assert "is not installed. Run: " in answer.stderr and "'darl-opensearch[train]'" in answer.stderr


def test_late_imports(tmp_path, monkeypatch):
    assert load("json", "train") is json
    with pytest.raises(MissingExtra, match="no_such_library is not installed"):
        load("no_such_library.part", "train")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_library.py").write_text("import no_such_dependency")
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        load("broken_library", "train")
    with pytest.raises(ModuleNotFoundError):
        load("trainer.no_such_part", "train")  # our own mistake is shown as it is


def test_exit_codes_are_a_table():
    codes = {
        kind.__name__: kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, DarlError)
    }
    assert codes.pop("DarlError") == codes.pop("InputError") == 1
    assert codes.pop("UsageError") == 2 and codes.pop("GateRefused") == 3
    assert set(codes.values()) == {1}


def test_a_found_text_says_nothing_to_the_terminal():
    from darl_opensearch.cli.search import format_outcome
    from darl_opensearch.search import RankedHit, SearchOutcome

    hit = RankedHit(1, "a", {"darl_text": "Bike \x1b[31mtheft\u202e"}, 1.0)
    shown = format_outcome(SearchOutcome("q", None, None, (hit,), (), 50, False, 1.0, 1, "local", 0.05), {})
    assert "Bike \ufffd[31mtheft\ufffd" in shown


# ---- what is printed


def test_the_requests_of_a_dry_run(capsys):
    emit_calls([Call("PUT", "/_cluster/settings", {"é": 1, "credential": {"key": "secret"}}), Call("DELETE", "/x")])
    assert json.loads((out := capsys.readouterr()).out) == [
        {"method": "PUT", "path": "/_cluster/settings", "body": {"é": 1, "credential": "***"}},
        {"method": "DELETE", "path": "/x"},
    ]
    assert "é" in out.out and out.err == ""


def test_a_line_of_progress_keeps_what_it_is_not_told(capsys):
    shown = []
    with progress_line("reading", total=1) as line:
        for step in (
            lambda: None,
            lambda: line.report("drawing", 3, 8),
            lambda: line.report("sorting", 4, 0),  # of how much, nobody knows
            lambda: line.report("writing"),
            lambda: line.count(5, 9),
        ):
            step()
            shown.append((line.steps.main.what, line.steps.main.done, line.steps.main.total))
    assert shown == [
        ("reading", 0, 1),
        ("drawing", 3, 8),
        ("sorting", 4, None),
        ("writing", 0, None),
        ("writing", 5, 9),
    ]
    assert capsys.readouterr() == ("", "")  # no terminal, no bar


def wait_for(capsys, what: str) -> str:
    """What was printed on stderr until it holds a text."""
    said, begin = "", time.monotonic()
    while what not in said:
        assert time.monotonic() - begin < 20, said
        time.sleep(0.01)
        said += capsys.readouterr().err
    return said


def test_without_a_terminal_progress_is_plain_lines(capsys, monkeypatch):
    """Also while the work reports nothing, and none after it."""
    monkeypatch.setattr("darl_opensearch.cli.output.INTERVAL", 0.02)
    with progress_line("reading", total=1) as line:
        assert set(wait_for(capsys, "reading").splitlines()) == {"reading …"}
        line.report("training", 30, 1500)
        wait_for(capsys, "training: 30 of 1,500\n")
        line.count(60, 1500)
        said = wait_for(capsys, "left")
        assert re.search(r"training: 60 of 1,500, \S+ (a second|s each), about \S+ (s|min) left\n", said)
        line.count(9, 1500)  # the same step from its start
        wait_for(capsys, "training: 9 of 1,500\n")
        line.count(1600, 1500)
        assert "about 0 s left" in wait_for(capsys, "left")
    capsys.readouterr()
    time.sleep(0.1)
    assert capsys.readouterr() == ("", "")


def test_no_line_of_a_hidden_task_nor_before_the_first_interval(capsys, monkeypatch):
    monkeypatch.setattr("darl_opensearch.cli.output.INTERVAL", 0.02)
    with progress_line("reading", visible=False):
        time.sleep(0.1)
    monkeypatch.setattr("darl_opensearch.cli.output.INTERVAL", 30.0)
    begin = time.monotonic()
    with progress_line("reading"):
        pass
    assert time.monotonic() - begin < 10  # the thread is told to stop, not waited for
    assert capsys.readouterr() == ("", "")
