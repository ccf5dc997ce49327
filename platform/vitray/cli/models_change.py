"""``vitray models promote | rollback | delete``: what changes the registry."""

from __future__ import annotations

import sys

import click

from vitray.cli.models_view import as_dict
from vitray.cli.output import emit, note, output_option
from vitray.errors import ConfigError
from vitray.home import Home

_alias = click.option("--alias", default="champion", show_default=True, help="The name that shall mean this version.")


@click.command()
@click.argument("name")
@click.argument("version", type=int)
@_alias
@output_option
def promote(name: str, version: int, alias: str, output: str) -> None:
    """Let NAME@ALIAS mean VERSION from now on."""
    from vitray.tracking.registry import list_models, set_alias

    uri = Home.find().tracking_uri
    before = next((v.version for v in list_models(uri, name) if alias in v.aliases), None)
    found = set_alias(uri, name, version, alias)
    was = f", which was version {before}; back with: vitray models rollback {name} --alias {alias}"
    emit(
        {**as_dict(found), "alias": alias, "was": before},
        output,
        table=lambda: f"models:/{name}@{alias} is version {version} now{was if before not in (None, version) else ''}",
    )


@click.command()
@click.argument("name")
@click.option("--alias", default="champion", show_default=True, help="The name that shall go back.")
@output_option
def rollback(name: str, alias: str, output: str) -> None:
    """Let NAME@ALIAS mean what it meant before; again for what it meant before that.

    Every move of an alias is kept, and shown by `vitray models show`.
    """
    from vitray.tracking.aliases import roll_back
    from vitray.tracking.registry import list_models, resolve

    uri = Home.find().tracking_uri
    resolve(uri, name, bare_name=True)  # a misspelt name is answered with the nearest
    before, now = roll_back(uri, name, alias, list_models(uri, name))
    emit(
        {**as_dict(resolve(uri, f"{name}/{now}")), "alias": alias, "was": before},
        output,
        table=lambda: f"models:/{name}@{alias} is version {now} again; it was version {before}",
    )


@click.command()
@click.argument("model")
@click.option("--yes", is_flag=True, help="Do not ask, and delete also a champion.")
@output_option
def delete(model: str, yes: bool, output: str) -> None:
    """Delete MODEL: one version (NAME/version, NAME@alias), or NAME with all its versions.

    Asks before it does. A champion is deleted only with --yes. Runs stay, and so do the files until `mlflow gc`.
    """
    from vitray.tracking.registry import is_bare_name, list_models, resolve
    from vitray.tracking.removal import delete_versions

    uri = Home.find().tracking_uri
    found = resolve(uri, model, bare_name=True)
    everything = list_models(uri, found.name)
    whole = is_bare_name(model)
    versions = everything if whole else [found]
    what = f"{found.name} with its {len(versions)} versions" if whole else found.uri
    champion = next((version for version in versions if "champion" in version.aliases), None)
    if not yes:
        if champion is not None:
            raise ConfigError(
                "is the champion: whatever loads models:/" + f"{found.name}@champion would fail",
                where=champion.uri,
                remedy="promote another version first, or delete it all the same with --yes",
            )
        _ask(f"delete {what}?")
    delete_versions(
        uri, versions, whole_model=len(versions) == len(everything)
    )  # a name with nothing is seen by nobody
    facts = {"deleted": [version.uri for version in versions], "model": found.name if whole else None}
    emit(facts, output, table=lambda: f"deleted {what}")


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} nobody is there to answer", remedy="say --yes")
    if not click.confirm(question, err=True):
        note("nothing was deleted")
        raise click.exceptions.Exit(2)
