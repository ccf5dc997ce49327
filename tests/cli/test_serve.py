"""``vitray serve`` refuses at once, before Ray starts, what cannot work."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Here

from vitray.cli.serve import _welcome
from vitray.errors import ResourceError
from vitray.inference.serving import server
from vitray.inference.serving.batching import Batcher
from vitray.inference.serving.contract import Facts
from vitray.inference.serving.live import Loaded
from vitray.inference.serving.versions import Version


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What looks like a package as long as nobody loads it."""
    found = tmp_path / "signs"
    found.mkdir()
    (found / "model.json").write_text("{}")
    (found / "model.safetensors").write_bytes(b"")
    return found


def test_a_port_in_use_is_told_before_ray_starts(here: Here, folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = here("serve", str(folder), "--port", str(port))
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"error: 127.0.0.1:{port}: cannot listen: Address already in use\n  -> choose another")
    assert "starting Ray" not in said.err


@pytest.mark.parametrize("host", ["no.such.name.invalid", "203.0.113.7"])
def test_an_address_that_is_not_ours_is_an_error(here: Here, folder: Path, host: str) -> None:
    said = here("serve", str(folder), "--host", host)
    assert said.code == 2
    assert f"error: {host}:8000: cannot listen:" in said.err
    assert "--host" in said.err


def test_a_folder_without_a_model_is_an_error(here: Here, tmp_path: Path, folder: Path) -> None:
    said = here("serve", str(tmp_path))
    assert said.code == 2
    assert "no model.json in it" in said.err
    (folder / "model.safetensors").unlink()
    said = here("serve", str(folder))
    assert said.code == 2
    assert "model.safetensors: cannot be read: No such file" in said.err


def test_without_the_extra_one_line_says_how_to_get_it(
    here: Here, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("python_multipart", "watchfiles"):
        monkeypatch.setitem(sys.modules, name, None)  # what Python takes for "not installed"
    said = here("serve", str(folder))
    assert said.code == 2
    assert "python_multipart, watchfiles\n  -> pip install 'vitray[serve]'" in said.err


@pytest.mark.slow
def test_a_misspelt_model_is_answered_without_ray_torch_or_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom vitray.cli import main\n"
        "try:\n    main(['serve', 'models:/nobody@champion'])\nexcept SystemExit as done:\n    assert done.code == 2\n"
        "print([m for m in ('ray', 'torch', 'mlflow', 'uvicorn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "there is no model 'nobody'" in done.stderr
    assert done.stdout == "[]\n"


def test_the_port_is_taken_from_the_moment_it_is_bound() -> None:
    with server.bind("127.0.0.1", 0) as listening:
        host, port = listening.getsockname()
        with pytest.raises(ResourceError, match="cannot listen"):
            server.bind(host, port)
        assert listening.proto == socket.IPPROTO_TCP  # or asyncio leaves Nagle's algorithm on: 40 ms a request


@pytest.mark.parametrize(
    ("host", "url", "warns"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000", False),
        ("localhost", "http://localhost:8000", False),
        ("::1", "http://[::1]:8000", False),
        ("0.0.0.0", "http://127.0.0.1:8000", True),
        ("::", "http://[::1]:8000", True),
        ("192.168.0.5", "http://192.168.0.5:8000", True),
    ],
)
def test_beyond_loopback_it_warns_that_nobody_is_asked_who_they_are(
    capsys: pytest.CaptureFixture[str], host: str, url: str, warns: bool
) -> None:
    facts = Facts(("a", "b"), (8, 12), 3, 100, "0" * 64, "f" * 64, {})

    async def run(images: object, top_k: int) -> list[object]:
        return []

    batcher = Batcher(run, max_batch=1, in_flight=1)  # type: ignore[arg-type]
    _welcome(host, 8000)(Loaded(Version("k", "signs", 3, "champion", 0.75, ""), facts, batcher))
    out, err = capsys.readouterr()
    assert out == f"{url}\n"
    assert "signs/3 (champion) answers: 2 classes, 8x12 pixels, test accuracy 0.7500" in err
    assert f"--data-binary @image.png {url}/predict" in err
    assert ("there is no authentication" in err) == warns
