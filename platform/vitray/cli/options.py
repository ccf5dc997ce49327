"""Arguments that several commands share."""

from __future__ import annotations

import click

config_argument = click.argument("config", type=click.Path())
overrides_argument = click.argument("overrides", nargs=-1, metavar="[section.key=value ...]")
address_option = click.option(
    "--address", metavar="URL", help="Ray cluster to join (default: RAY_ADDRESS, else a local Ray of its own)."
)
