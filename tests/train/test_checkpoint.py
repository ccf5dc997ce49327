"""Checkpoints: whole or not there, whatever happens to the writer or to the bytes."""

from __future__ import annotations

import logging
import os
import random
import shutil
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from other_processes import CONTEXT, write_checkpoints
from small_runs import assert_bitwise_equal, small_state, tensors_of

from vitray.errors import CheckpointError
from vitray.experiment import OptimConfig
from vitray.models.package import load_package
from vitray.train.checkpoint import CheckpointStore, Progress, Saved, TrainState, verify
from vitray.train.optim import make_optimizer

FILES = ["commit.json", "model.json", "model.safetensors", "optimizer.safetensors", "raw.safetensors", "state.json"]


def save(store: CheckpointStore, step: int, *, ema: bool = False, **progress: float) -> Saved:
    """Commit a checkpoint whose tensors follow from its step."""
    state, info = small_state(step, ema=ema)
    folder = store.save(state, Progress(step, **progress), info)  # type: ignore[arg-type]
    store.wait()
    return folder


def blank(*, ema: bool = False) -> TrainState:
    return small_state(10**6, ema=ema)[0]


@cache
def as_saved(step: int) -> dict[str, torch.Tensor]:
    return tensors_of(small_state(step, ema=True)[0])


def steps(folder: Path) -> list[int]:
    return sorted(int(p.name.split("-")[1]) for p in folder.iterdir())


@pytest.mark.parametrize("ema", [False, True])
def test_what_was_saved_comes_back_to_the_bit(tmp_path: Path, ema: bool) -> None:
    store = CheckpointStore(tmp_path / "run")
    state, info = small_state(1, ema=ema)
    progress = Progress(7, best=0.9, best_step=5)
    folder = store.save(state, progress, info)
    store.close()
    other = blank(ema=ema)
    assert CheckpointStore(tmp_path / "run").restore(other) == progress
    assert_bitwise_equal(tensors_of(other), tensors_of(state))
    assert verify(folder) == progress


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_every_file_is_for_those_whom_the_umask_lets_read(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        folder = save(CheckpointStore(tmp_path), 1, ema=True)
    finally:
        os.umask(before)
    assert {p.name: p.stat().st_mode & 0o777 for p in Path(folder).iterdir()} == dict.fromkeys(FILES, 0o666 & ~mask)


def test_training_goes_on_from_a_restored_optimizer_as_from_the_saved_one(tmp_path: Path) -> None:
    state, info = small_state(1)
    store = CheckpointStore(tmp_path)
    store.save(state, Progress(1), info)
    store.close()
    other = blank()
    store.restore(other)
    images = torch.randn(4, 1, 4, 4)
    for each in (state, other):
        each.model(images).square().sum().backward()
        each.optimizer.step()
    assert_bitwise_equal(tensors_of(other), tensors_of(state))


def test_before_the_first_step_there_is_no_optimizer_state_to_save(tmp_path: Path) -> None:
    state, info = small_state(1)
    state.optimizer = make_optimizer(state.model, OptimConfig())
    store = CheckpointStore(tmp_path)
    store.save(state, Progress(0), info)
    store.close()
    other = blank()
    other.optimizer = make_optimizer(other.model, OptimConfig())
    assert store.restore(other).step == 0
    assert_bitwise_equal(tensors_of(other), tensors_of(state))


def test_a_save_takes_the_weights_of_its_moment(tmp_path: Path) -> None:
    state, info = small_state(1)
    expected = {name: tensor.clone() for name, tensor in tensors_of(state).items()}
    store = CheckpointStore(tmp_path)
    store.save(state, Progress(1), info)
    for tensor in tensors_of(state).values():
        tensor.add_(1)
    store.close()
    other = blank()
    store.restore(other)
    assert_bitwise_equal(tensors_of(other), expected)


def test_a_checkpoint_is_a_model_package_with_the_averaged_weights(tmp_path: Path) -> None:
    state, info = small_state(1, ema=True)
    store = CheckpointStore(tmp_path)
    folder = store.save(state, Progress(1), info)
    store.close()
    model, read = load_package(folder)
    assert read == info
    assert state.ema is not None
    assert_bitwise_equal(dict(model.named_parameters()), state.ema)  # type: ignore[arg-type]
    assert sorted(p.name for p in Path(folder).iterdir()) == FILES


def test_nothing_saved_is_a_start_from_zero(tmp_path: Path) -> None:
    state = blank()
    before = {name: tensor.clone() for name, tensor in tensors_of(state).items()}
    assert CheckpointStore(tmp_path / "none").restore(state) == Progress()
    assert CheckpointStore(tmp_path / "none").newest() is None
    assert_bitwise_equal(tensors_of(state), before)


@pytest.fixture(scope="module")
def two_generations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    store = CheckpointStore(folder)
    for step in (10, 20):
        save(store, step, ema=True)
    store.close()
    return folder


@settings(max_examples=30)
@given(
    name=st.sampled_from(FILES),
    how=st.sampled_from(["flip", "cut", "remove", "empty", "append"]),
    where=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_any_damage_is_noticed_and_the_generation_before_is_taken(
    two_generations: Path, tmp_path_factory: pytest.TempPathFactory, name: str, how: str, where: float, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(two_generations, folder, dirs_exist_ok=True)
    newest = CheckpointStore(folder).newest()
    assert newest is not None
    file = newest / name
    content = bytearray(file.read_bytes())
    at = int(where * len(content))
    if how == "remove":
        file.unlink()
    else:
        if how == "flip":
            content[at] ^= 1 << bit
        damaged = {"flip": content, "cut": content[:at], "empty": b"", "append": content + b"\0"}[how]
        file.write_bytes(bytes(damaged))
    logging.disable(logging.WARNING)
    state = blank(ema=True)
    progress = CheckpointStore(folder).restore(state)
    logging.disable(logging.NOTSET)
    assert progress.step == 10
    assert_bitwise_equal(tensors_of(state), as_saved(progress.step))
    shutil.rmtree(folder)


def test_with_every_generation_damaged_training_starts_from_zero_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2):
        (save(store, step) / "optimizer.safetensors").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert store.restore(blank()) == Progress()
    assert caplog.text.count("going back to the one before") == 2
    assert "optimizer.safetensors: is damaged" in caplog.text


def test_a_folder_without_a_commit_is_ignored_and_later_swept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1)
    debris = tmp_path / "step-000000009-0123abcd"
    shutil.copytree(save(store, 2), debris)
    (debris / "commit.json").rename(debris / "commit.json.tmp")
    staged = tmp_path / ".step-000000009-0123abcd.x1y2z3" / "package"
    staged.mkdir(parents=True)
    (staged / "model.safetensors").write_bytes(b"half")
    foreign = [tmp_path / "notes.txt", tmp_path / "step-of-mine" / "x", tmp_path / ".hidden"]
    (tmp_path / "step-of-mine").mkdir()
    for file in foreign:
        file.write_text("mine")
    assert store.restore(blank()).step == 2
    assert store.newest() != debris
    save(store, 3)
    assert not debris.exists()
    assert not staged.parent.exists()
    assert all(file.read_text() == "mine" for file in foreign)


@pytest.mark.parametrize(("keep", "left"), [(1, [5]), (2, [4, 5]), (3, [3, 4, 5])])
def test_the_newest_are_kept(tmp_path: Path, keep: int, left: list[int]) -> None:
    store = CheckpointStore(tmp_path, keep_last=keep)
    for step in range(1, 6):
        save(store, step)
    assert steps(tmp_path) == left


def test_the_best_is_kept_beside_them(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2)
    for step, best_step in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 2)):
        save(store, step, best=0.5, best_step=best_step)
    assert steps(tmp_path) == [2, 4, 5]


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_checkpoint_does_not_push_out_those_saved_after_it_was_passed_over(tmp_path: Path, keep: int) -> None:
    store = CheckpointStore(tmp_path, keep_last=keep)
    save(store, 10)
    (save(store, 20) / "optimizer.safetensors").unlink()
    assert store.restore(blank()).step in (0, 10)
    for step in (12, 14):
        folder = save(store, step)
        assert store.newest() == folder
        assert store.restore(blank()).step == step


