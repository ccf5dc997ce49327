"""Row 4: bit flips in checkpoints, files cut short, and files that are gone."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from checkpoint_writers import fill, step_of
from injections import injections, record
from small_runs import small_experiment, small_state, train

from vitray.train import checkpoint
from vitray.train.checkpoint import CheckpointStore, Progress, TrainState

_GENERATIONS = (10, 20)


@pytest.fixture
def generations(tmp_path: Path) -> Path:
    folder = tmp_path / "whole"
    store = CheckpointStore(folder)
    state, info = small_state(embed_dim=64, ema=True)
    for step in _GENERATIONS:
        fill(state, step)
        store.save(state, Progress(step), info)
        store.wait()
    store.close()
    return folder


def damage(file: Path, how: str, chance: random.Random) -> None:
    if how == "gone":
        file.unlink()
        return
    content = bytearray(file.read_bytes())
    at = chance.randrange(len(content))
    if how == "flip":
        content[at] ^= 1 << chance.randrange(8)
    file.write_bytes(bytes(content if how == "flip" else content[:at]))


def test_all_damage_is_noticed_before_a_weight_is_loaded(
    generations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading is watched: of the damaged generation it gets nothing, not even to refuse it."""
    loaded: list[float] = []
    load = checkpoint.load_state

    def watched(state: TrainState, files: dict[str, torch.Tensor], where: str) -> None:
        load(state, files, where)
        loaded.append(step_of(state))

    monkeypatch.setattr(checkpoint, "load_state", watched)
    chance, state = random.Random(4), small_state(embed_dim=64, ema=True)[0]
    noticed: Counter[str] = Counter()
    missed: list[str] = []
    hit: set[str] = set()
    counts = {"flip": injections(whole=100, few=7), "cut": injections(whole=30, few=6), "gone": 6}
    for how, count in counts.items():
        for number in range(count):
            folder = tmp_path / f"{how}-{number}"
            shutil.copytree(generations, folder)
            newest = CheckpointStore(folder).newest()
            assert newest is not None
            files = sorted(Path(newest).iterdir())
            file = files[number % len(files)]
            damage(file, how, chance)
            hit.add(file.name)
            told: list[str] = []
            loaded.clear()
            step = CheckpointStore(folder, tell=told.append).begin(state).step
            said = [text for text in told if newest.name in text and "going back to the one before" in text]
            if step == _GENERATIONS[0] and loaded == [step] and len(said) == 1:
                noticed[how] += 1
            else:
                missed.append(f"{how} of {file.name}: step {step}, loaded {loaded}, {told}")
            shutil.rmtree(folder)
    total = sum(counts.values())
    outcome = f"{sum(noticed.values())} of {total} noticed before a weight was loaded ({counts['flip']} bit flips, "
    outcome += f"{counts['cut']} truncations, {counts['gone']} missing files, over all {len(hit)} files); each went on "
    outcome += "from the generation before"
    record(4, outcome, held=not missed, **counts, noticed=sum(noticed.values()))
    assert missed == []
    assert len(hit) == 6


def test_a_training_says_that_it_goes_back_a_generation(digits: Path, tmp_path: Path) -> None:
    experiment = small_experiment(digits, train__epochs=3)
    train(experiment, tmp_path / "run", stop_at_epoch=2)
    newest, before = CheckpointStore(tmp_path / "run").committed()
    damage(newest / "optimizer.safetensors", "flip", random.Random(44))
    notes: list[str] = []
    reports = train(experiment, tmp_path / "run", notes=notes)
    assert [report.epoch for report in reports] == [1, 2, 3], "the first is said again"
    assert len(notes) == 1
    assert "optimizer.safetensors: is damaged" in notes[0]
    assert newest.name in notes[0]
    straight = tmp_path / "straight"
    train(experiment, straight)
    ends = [CheckpointStore(folder).newest() for folder in (tmp_path / "run", straight)]
    states = [end / "model.safetensors" for end in ends if end is not None]
    assert states[0].read_bytes() == states[1].read_bytes(), "and ends with the same bits"
    assert before.step == reports[0].step
