"""Python and the packages: are they those that vitray was made for, and do they fit each other?"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import vitray
from vitray.cluster.doctor.finding import Finding, blocks, ok

INSTALL = "install vitray again under its constraints.txt: pip install -c constraints.txt -e ."
_MAIN = ("ray", "torch", "torchvision", "mlflow")
_PAIRS = (("torchvision", "torch"),)  # whose compiled parts go together


def check() -> list[Finding]:
    """Each of vitray's own requirements, by what the packages say of themselves; nothing is imported."""
    from packaging.specifiers import SpecifierSet

    python, wanted = platform.python_version(), _python_wanted()
    found = [ok("python", f"Python {python}")]
    if not SpecifierSet(wanted).contains(python):
        found = [blocks("python", f"Python {python}; vitray wants {wanted}", "make the environment with such a Python")]
    wrong = [*_unmet(), *_apart()]
    if wrong:
        return [*found, *(blocks("packages", what, INSTALL) for what in wrong)]
    names = ", ".join(f"{name} {versions()[name]}" for name in _MAIN)
    return [*found, ok("packages", f"vitray {vitray.__version__} has all that it needs: {names}")]


def versions() -> dict[str, str]:
    """What all machines of a cluster must have alike."""
    named = {name: _version(name) or "missing" for name in (*_MAIN, "pyarrow", "numpy")}
    return {"python": platform.python_version(), "vitray": f"{vitray.__version__} ({digest()[:8]})", **named}


@cache
def digest() -> str:
    """SHA-256 over vitray's own Python files, as hex: two machines with the same one run the same code."""
    total, root = hashlib.sha256(), Path(vitray.__file__).parent
    for file in sorted(root.rglob("*.py")):
        total.update(f"{file.relative_to(root)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def _python_wanted() -> str:
    try:
        return importlib.metadata.metadata("vitray")["Requires-Python"] or ""
    except importlib.metadata.PackageNotFoundError:  # on a path, as a job's py_modules are
        return ""


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _unmet() -> Iterator[str]:
    from packaging.requirements import Requirement

    try:
        wanted = importlib.metadata.requires("vitray") or []
    except importlib.metadata.PackageNotFoundError:  # on a path, as a job's py_modules are: nothing says more
        yield from (f"{name} is missing" for name in _MAIN if _version(name) is None)
        return
    for requirement in map(Requirement, wanted):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if (version := _version(requirement.name)) is None:
            yield f"{requirement.name} is missing"
        elif not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} is {version}; vitray wants {requirement.specifier}"


def _apart() -> Iterator[str]:
    """Pairs of which one was made for another version of the other."""
    from packaging.requirements import Requirement

    for name, other in _PAIRS:
        version = _version(other)
        for requirement in map(Requirement, (_version(name) and importlib.metadata.requires(name)) or []):
            bare = version and version.partition("+")[0]  # 2.15.0+cu132
            if requirement.name == other and bare and not requirement.specifier.contains(bare):
                yield f"{name} {_version(name)} was made for {other}{requirement.specifier}, and {other} is {version}"
