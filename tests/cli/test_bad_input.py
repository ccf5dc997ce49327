"""Bad input that needs no cluster: one clear message, exit code 2, at once, and nothing half-written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from command_line import Here, apart, contents

from vitray.cluster.local import Cluster
from vitray.cluster.machine import Machine
from vitray.errors import ResourceError
from vitray.tracking import NoTracker


def _no_cluster(address: str | None = None) -> None:
    raise AssertionError("a cluster was to be started")


@pytest.fixture
def folder(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project: a good config beside its data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls: cls(cpus=4, gpus=0)))
    for starter in ("launch", "sweeps"):
        monkeypatch.setattr(f"vitray.cluster.{starter}.connect", _no_cluster)
    (tmp_path / "ds").symlink_to(digits)
    (tmp_path / "good.yaml").write_text(
        "data: {path: ds}\nmodel: {patch_size: 2, embed_dim: 32, num_heads: 4, depth: 1}\ncluster: {use_gpu: false}\n"
        "search: {space: {model.depth: [1, 2]}}\n"
    )
    (tmp_path / "broken.yaml").write_text("data: {path: ds\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "typo.yaml").write_text("data: {path: ds}\nmodle: {depth: 2}\n")
    (tmp_path / "lost.yaml").write_text("data: {path: nowhere}\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    return tmp_path


_CONDITION = "search.space={model.depth: [1, 2], optim.lr: {values: [0.001, 0.002], when: model.depth == 2}}"
BAD = [
    (("train", "none.yaml"), "none.yaml: there is no such config file"),
    (("train", "ds"), "there is no such config file"),
    (("train", "picture.png"), "is not a text file"),
    (("train", "broken.yaml"), "is not valid YAML"),
    (("train", "list.yaml"), "must be a mapping of sections"),
    (("train", "typo.yaml"), "did you mean 'model'?"),
    (("train", "lost.yaml"), "there is no such dataset folder"),
    (("train",), "give one, or --resume NAME"),
    (("train", "good.yaml", "model.dept=3"), "did you mean 'model.depth'"),
    (("train", "good.yaml", "modle.depth=3"), "did you mean 'model'?"),
    (("train", "good.yaml", "model.depth"), "write section.key=value"),
    (("train", "good.yaml", "model.depth=0"), "model.depth: input should be greater than 0, got 0"),
    (("train", "good.yaml", "model.depth=six"), "model.depth"),
    (("train", "good.yaml", "model.patch_size=3"), "does not divide image_size 8; nearest that do: 2 or 4"),
    (("train", "good.yaml", "model.num_heads=5"), "does not divide embed_dim 32; nearest that do: 4 or 8"),
    (("train", "good.yaml", "model.num_heads=16", "model.pos_encoding=rope_2d"), "num_heads that fit: 1, 2, 4, 8"),
    (("train", "good.yaml", "model.embed_dim=30", "model.num_heads=3", "model.pos_encoding=sinusoidal_2d"), "24 or 36"),
    (("train", "good.yaml", "model.pos_encoding=rope"), "'rope_2d'"),
    (("train", "good.yaml", "model.in_chans=3"), "model.in_chans: is 3, but the data has 1"),
    (("train", "good.yaml", "cluster.workers=9"), "9 workers need 9 CPUs, but the cluster has 4"),
    (("train", "good.yaml", "cluster.workers=[4,2]"), "min <= max"),
    (("train", "good.yaml", "cluster.use_gpu=true"), "set cluster.use_gpu=false"),
    (("train", "good.yaml", "data.path=builtin:digit"), "builtin:digits"),
    (("train", "good.yaml", "data.path=good.yaml"), "is a file, not a dataset folder"),
    (("train", "good.yaml", "data.path=nope://x"), "nope://x"),
    (("train", "good.yaml", "train.init_from=nowhere"), "there are no such weights"),
    (("train", "good.yaml", "name=a/b"), "name"),
    (("train", "--resume", "nobody"), "there is no run named 'nobody'"),
    (("train", "--resume", "mine", "train.epochs=9"), "a run goes on as it was begun"),
    (("sweep", "plan", "none.yaml"), "there is no such config file"),
    (("sweep", "plan", "good.yaml", "search.space={model.patch_size: [3]}"), "holds no valid point"),
    (("sweep", "run", "good.yaml", "search.space={model.patch_size: [3]}"), "holds no valid point"),
    (("sweep", "run", "good.yaml", "search.space={model.deep: [3]}"), "did you mean 'model.depth'"),
    (("sweep", "run", "good.yaml", "search.metric=val/acc"), "'val/accuracy'"),
    (("sweep", "run", "good.yaml", "search.concurrent=5"), "set search.concurrent=4 or auto"),
    (("sweep", "run", "good.yaml", "search=null"), "has no space to search"),
    (("sweep", "run", "good.yaml", "search.space={}"), "search.space"),
    (("sweep", "run", "good.yaml", "search.space={model.depth: [2]}"), "vitray train CONFIG model.depth=2"),
    (("sweep", "run", "good.yaml", "search.trails=4"), "did you mean 'search.trials'"),
    (("sweep", "run", "good.yaml", "search.scheduler=pbt"), "model.depth cannot"),
    (
        ("sweep", "run", "good.yaml", "search.algorithm=nsga2", "search.scheduler=none", _CONDITION),
        "optim.lr has a condition",
    ),
    (("sweep", "run", "good.yaml", "search.from=nobody"), "there is no sweep named 'nobody'"),
    (("sweep", "resume", "nobody"), "there is no sweep named 'nobody'"),
    (("sweep", "report", "nobody"), "there is no sweep named 'nobody'"),
    (("evaluate", "nowhere", "ds"), "nowhere: there is no such folder"),
    (("evaluate", "ds", "ds"), "is not a model"),
    (("evaluate", "models:/nobody@champion", "ds"), "there is no model 'nobody'"),
    (("predict", "models:/nobody@champion", "picture.png"), "there is no model 'nobody'"),
]


@pytest.mark.parametrize(("words", "says"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_one_message_and_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    before = contents(folder)
    said = Here(capsys)(*words)
    assert said.code == 2
    assert said.out == ""
    assert says in said.err
    assert said.err.count("error: ") == 1
    assert "Traceback" not in said.err
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("train", "good.yaml", "model.num_heads=5"), "error: model: num_heads 5 does not divide embed_dim 32"),
        (("train", "good.yaml", "model.patch_size=3"), "error: model: patch_size 3 does not divide image_size 8"),
        (("sweep", "run", "good.yaml", "search.space={model.patch_size: [3]}"), "holds no valid point"),
        (("train", "good.yaml", "cluster.workers=4096"), "4096 workers need 4096 CPUs"),
    ],
)
def test_the_message_comes_at_once_before_anything_heavy_is_imported(
    folder: Path, words: tuple[str, ...], says: str
) -> None:
    before = contents(folder)
    apart("--version", cwd=folder)  # so that only the next command's time is counted
    said = apart(*words, cwd=folder)
    assert said.code == 2
    assert says in said.err
    assert "Traceback" not in said.err
    assert said.cpu_s < 2
    assert contents(folder) == before


@pytest.mark.parametrize("how", ["manifest", "shard", "missing", "cut"])
def test_a_damaged_dataset_is_named_with_the_file(
    folder: Path, digits: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    shutil.copytree(digits, folder / "bad")
    shard, manifest = folder / "bad" / "val" / "00000.parquet", folder / "bad" / "manifest.json"
    if how == "manifest":
        manifest.write_text(manifest.read_text().replace('"7"', '"seven"', 1))
    elif how == "missing":
        shard.unlink()
    else:
        content = shard.read_bytes()
        shard.write_bytes(content[:-10] if how == "cut" else content[:-10] + b"0123456789")
    said = Here(capsys)("train", "good.yaml", "data.path=bad")
    assert said.code == 2
    assert ("manifest.json" if how == "manifest" else "val/00000.parquet") in said.err
    assert "Traceback" not in said.err


def test_bits_that_only_a_full_check_finds_are_found_when_it_is_asked_for(
    folder: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(digits, folder / "bad")
    shard = folder / "bad" / "train" / "00000.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    said = Here(capsys)("sweep", "plan", "good.yaml", "data.path=bad", "data.verify=full")
    assert said.code == 2
    assert "train/00000.parquet: its bytes changed" in said.err
    assert Here(capsys)("sweep", "plan", "good.yaml", "data.path=ds", "data.verify=full").code == 0


def test_a_taken_name_is_refused_before_anything_starts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "home" / "runs" / "mine").mkdir(parents=True)
    (folder / "home" / "runs" / "mine" / "experiment.yaml").touch()
    said = Here(capsys)("train", "good.yaml", "name=mine")
    assert said.code == 2
    assert "a run named 'mine' exists already" in said.err
    assert "go on with --resume mine" in said.err
    said = Here(capsys)("sweep", "run", "good.yaml", "name=mine")
    assert said.code == 2
    assert "go on with it: vitray sweep resume mine; or choose another with name=" in said.err


@pytest.mark.parametrize("verb", [("train",), ("sweep", "run")])
@pytest.mark.parametrize("answers", [True, False])
def test_a_cluster_that_is_too_small_or_silent_costs_no_name(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    verb: tuple[str, ...],
    answers: bool,
) -> None:
    @contextmanager
    def cluster(address: str | None = None) -> Iterator[Cluster]:
        if not answers:
            raise ResourceError("no Ray cluster answers", where=str(address))
        yield Cluster(str(address), cpus=2.0, gpus=0.0, node_cpus=2.0)

    for module in ("launch", "sweeps"):
        monkeypatch.setattr(f"vitray.cluster.{module}.connect", cluster)
        monkeypatch.setattr(f"vitray.cluster.{module}.check_answers", lambda address: None)
        monkeypatch.setattr(f"vitray.cluster.{module}.tracking", lambda *_, **__: nullcontext(NoTracker()))
    for _ in range(2):
        said = Here(capsys)(*verb, "good.yaml", "name=mine", "cluster.workers=3", "--address", "host:6379")
        assert said.code == 2
        assert ("3 workers need 3 CPUs" if answers else "host:6379: no Ray cluster answers") in said.err
    assert not (folder / "home" / "runs" / "mine").exists()
