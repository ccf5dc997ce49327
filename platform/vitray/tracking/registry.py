"""The model registry: which models there are, what is known of each version, and how to get one.

Everything here takes the store's address and asks it anew; nothing is kept between calls except downloaded versions,
which never change.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vitray.data.uri import is_uri
from vitray.errors import DataError, TrackingError, nearest
from vitray.home import Home
from vitray.masking import public
from vitray.tracking.aliases import HISTORY_TAG, history, move_alias, moves_up_to
from vitray.tracking.ask_versions import ask_versions
from vitray.tracking.card_text import without_pictures
from vitray.tracking.mlflow_client import asking, connect, is_server, load_mlflow, sqlite_path
from vitray.tracking.packages import fetch_uri
from vitray.tracking.registration import register_model
from vitray.tracking.versions import ModelVersion, read_model_tags, read_versions

__all__ = [
    "ModelVersion",
    "alias_moves",
    "download",
    "is_model_uri",
    "list_models",
    "register_model",
    "resolve",
    "set_alias",
    "show_model",
]

CARD = "MODEL_CARD.md"
_REFERENCE = re.compile(r"^(?:models:/+)?(?P<name>[^@/:]+)(?:@(?P<alias>[^@/]+)|/(?P<version>[0-9]+))?$")


def list_models(tracking_uri: str, name: str | None = None) -> list[ModelVersion]:
    """Every version in the registry (of one model), by name and newest first. Empty when there is no store yet.

    Raises:
        TrackingError: the store does not answer.
    """
    database = sqlite_path(tracking_uri)
    if database is not None and not database.exists():
        return []  # looking must not create a database
    found = read_versions(database) if database else None
    if found is None:
        found = ask_versions(tracking_uri, name)
    found = [v for v in found if name in (None, v.name) and "mlflow.prompt.is_prompt" not in v.tags]
    return sorted(found, key=lambda v: (v.name, -v.version))


def show_model(tracking_uri: str, reference: str) -> ModelVersion:
    """What is known of ``NAME@alias``, ``NAME/version`` or ``NAME`` (then its champion, else its newest version).

    Raises:
        TrackingError: the registry has no such model, alias or version.
    """
    return resolve(tracking_uri, reference, bare_name=True)


def resolve(tracking_uri: str, reference: str, *, bare_name: bool = False) -> ModelVersion:
    """The version that ``models:/NAME@alias`` or ``models:/NAME/3`` means (``models:/`` may be left out).

    Args:
        bare_name: a name alone means its champion, else its newest version; otherwise that is an error which lists
            the choices.

    Raises:
        TrackingError: no such model, alias or version; the message offers the nearest and says where it looked.
    """
    parts = _REFERENCE.match(reference)
    if not parts:
        raise TrackingError(
            "is not a model's name", where=repr(reference), remedy="write models:/NAME@alias or models:/NAME/3"
        )
    mine = list_models(tracking_uri, parts["name"])
    if not mine:
        versions = list_models(tracking_uri)
        remedy = nearest(parts["name"], {v.name for v in versions}) if versions else "train one: vitray quickstart"
        raise TrackingError(
            f"there is no model {parts['name']!r}", where=f"registry {public(tracking_uri)}", remedy=remedy
        )
    choices = [f"{v.name}/{v.version}" for v in mine] + [f"{v.name}@{a}" for v in mine for a in v.aliases]
    for version in mine:
        if parts["alias"] in version.aliases or parts["version"] == str(version.version):
            return version
    if parts["alias"] is None and parts["version"] is None:
        if bare_name:
            return next((v for v in mine if "champion" in v.aliases), mine[0])
        raise TrackingError(f"which version of {parts['name']!r}?", remedy=f"one of: {', '.join(choices)}")
    what = f"alias {parts['alias']!r}" if parts["alias"] else f"version {parts['version']}"
    remedy = f"there are: {', '.join(choices[:12])}"
    if parts["alias"] and (known := {a for v in mine for a in v.aliases}):
        remedy = f"{nearest(parts['alias'], known)}; {remedy}"
    raise TrackingError(f"{parts['name']!r} has no {what}", where=f"registry {public(tracking_uri)}", remedy=remedy)


def set_alias(tracking_uri: str, name: str, version: int, alias: str) -> ModelVersion:
    """Let ``NAME@alias`` mean this version from now on.

    Raises:
        TrackingError: no such model or version, or a name that cannot be an alias.
    """
    found = resolve(tracking_uri, f"{name}/{version}")
    with asking(tracking_uri):
        move_alias(connect(tracking_uri), found.name, alias, found.version, "promoted")
    return resolve(tracking_uri, f"{name}/{version}")


def alias_moves(tracking_uri: str, version: ModelVersion) -> dict[str, list[str]]:
    """How each alias of a version came to it, e.g. ``{"champion": ["v1 registered 2026-11-28 09:30", ...]}``."""
    database = sqlite_path(tracking_uri)
    tags = read_model_tags(database, version.name) if database else None
    if tags is None:
        return {alias: [str(move) for move in history(tracking_uri, version.name, alias)] for alias in version.aliases}
    texts = {alias: tags.get(f"{HISTORY_TAG}{alias}", "") for alias in version.aliases}
    return {alias: [str(move) for move in moves_up_to(text, version.version)] for alias, text in texts.items()}


def is_bare_name(reference: str) -> bool:
    """Whether a reference names a model, and neither an alias nor a version."""
    parts = _REFERENCE.match(reference)
    return parts is not None and parts["alias"] is None and parts["version"] is None


def is_model_uri(model: str) -> bool:
    """True for ``models:/...``, False for what must be a folder."""
    return model.startswith("models:/")


def download(
    model_uri: str, dest: str | Path | None = None, *, tracking_uri: str | None = None, card: str = ""
) -> Path:
    """The package folder (``model.safetensors`` and ``model.json``) of a model.

    Args:
        model_uri: ``models:/NAME@alias``, ``models:/NAME/3``, a package folder or its URI, or an MLflow model's folder.
        dest: copy it there (a new or an empty folder). None: the package itself where it is local; what comes from
            a server is kept under ``$VITRAY_HOME/cache``, since a version never changes.
        tracking_uri: the store to ask; the home folder's when None.
        card: Markdown to lay beside the copy, as ``MODEL_CARD.md``.

    Raises:
        TrackingError: no such model in the registry, or ``dest`` holds something already.
        DataError: the folder holds no model.
    """
    if is_model_uri(model_uri):
        home = Home.find()
        uri = tracking_uri or home.tracking_uri
        package = _fetch(uri, resolve(uri, model_uri), home.root / "cache" / "models")
    elif is_uri(model_uri):
        package = _package_in(fetch_uri(model_uri, Home.find().root / "cache" / "models"))
    else:
        package = _package_in(Path(model_uri))
    if dest is None:
        return package
    target = Path(dest)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise TrackingError("there is something already", where=str(target), remedy="give a new or an empty folder")
    with _staging(target.absolute().parent) as whole:
        shutil.copytree(package, whole, copy_function=shutil.copyfile)
        if card:
            (whole / CARD).write_text(without_pictures(card), encoding="utf-8")
        whole.replace(target)  # appears whole or not at all
    return target


def _fetch(tracking_uri: str, version: ModelVersion, cache: Path) -> Path:
    """The package of a version: where it lies, for a local store; otherwise downloaded once."""
    local = _local_path(version.source)
    if local is not None and not is_server(tracking_uri):
        return _package_in(local)
    kept = cache / f"{version.name}-{version.version}-{_digest(tracking_uri, version)}"
    if not kept.is_dir():
        with asking(tracking_uri), _staging(cache) as whole:
            location = connect(tracking_uri).get_model_version_download_uri(version.name, str(version.version))
            found = load_mlflow().artifacts.download_artifacts(
                location, dst_path=str(whole), tracking_uri=tracking_uri, registry_uri=tracking_uri
            )
            with contextlib.suppress(OSError):  # another process was faster, with the same bytes
                Path(found).replace(kept)
    return _package_in(kept)


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A path beside the final one, to be moved there when it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as staging:
        yield Path(staging) / "whole"


def _local_path(location: str) -> Path | None:
    parts = urlsplit(location)
    return Path(unquote(parts.path)) if parts.scheme in ("file", "") else None


def _package_in(folder: Path) -> Path:
    """The package folder at, or inside an MLflow model at, ``folder``."""
    inner = folder.glob("data/*/model.json") if (folder / "MLmodel").is_file() else ()
    for candidate in (folder, *(path.parent for path in inner)):
        if (candidate / "model.json").is_file():
            return candidate
    what = "is not a model: no model.json in it" if folder.is_dir() else "there is no such folder"
    remedy = "give models:/NAME@alias or a folder that holds model.safetensors and model.json"
    if not folder.exists() and "@" in str(folder):
        remedy = f"did you mean models:/{folder}?"
    raise DataError(what, where=str(folder), remedy=remedy)


def _digest(tracking_uri: str, version: ModelVersion) -> str:
    """Keeps apart versions of the same number: of other servers, and of a registry that was made anew."""
    return hashlib.sha256(f"{tracking_uri} {version.source} {version.created_ms}".encode()).hexdigest()[:12]
