"""The command line: one module per noun, imported only when its command runs, so that ``--help`` is instant."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from vitray import __version__
from vitray.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER, VitrayError, nearest
from vitray.files import is_full
from vitray.masking import masked

# command -> (module, attribute, one-line help); the help is here so that listing imports nothing
_COMMANDS = {
    "quickstart": ("quickstart", "The whole platform on real handwritten digits, in minutes."),
    "data": ("data", "Prepare, verify and look at datasets."),
    "train": ("train", "Train one experiment."),
    "sweep": ("sweep", "Search the Vision Transformer: plan, run, list."),
    "evaluate": ("evaluate", "Measure a model on a dataset's split."),
    "predict": ("predict", "Classify images, a few or millions, with a model."),
    "serve": ("serve", "Answer HTTP with a model: batched, reloaded, with a page."),
    "jobs": ("jobs", "Submit the same commands to a Ray cluster, and follow them."),
    "models": ("models", "Browse and change the registry; cost, explain and export models."),
    "track": ("track", "What was reported and is not in MLflow yet: status, sync."),
    "doctor": ("doctor", "What is wrong with this machine or cluster, and the remedy."),
    "ui": ("ui", "Open MLflow's own pages on this store."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"vitray.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no such command {args[0]!r}; {nearest(args[0], _COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vitray")
def cli() -> None:
    """Train and tune Vision Transformers on a Ray cluster.

    Exit codes: 0 done, 1 failed, 2 something for you to change, 130 interrupted and resumable.
    """


def run_as_job(*command: str) -> None:
    """What the scripts in ``jobs/`` do: a command of this line, with the words that the script was given."""
    from vitray.cli.job import run

    run([*command, *sys.argv[1:]])


def exit_with(error: VitrayError) -> NoReturn:
    """The end of a command for this error: one message, no traceback."""
    if os.environ.get("VITRAY_DEBUG"):
        raise error
    click.echo(f"error: {masked(str(error))}", err=True)
    sys.exit(error.exit_code)


def main(args: list[str] | None = None) -> None:
    """Run the command line; every vitray error becomes one message and its exit code."""
    try:
        code = cli.main(args, standalone_mode=False)  # click hands back what a command passed to ctx.exit
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USER)
    except VitrayError as error:
        exit_with(error)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe went away, e.g. `vitray ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except OSError as error:
        if not is_full(error):
            raise
        what, where = error.strerror or "no space left on device", str(error.filename or Path.cwd())
        exit_with(VitrayError(what, where=where, remedy="make room there; what is saved is whole: go on where it was"))
