"""The ``darl`` command: one file a command, imported only when that command runs."""

from __future__ import annotations

import importlib
import os
import sys
from importlib.util import find_spec
from typing import NoReturn

import click

from darl_opensearch.errors import EXIT_FAILED, EXIT_USAGE, DarlError, MissingExtra
from darl_opensearch.version import __version__

# Name -> (module below this package, one line of help). The help stands here so that `darl --help` imports none.
COMMANDS: dict[str, tuple[str, str]] = {
    "import": ("import_", "Bring judgments of another format into the trainer's own."),
    "split": ("split", "Split judgments into training, dev and test part without leaks."),
    "leakage": ("leakage", "Look for what two files of judgments share, if only in other words."),
    "mine": ("mine", "Find hard negatives for judged queries in an index, or by BM25."),
    "train": ("train", "Train a reranker from graded judgments."),
    "export": ("export", "Turn a training run into a bundle: ONNX graphs, tokenizer, calibration, card."),
    "check": ("check", "Verify a bundle: contract, digests and parity."),
    "evaluate": ("evaluate", "Measure bundles on judged queries, with intervals; compare them."),
    "gate": ("gate", "Decide by held-out judgments whether a bundle may take another's place."),
    "publish": ("publish", "Export, check and register a run in one go."),
    "register": ("register", "Register a bundle in ML Commons and set up its search pipelines."),
    "release": ("release", "Let a bundle serve in place of another, under live traffic."),
    "rollback": ("rollback", "Let an earlier version serve again."),
    "versions": ("versions", "List what serves and what served, with gates and notes."),
    "index": ("index", "Render items by a bundle's template and load them into an index."),
    "serve": ("serve", "Serve a bundle over HTTP, for the connector and for anyone else."),
    "score": ("score", "Score or embed a pool of any size, on this machine or on Ray."),
    "search": ("search", "Search through the pipeline, and log what the model found strange."),
    "ship": ("ship", "Send spooled OOD records to the cluster."),
    "monitor": ("monitor", "Report out-of-distribution traffic from the log."),
    "select": ("select", "Choose what is judged next: strange queries that training does not cover."),
    "judge": ("judge", "Have selected pairs judged by people, an LLM, or what is there already."),
    "cycle": ("cycle", "Learn what the log found strange: select, judge, train, gate, release."),
    "node": ("node", "Run an OpenSearch node with ML Commons to try things on."),
    "demo": ("demo", "The whole loop on the insurance sample, on a real node where possible."),
}
NOT_IN_IMAGES = {"node": "darl_opensearch.node", "demo": "darl_opensearch.cli.demo"}  # see .dockerignore


class LazyGroup(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in the order of the loop."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command.

        :return: the command, or None when there is none of that name.
        """
        if cmd_name not in COMMANDS:
            return None
        if cmd_name in NOT_IN_IMAGES and find_spec(NOT_IN_IMAGES[cmd_name]) is None:
            raise MissingExtra(f"the scorer image has no darl {cmd_name}", todo="run it from a checkout, see README.md")
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

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a gate said no.
    """


def main() -> NoReturn:
    """Run ``darl``; a user's mistake ends in one line on stderr, never in a traceback."""
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
    except (click.Abort, KeyboardInterrupt):
        click.echo("darl: interrupted; run the same command again to go on.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123  the reader left; say nothing at exit either
        sys.exit(EXIT_FAILED)
    except UnicodeEncodeError as err:
        if os.environ.get("DARL_TRACEBACK"):
            raise
        text = f"an argument or a variable holds a character that {err.encoding} has not. Write it in UTF-8."
        click.echo(f"darl: {text}", err=True)  # not which one: it may be a password
        sys.exit(EXIT_FAILED)
    except OSError as err:
        if os.environ.get("DARL_TRACEBACK"):
            raise
        click.echo(f"darl: {err.filename or 'system'}: {err.strerror or err}.", err=True)
        sys.exit(EXIT_FAILED)
