"""The ``darl`` command: one file per command, imported only when it runs."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from importlib.util import find_spec
from typing import NoReturn

import click

from darl_opensearch.cli.stopping import Stopped, stopped_by_signals
from darl_opensearch.errors import EXIT_FAILED, EXIT_USAGE, DarlError, MissingExtra
from darl_opensearch.version import __version__

# Name -> (module in this package, one line of help), so that `darl --help` imports no command.
COMMANDS: dict[str, tuple[str, str]] = {
    "import": ("import_", "Convert judgments from another format for training."),
    "split": ("split", "Split judgments into training, dev and test parts without leakage."),
    "leakage": ("leakage", "Find queries and items shared between judgment files, near duplicates included."),
    "mine": ("mine", "Mine hard negatives for judged queries from an index or local BM25."),
    "train": ("train", "Train a reranker from graded judgments."),
    "export": ("export", "Export a training run as a bundle: ONNX graphs, tokenizer, calibration, card."),
    "check": ("check", "Verify a bundle: digests, graph contract and parity with torch."),
    "evaluate": ("evaluate", "Evaluate and compare bundles on judged queries, with confidence intervals."),
    "gate": ("gate", "Decide on held-out judgments whether a bundle may replace another."),
    "publish": ("publish", "Export, check and register a run in one step."),
    "register": ("register", "Register a bundle in ML Commons and set up its search pipelines."),
    "release": ("release", "Switch the search pipelines to a new bundle under live traffic."),
    "rollback": ("rollback", "Switch the search pipelines back to an earlier version."),
    "versions": ("versions", "List serving and earlier versions with their gate results and notes."),
    "setup": ("setup", "Set up retention, alerts, roles and dashboards."),
    "doctor": ("doctor", "Check a cluster and its scorer, and show how to mend what is wrong."),
    "uninstall": ("uninstall", "Remove a pipeline and all that register and release made for it."),
    "index": ("index", "Render items with a bundle's template and load them into an index."),
    "warm": ("warm", "Encode items beforehand, so that a search only has to meet them."),
    "serve": ("serve", "Serve a bundle over HTTP, for the ML Commons connector and other clients."),
    "score": ("score", "Score or embed a pool of any size, on this machine or on Ray."),
    "search": ("search", "Search through the pipeline and log out-of-distribution hits."),
    "try": ("try_", "Try a bundle on a page: queries, orders before and after, and why."),
    "workbench": ("workbench", "Exchange judgments and experiments with the Search Relevance Workbench."),
    "ship": ("ship", "Ship spooled OOD records to the cluster."),
    "monitor": ("monitor", "Report out-of-distribution traffic and test it for drift."),
    "select": ("select", "Select OOD queries to label next, with a random control arm."),
    "judge": ("judge", "Get selected pairs labelled by people, an LLM, existing judgments or clicks."),
    "cycle": ("cycle", "Adapt to OOD traffic: select, judge, train, gate and release."),
    "report": ("report", "Write the report of a training run or a cycle as one page."),
    "node": ("node", "Run a local OpenSearch node with ML Commons for experiments."),
    "demo": ("demo", "Run the whole loop on the insurance sample, on a real node if possible."),
}
RESUMING = ("train", "score", "warm", "select", "judge", "cycle", "ship")
NOT_IN_IMAGES = {"node": "darl_opensearch.node", "demo": "darl_opensearch.cli.demo"}  # see .dockerignore


class LazyGroup(click.Group):
    """A group that imports a command only when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in the order of the loop."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        if cmd_name in NOT_IN_IMAGES and find_spec(NOT_IN_IMAGES[cmd_name]) is None:
            raise MissingExtra(
                f"darl {cmd_name} is not part of the scorer image", todo="use a checkout (see README.md)"
            )
        command = importlib.import_module(f"{__name__}.{COMMANDS[cmd_name][0]}").cli
        if not isinstance(command, click.Command):
            raise TypeError(f"{cmd_name} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command list without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="darl")
def cli() -> None:
    """Graded, distribution-aware reranking for OpenSearch.

    Exit codes: 0 success, 1 failure, 2 usage error, 3 refused by a check or gate.
    """


def main(*, announce: bool = True) -> NoReturn:
    """Run ``darl``; a user error ends in one line on stderr, never in a traceback.

    :param announce: say so when a signal stops it; False for one of several processes that are stopped together.
    """
    with stopped_by_signals():
        _run(announce)


def _run(announce: bool) -> NoReturn:
    try:
        code = cli.main(prog_name="darl", standalone_mode=False, auto_envvar_prefix="DARL")
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as err:
        click.echo(err.ctx.get_help(), err=True)
        sys.exit(EXIT_USAGE)
    except click.ClickException as err:
        err.show()
        sys.exit(err.exit_code)
    except DarlError as err:
        click.echo(f"darl: {err}", err=True)
        sys.exit(err.exit_code)
    except (click.Abort, KeyboardInterrupt) as err:
        stopped = err if isinstance(err, Stopped) else err.__cause__
        number = stopped.number if isinstance(stopped, Stopped) else signal.SIGINT
        if announce:
            what = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
            again = " to resume" if sys.argv[1:2] and sys.argv[1] in RESUMING else ""
            click.echo(f"darl: {what}; run the same command again{again}.", err=True)
        sys.exit(128 + number)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123  the reader left; stay silent at exit too
        sys.exit(EXIT_FAILED)
    except UnicodeEncodeError as err:
        if os.environ.get("DARL_TRACEBACK"):
            raise
        text = f"an argument or variable has a character outside {err.encoding}. Write it in UTF-8."
        click.echo(f"darl: {text}", err=True)  # not which one: it may be a password
        sys.exit(EXIT_FAILED)
    except OSError as err:
        if os.environ.get("DARL_TRACEBACK"):
            raise
        click.echo(f"darl: {err.filename or 'system'}: {err.strerror or err}.", err=True)
        sys.exit(EXIT_FAILED)
