"""Files of weights: what could run code is named and not run, and any other bytes are refused with a reason."""

from __future__ import annotations

import argparse
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from small_models import small_vit

from vitray.errors import CheckpointError, DataError
from vitray.models.pretrained import load_pretrained
from vitray.models.weights_file import read_weights


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def test_a_file_with_code_inside_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"patch_embed.proj.weight": Evil()}, "evil.pth")
    Path("plain.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    Path("system.pth").write_bytes(b"cposix\nsystem\n(X\x09\x00\x00\x00touch rantR.")
    for name, holds in (("evil.pth", "getattr"), ("plain.pth", "getattr"), ("system.pth", "posix.system")):
        with pytest.raises(DataError, match=f"holds {holds}, .* could run code"):
            read_weights(name)
    assert not Path("ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "holds"),
    [
        ({"model": {"head.bias": torch.zeros(2)}, "args": argparse.Namespace(lr=0.1)}, "argparse.Namespace"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"a": np.zeros(2)}, "numpy._core.multiarray._reconstruct"),
    ],
)
def test_what_could_run_code_is_named_without_torchs_advice(
    tmp_path: Path, content: Any, holds: str, zipped: bool
) -> None:
    path = tmp_path / "w.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError) as caught:
        read_weights(path)
    assert caught.value.what == f"holds {holds}, not plain weights alone, and loading that could run code"
    assert "save the state_dict alone" in str(caught.value.remedy)


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_a_torchscript_program_is_named(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "w.pth")
    with pytest.raises(DataError, match=r"holds a TorchScript program, .* could run code"):
        read_weights(tmp_path / "w.pth")


def zip_of(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, "hello")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it ends too early"),
        (b"hello there\nworld", "its bytes cannot be followed"),
        (b"cheese, cake\nand coffee\n", "Unsupported global: GLOBAL heese, cake"),
        (b"c\x1b[2J\x07torch\nF\n.", "Unsupported global: GLOBAL ?[2J?torch.F was"),
        (b"<!DOCTYPE html><html>", "Unsupported operand 60"),
        (pickle.dumps(3, 2), "Invalid magic number"),
        (pickle.dumps([1, 2], 2), "Invalid magic number"),
        (pickle.dumps(Path, 4), "Unsupported operand 149"),
        (zip_of("a.txt"), "file in archive is not in a subdirectory"),
        (zip_of("a/data.pkl"), 'Expected hasRecord("version")'),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_what_is_no_file_of_weights_is_told_in_one_line(tmp_path: Path, content: bytes, why: str, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_weights(path)
    assert caught.value.what.startswith("is damaged, or is no file of weights: ")
    assert why in caught.value.what
    assert caught.value.what.isprintable()
    assert "weights_only" not in caught.value.what


def torch_bytes(zipped: bool) -> bytes:
    content = io.BytesIO()
    torch.save({"a": torch.ones(3), "b": {"c": 1}}, content, _use_new_zipfile_serialization=zipped)
    return content.getvalue()


GOOD = (torch_bytes(True), torch_bytes(False))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Arbitrary bytes, or a good file that is cut short, or has a few other bytes somewhere."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=200))
    good = draw(st.sampled_from(GOOD))
    at = draw(st.integers(0, len(good) - 1))
    return good[:at] + draw(st.binary(min_size=1, max_size=4)) + (good[at + 4 :] if draw(st.booleans()) else b"")


@given(content=damaged())
@settings(max_examples=60)
def test_any_bytes_are_read_or_refused_with_a_reason(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.pth"
    path.write_bytes(content)
    said = None
    try:
        weights = read_weights(path)
        assert all(isinstance(tensor, torch.Tensor) for tensor in weights.values())
    except (CheckpointError, DataError) as error:
        said = error.what
    assert said is None or len(said.removeprefix("is damaged, or is no file of weights: ").strip()) > 5
    assert said is None or said.isprintable()


def test_damage_and_strangers_are_told_apart(tmp_path: Path) -> None:
    for suffix in (".safetensors", ".pth"):
        path = tmp_path / f"w{suffix}"
        (save_file if suffix == ".safetensors" else torch.save)(small_vit().state_dict(), path)
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(CheckpointError, match="damaged"):
            read_weights(path)
    with pytest.raises(DataError, match="no such file"):
        read_weights(tmp_path / "nothing.pth")
    save_file({"fc.weight": torch.zeros(2)}, tmp_path / "resnet.safetensors")
    with pytest.raises(DataError, match="no Vision Transformer"):
        load_pretrained(small_vit(), tmp_path / "resnet.safetensors")
    (tmp_path / "w.npz").touch()
    with pytest.raises(DataError, match="not read from"):
        read_weights(tmp_path / "w.npz")
