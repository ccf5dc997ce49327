"""Checkpoints that lie elsewhere: in an object store, in another folder."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from bad_network import BadNetwork, first
from s3_server import KEY, SECRET, Bucket
from small_runs import assert_bitwise_equal, restored, small_experiment, small_state, tensors_of, train

from vitray.errors import CheckpointError, ConfigError
from vitray.models.package import load_package
from vitray.tracking.registry import download
from vitray.train import patience
from vitray.train.adopt import adopt
from vitray.train.checkpoint import CheckpointStore, Progress
from vitray.train.checkpoint_place import check_place, has_checkpoints, place_of, take_place
from vitray.train.fetched import fetched


def test_a_run_has_a_folder_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "sweep" / "trials" / "trial-0001"
    assert place_of(run) == str(run / "checkpoints")
    assert take_place(run, None) == str(run / "checkpoints")
    taken = take_place(run, "s3://user:secret@bucket/prefix/?region=here")
    assert taken.startswith("s3://user:secret@bucket/prefix/sweep/trials/trial-0001-")
    assert taken.endswith("?region=here")
    assert take_place(run, "s3://other/place") == taken == place_of(run), "what was said when it began counts"
    assert (run / "checkpoints.uri").stat().st_mode & 0o777 == 0o600, "there is a key in it"
    assert take_place(tmp_path / "runs" / "other", str(tmp_path / "disk")).startswith(f"{tmp_path}/disk/other-")


def test_a_place_that_cannot_be_written_is_one_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"train.checkpoints: .*/file/x cannot be written: Not a directory"):
        check_place(str(tmp_path / "file" / "x"))
    with pytest.raises(ConfigError, match=r"train.checkpoints: .*Unrecognized filesystem type"):
        check_place("nowhere://bucket/x")
    check_place(str(tmp_path / "new"))
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_too_and_its_key_is_not_shown(s3_port: int) -> None:
    uri = Bucket(s3_port, "no-such-bucket").uri("runs")
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        check_place(uri)
    assert SECRET not in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.slow
def test_a_training_into_a_bucket_is_the_same_to_the_bit_and_its_model_is_read_from_there(
    digits: Path, tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small_experiment(digits, train__epochs=3)
    train(experiment, tmp_path / "local")
    run = tmp_path / "runs" / "far"
    place = take_place(run, bucket.uri("checkpoints"))
    check_place(bucket.uri("checkpoints"))
    train(experiment, place, stop_at_epoch=2)
    reports = train(experiment, place)
    assert [report.epoch for report in reports] == [2, 3]
    there, here = restored(place, experiment), restored(tmp_path / "local", experiment)
    assert there[0].step == here[0].step
    assert_bitwise_equal(there[1], here[1])
    assert has_checkpoints(run)
    newest = CheckpointStore(place).newest()
    assert newest is not None
    assert SECRET not in str(reports[-1].checkpoint)
    package = fetched(newest, tmp_path / "cache")
    model, _ = load_package(package)
    wanted = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    assert_bitwise_equal(wanted, {name: here[1][name] for name in wanted})
    assert fetched(newest, tmp_path / "cache") == package, "once"
    with pytest.raises(CheckpointError, match="is not on this machine"):
        os.fspath(newest)
    monkeypatch.setenv("VITRAY_HOME", str(tmp_path / "home"))
    path, _, options = place.partition("?")
    assert (download(f"{path}/{newest.name}?{options}") / "model.safetensors").is_file()


@pytest.mark.slow
def test_from_one_bucket_to_another_folder_a_checkpoint_is_adopted(tmp_path: Path, bucket: Bucket) -> None:
    state, info = small_state(3)
    store = CheckpointStore(bucket.uri("donor"))
    store.save(state, Progress(20, best=0.9, best_step=20), info)
    store.close()
    for into in (tmp_path / "receiver", bucket.uri("receiver")):
        mine = CheckpointStore(into)
        mine.save(small_state(1)[0], Progress(30), info)
        mine.close()
        adopt(bucket.uri("donor"), into, 20)
        other, _ = small_state(9)
        assert CheckpointStore(into).restore(other).step == 20, "though it had been past that"
        assert_bitwise_equal(tensors_of(other), tensors_of(state))


@pytest.mark.slow
def test_of_checkpoints_that_are_removed_nothing_stays_in_a_bucket(bucket: Bucket) -> None:
    """Not even an empty object, of which every later save would have to be told."""
    store = CheckpointStore(bucket.uri("run"), keep_last=2)
    state, info = small_state(3)
    for step in (10, 20, 30, 40):
        store.save(state, Progress(step), info)
        store.wait()
    store.close()
    found = bucket.filesystem().get_file_info(pafs.FileSelector(f"{bucket.name}/run"))
    assert sorted(one.base_name for one in found) == sorted(one.at.text for one in store.committed())


@pytest.mark.slow
def test_storage_that_fails_for_a_while_is_asked_again_and_one_that_stays_away_is_an_error(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a start from zero: what cannot be read now may be whole."""
    monkeypatch.setattr(patience, "FIRST_S", 0.05)
    monkeypatch.setattr(patience, "READ_S", 1.0)
    state, info = small_state(3)
    with BadNetwork(bucket.port).running() as network:
        place = bucket.uri("run").replace(str(bucket.port), network.uri.rpartition(":")[2])
        told: list[str] = []
        store = CheckpointStore(place, tell=told.append)
        network.rule = first(7, "PUT", 500)
        store.save(state, Progress(20), info)
        store.wait()
        assert network.spoilt == 7
        network.rule = first(7, "GET", 503)
        assert CheckpointStore(place).restore(small_state(9)[0]).step == 20
        network.rule = lambda method, path: 503
        with pytest.raises(CheckpointError, match="cannot be reached"):
            CheckpointStore(place).begin(small_state(9)[0])
        store.save(state, Progress(30), info)
        with pytest.raises(CheckpointError, match="the checkpoint of step 30 cannot be saved"):
            store.wait(patience_s=0.1)
        assert any("training goes on, and it is tried again" in text for text in told)
        network.rule = lambda method, path: "pass"
        store.close()


def test_an_empty_pointer_is_none(tmp_path: Path) -> None:
    """A power cut in the midst of it: nothing was saved yet."""
    (tmp_path / "checkpoints.uri").touch()
    assert place_of(tmp_path) == str(tmp_path / "checkpoints")
    place = take_place(tmp_path, "s3://bucket/place")
    assert place.startswith("s3://bucket/place/")
    assert place_of(tmp_path) == place
    assert (tmp_path / "checkpoints.uri").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints.uri"]
