"""Arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from vitray.cluster.guard import INSECURE
from vitray.environment import environment

Command = TypeVar("Command", bound=Callable[..., Any])

config_argument = click.argument("config", type=click.Path())
overrides_argument = click.argument("overrides", nargs=-1, metavar="[section.key=value ...]")


def _allow_insecure(context: click.Context, _: click.Parameter, given: bool) -> None:
    """Kept in the environment, so that every part of the command, and what it starts, sees it; and put back."""
    if given:
        context.with_resource(environment(**{INSECURE: "1"}))


insecure_option = click.option(
    "--insecure",
    is_flag=True,
    expose_value=False,
    callback=_allow_insecure,
    help="Use a cluster on other machines although it asks for no token.",
)


def address_option(command: Command) -> Command:
    """``--address`` of a Ray head, and ``--insecure``; the address arrives as ``address``."""
    named = click.option(
        "--address", metavar="URL", help="Ray cluster to join (default: RAY_ADDRESS, else a local Ray of its own)."
    )
    return named(insecure_option(command))
