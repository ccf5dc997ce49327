"""What is sent with a job: all code, nothing else that git ignores, nothing secret, and not too much."""

from __future__ import annotations

import io
import random
import subprocess
import zipfile
from pathlib import Path

import pytest

from vitray.cluster import job_package
from vitray.cluster.job_package import of_texts, of_vitray
from vitray.errors import ConfigError


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A package in a git repository whose .gitignore has the pattern that would lose vitray's own vitray/data."""
    root = tmp_path / "repository" / "toy"
    files = {
        "__init__.py": "",
        "data/__init__.py": "A = 1",
        "data/new.py": "B = 2",
        "page.html": "<p>",
        "notes.txt": "kept by git, so it goes along",
        "weights.bin": "ignored",
        ".env": "SECRET=planted-secret",
        ".vitray/mlflow.db": "state",
        "__pycache__/x.pyc": "compiled",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root.parent / ".gitignore").write_text("data/\n*.bin\n")
    (root / "recipes").symlink_to("../recipes")
    (root.parent / "recipes").mkdir()
    (root.parent / "recipes" / "a.yaml").write_text("x: 1")
    (root / "loop").symlink_to(".")
    subprocess.run(["git", "init", "-q", str(root.parent)], check=True)
    subprocess.run(["git", "-C", str(root.parent), "add", "."], check=True)
    return root


def names(body: bytes) -> set[str]:
    return set(zipfile.ZipFile(io.BytesIO(body)).namelist())


def test_code_is_sent_although_a_pattern_hides_it_and_secrets_are_not(code: Path) -> None:
    sent = of_vitray(code)
    assert names(sent.body) == {
        f"toy/{name}"
        for name in ("__init__.py", "data/__init__.py", "data/new.py", "page.html", "notes.txt", "recipes/a.yaml")
    }
    assert b"planted-secret" not in sent.body


def test_without_a_repository_code_and_package_data_are_sent(code: Path) -> None:
    for path in (code.parent / ".git").rglob("HEAD"):
        path.unlink()
    assert names(of_vitray(code).body) == {
        f"toy/{name}" for name in ("__init__.py", "data/__init__.py", "data/new.py", "page.html", "recipes/a.yaml")
    }


def test_the_same_contents_have_the_same_name_and_others_another(code: Path) -> None:
    first = of_vitray(code)
    (code / "data" / "new.py").touch()
    assert of_vitray(code).uri == first.uri
    (code / "data" / "new.py").write_text("B = 3")
    assert of_vitray(code).uri != first.uri
    assert of_texts("config", {"a": "1"}).uri != of_texts("config", {"b": "1"}).uri


def test_vitray_itself_is_whole_and_small() -> None:
    sent = of_vitray()
    root = Path(job_package.__file__).parents[1]
    assert {name.removeprefix("vitray/") for name in names(sent.body)} >= {
        *(path.relative_to(root).as_posix() for path in root.rglob("*.py")),
        "configs/quickstart.yaml",
        "inference/serving/page.html",
    }
    assert len(sent.body) < 2 * 2**20
    assert "KiB" in sent.describe() or "MiB" in sent.describe()


def test_what_is_too_large_is_refused_with_its_largest_files(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_package, "LIMIT", 2**20)  # of the real 100 MiB, which take seconds to compress
    (code / "table.txt").write_bytes(random.Random(0).randbytes(2**20))
    with pytest.raises(ConfigError, match=r"1\.0 MiB, and a cluster takes 1\.0 MiB; the largest files: toy/table\.txt"):
        of_vitray(code)


def test_what_is_hopelessly_large_is_refused_unread(code: Path) -> None:
    with (code / "huge.py").open("wb") as file:
        file.truncate(2 * 2**40)  # a sparse file: nobody could read it all
    with pytest.raises(ConfigError, match=r"2048\.0 GiB.*toy/huge\.py"):
        of_vitray(code)
