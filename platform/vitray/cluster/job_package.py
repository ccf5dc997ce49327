"""What is sent with a job: its config in a small folder, and the vitray that submits it, as Python modules.

Archives are the same, to the bit, for the same contents, and are named by their hash: a cluster gets each once.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import vitray
from vitray.cluster.job_client import Dashboard
from vitray.errors import ConfigError

LIMIT = 100 * 2**20  # bytes that Ray's job server takes
_NEVER = {"__pycache__", ".git", ".venv", "venv", ".vitray", ".ray"}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that zip can write
_DATA = {".yaml", ".html", ".json", ".typed"}  # of an installed package, whose other files git does not tell
_LARGEST = 5
_HOPELESS = 4 * LIMIT  # bytes that will not be small enough when compressed, which would take long to find out


@dataclass(frozen=True)
class Package:
    """A zip archive. ``what`` it holds, for people; ``files``: the bytes of each before compression."""

    what: str
    body: bytes
    files: Mapping[str, int]

    @property
    def name(self) -> str:
        return f"_ray_pkg_{hashlib.sha256(self.body).hexdigest()[:32]}.zip"

    @property
    def uri(self) -> str:
        """Under which the cluster knows it."""
        return f"gcs://{self.name}"

    def describe(self) -> str:
        count = len(self.files)
        return f"{self.what} ({count} file{'s' if count > 1 else ''}, {size_of(len(self.body))})"


def of_texts(what: str, texts: Mapping[str, str]) -> Package:
    """A package of small files, by name."""
    return _zipped(what, {name: text.encode() for name, text in texts.items()})


def of_vitray(folder: Path | None = None) -> Package:
    """The package that runs here (or one in ``folder``): all of its code, and what else of it git does not ignore.

    Raises:
        ConfigError: it is larger than a cluster takes; names the largest files.
    """
    root = folder or Path(vitray.__file__).parent
    known = _known_to_git(root)
    what = f"vitray {vitray.__version__}"
    paths = {
        f"{root.name}/{path.relative_to(root).as_posix()}": path
        for path in _files(root)
        if path.suffix == ".py" or (path in known if known is not None else path.suffix in _DATA)
    }
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    if sum(sizes.values()) > _HOPELESS:  # known without reading it all
        raise _too_large(what, sum(sizes.values()), sizes)
    return _zipped(what, {name: path.read_bytes() for name, path in paths.items()})


def send(dashboard: Dashboard, package: Package) -> bool:
    """Bring a package to the cluster, unless it is there already; whether it was sent."""
    path = f"/api/packages/gcs/{package.name}"
    if dashboard.has(path):  # asked for, it is also kept until the job takes it
        return False
    dashboard.put(path, package.body)
    return True


def size_of(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _zipped(what: str, bodies: Mapping[str, bytes]) -> Package:
    sizes = {name: len(body) for name, body in bodies.items()}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as out:
        for name in sorted(bodies):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            out.writestr(entry, bodies[name])
    body = archive.getvalue()
    if len(body) > LIMIT:
        raise _too_large(what, len(body), sizes)
    return Package(what, body, sizes)


def _too_large(what: str, size: int, sizes: Mapping[str, int]) -> ConfigError:
    largest = sorted(sizes.items(), key=lambda pair: -pair[1])[:_LARGEST]
    listed = ", ".join(f"{name} {size_of(count)}" for name, count in largest)
    return ConfigError(
        f"what would be sent has {size_of(size)}, and a cluster takes {size_of(LIMIT)}; the largest files: {listed}",
        where=what,
        remedy="move them elsewhere, name them in .gitignore, or use the vitray that the cluster has: --installed",
    )


def _files(root: Path) -> Iterable[Path]:
    """All files of a folder, links to folders followed; nothing hidden."""
    for path in sorted(root.iterdir()):
        if path.name in _NEVER or path.name.startswith("."):
            continue
        if path.is_dir() and path.resolve() not in (root.resolve(), *root.resolve().parents):
            yield from _files(path)
        elif path.is_file():
            yield path


def _known_to_git(root: Path) -> set[Path] | None:
    """Files of a folder that git tracks or would offer to; None where there is no repository, or no git."""
    ask = ("ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", ".")
    try:
        done = subprocess.run(["git", "-C", str(root), *ask], capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    listed = {root / name for name in done.stdout.decode().split("\0") if name}
    # A link to a folder is one file to git, and what lies in it another's.
    links = [path for path in listed if path.is_symlink() and path.is_dir()]
    return listed | {file for link in links for file in _files(link)} if listed else None