def test_the_same_step_saved_again_replaces_the_first(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1)
    first = save(store, 10)
    second = save(store, 10)
    assert second != first
    assert store.newest() == second
    assert not Path(first).exists()


def test_a_checkpoint_of_another_architecture_is_refused_with_a_reason(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1)
    with pytest.raises(CheckpointError, match=r"belongs to another model: .*(size mismatch|shape)") as caught:
        store.restore(small_state(embed_dim=16)[0])
    assert "give the run another name" in str(caught.value)


@pytest.mark.parametrize("saved_with", [False, True])
def test_a_checkpoint_with_and_one_without_averages_are_not_taken_for_each_other(
    tmp_path: Path, saved_with: bool
) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1, ema=saved_with)
    with pytest.raises(CheckpointError, match=r"averaged weights \(train\.ema\)"):
        store.restore(blank(ema=not saved_with))


def test_a_save_that_fails_is_told_and_raised_where_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    state, info = small_state()
    told: list[str] = []
    store = CheckpointStore(tmp_path / "file" / "run", tell=told.append)
    store.save(state, Progress(1), info)
    with pytest.raises(CheckpointError, match="the checkpoint of step 1 cannot be saved: Not a directory"):
        store.wait(patience_s=0.1)
    assert "training goes on, and it is tried again" in told[0]
    (tmp_path / "file").unlink()
    store.save(state, Progress(2), info)
    store.close()
    assert told[1:] == ["checkpoints are saved again"]
    assert store.restore(blank()).step == 2


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """SIGKILL, five times, each time somewhere else in a save: what is restored was wholly written."""
    chance, last = random.Random(0), 0
    for _ in range(5):
        heard, said = CONTEXT.Pipe(duplex=False)
        writer = CONTEXT.Process(target=write_checkpoints, args=(tmp_path, last + 1, said))
        writer.start()
        said.close()
        last = heard.recv()  # not before one is committed
        time.sleep(chance.uniform(0, 0.1))
        writer.kill()
        writer.join()
        with suppress(EOFError):
            while True:
                last = heard.recv()
        state = blank(ema=True)
        store = CheckpointStore(tmp_path)
        progress = store.restore(state)
        assert progress.step in (last, last + 1)  # committed, perhaps before it could be said
        assert_bitwise_equal(tensors_of(state), as_saved(progress.step))
        for folder in store.committed():
            verify(folder)
        last = progress.step
    assert last >= 5
    # The next save sweeps what the killed ones left, and keeps two and the best.
    save(store, last + 1, ema=True, best=0.5, best_step=last // 5 * 5)
    assert set(tmp_path.iterdir()) == {Path(saved) for saved in store.committed()}
    assert len(store.committed()) <= 3
