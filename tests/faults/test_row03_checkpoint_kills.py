"""Row 3: SIGKILL at random moments inside checkpoint writing."""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from bad_network import BadNetwork
from checkpoint_writers import fill, go_on_and_save, progress_of, step_of
from injections import injections, record
from other_processes import CONTEXT
from s3_server import Bucket
from small_runs import small_state

from vitray.train.checkpoint import CheckpointStore, verify
from vitray.train.checkpoint_names import History
from vitray.train.checkpoint_place import opened

pytestmark = pytest.mark.slow


def killed_writer(place: str, after_s: float, *, saves: int = 0) -> tuple[int, int]:
    """Start a writer, and kill it so many seconds after it is ready, or has saved so often.

    The step it went on from (0: it did not get so far, -1: weights of another), and that of its last commit (or 0).
    """
    heard, said = CONTEXT.Pipe(duplex=False)
    writer = CONTEXT.Process(target=go_on_and_save, args=(place, said))
    writer.start()
    said.close()
    words = [heard.recv()]
    while sum(what == "saved" for what, _ in words) < saves:
        words.append(heard.recv())
    time.sleep(after_s)
    writer.kill()
    writer.join()
    with suppress(EOFError):
        while True:
            words.append(heard.recv())
    heard.close()
    begun = [step for what, step in words if what == "goes on"]
    return (begun[0] if begun else 0), max(step for what, step in words if what != "goes on")


def resumed(place: str) -> int:
    """The step from which one goes on now: -1 where the weights are not those of that step."""
    state, _ = small_state(embed_dim=64, ema=True)
    step = CheckpointStore(place).restore(state).step
    return step if not step or step_of(state) == step else -1


def test_whatever_moment_it_is_the_newest_complete_one_is_gone_on_from(tmp_path: Path) -> None:
    kills, chance, place = injections(whole=100, few=3), random.Random(3), str(tmp_path / "checkpoints")
    good, last, at = 0, 0, Counter[str]()
    for _ in range(kills):
        begun, saved = killed_writer(place, chance.uniform(0, 0.25))
        saved = max(last, saved)
        history = History.of(opened(place))
        at["with a checkpoint half written" if history.begun else "elsewhere"] += 1
        found = resumed(place)
        good += begun in (0, last) and found in (saved, saved + 1)  # committed, perhaps before it could be said
        last = max(last, found)
    state, info = small_state(embed_dim=64, ema=True)
    store = CheckpointStore(place)
    step = store.begin(state).step
    fill(state, step + 1)
    store.save(state, progress_of(step + 1), info)
    store.close()
    left = {path.name for path in Path(place).iterdir()} - {saved.name for saved in store.committed()}
    stray = {name for name in left if "-from-" not in name}
    for checkpoint in store.committed():
        verify(checkpoint)
    kept = len(store.committed())
    hit = at["with a checkpoint half written"]
    outcome = (
        f"{good} of {kills} went on from the newest complete checkpoint ({hit} were killed with one half written); "
    )
    outcome += f"after the next save {len(stray)} stray files"
    record(3, outcome, held=good == kills and not stray, kills=kills, good=good, half_written=hit, stray=len(stray))
    assert (good, stray) == (kills, set())
    assert kept <= 3
    assert hit >= kills // 4, at


def test_on_an_object_store_too_and_where_it_fails_and_is_slow(bucket: Bucket) -> None:
    kills, chance = injections(whole=10, few=1), random.Random(33)
    with BadNetwork(bucket.port).running() as network:
        place = bucket.uri("runs/one").replace(str(bucket.port), network.uri.rpartition(":")[2])
        failures = random.Random(333)
        # One in ten requests fails, half of the others are slow, so that most kills are in mid-upload.
        network.rule = lambda method, path: (
            500 if failures.random() < 0.1 else 0.02 if failures.random() < 0.5 else "pass"
        )
        good = last = half = 0
        for _ in range(kills):
            begun, saved = killed_writer(place, chance.uniform(0, 1.5), saves=1)
            saved = max(last, saved)
            half += bool(History.of(opened(place)).begun)
            found = resumed(place)
            good += begun in (0, last) and found in (saved, saved + 1)
            last = max(last, found)
        network.rule = lambda method, path: "pass"
        state, info = small_state(embed_dim=64, ema=True)
        store = CheckpointStore(place)
        step = store.begin(state).step
        fill(state, step + 1)
        store.save(state, progress_of(step + 1), info)
        store.close()
        committed = {saved.name for saved in store.committed()}
        stray = {name for name in bucket.files("runs/one") if name.partition("/")[0] not in committed}
        stray = {name for name in stray if "-from-" not in name}
        outcome = f"S3: {good} of {kills} ({half} with one half uploaded), with {network.spoilt} requests of "
        outcome += f"{len(network.forwarded) + network.spoilt} failed or slow; {len(stray)} stray objects"
        record(3, outcome, held=good == kills and not stray, kills=kills, good=good, spoilt=network.spoilt)
        assert (good, stray) == (kills, set())
        assert network.spoilt
        assert last > 0
