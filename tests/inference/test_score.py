"""Scores against scikit-learn's, at any image size, every sample once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, brier_score_loss, confusion_matrix, log_loss, top_k_accuracy_score

from vitray.data.images import ShardedImages
from vitray.errors import DataError
from vitray.experiment import ModelConfig
from vitray.inference.score import score_package
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo, save_package

pytestmark = pytest.mark.slow
CLASSES = np.arange(10)


@pytest.fixture(scope="module")
def data(digits: Path) -> ShardedImages:
    return ShardedImages.open(str(digits))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, data: ShardedImages) -> Path:
    """An untrained model of the digits, whose answers differ from image to image."""
    torch.manual_seed(0)
    config = ModelConfig(
        image_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=16, depth=2, num_heads=2,
        pos_encoding="learned",
    )  # fmt: skip
    model = VisionTransformer(config)
    for weight in (model.head.weight, model.patch_embed.proj.weight):
        torch.nn.init.normal_(weight, std=1.5)
    info = PackageInfo(
        model=config, classes=data.classes, mean=(0.3,), std=(0.4,), dataset_fingerprint=data.fingerprint
    )
    return save_package(tmp_path_factory.mktemp("model") / "package", model.state_dict(), info)


@pytest.mark.parametrize(("size", "batch"), [(None, 256), ((12, 16), 100)])
def test_scores_are_sklearns(package: Path, data: ShardedImages, size: tuple[int, int] | None, batch: int) -> None:
    score = score_package(package, data, "test", size=size, batch=batch, keep_probabilities=True)
    assert sorted(score.rows.tolist()) == list(range(data.num_samples("test")))
    assert score.labels.tolist() == data.store.labels("test")[score.rows].tolist()
    assert (score.size, score.left_out) == (size or (8, 8), 0)
    p, answers = score.probabilities, score.answers
    assert p is not None
    assert answers is not None
    assert (p.dtype, p.shape) == (np.float32, (score.samples, 10))
    assert len(set(score.predicted.tolist())) > 1
    exact = p.astype(np.float64) / p.sum(axis=1, dtype=np.float64, keepdims=True)
    labels = score.labels
    assert score.accuracy == accuracy_score(labels, score.predicted)
    assert np.array_equal(score.confusion, confusion_matrix(labels, score.predicted, labels=CLASSES))
    assert answers.nll == pytest.approx(log_loss(labels, exact, labels=CLASSES), rel=1e-5)
    assert answers.brier_score == pytest.approx(
        brier_score_loss(labels, exact, labels=CLASSES, scale_by_half=False), rel=1e-5
    )
    for k in (1, 2, 5, 9):
        expected = top_k_accuracy_score(labels, exact, k=k, labels=CLASSES) if k > 1 else score.accuracy
        assert answers.top_k_accuracy(k) == pytest.approx(expected)
    assert answers.top_k_accuracy(10) == 1
    assert np.allclose(answers.confidence, p.max(axis=1), atol=1e-6)
    assert score.reliability is not None
    assert score.reliability.mean_accuracy == pytest.approx(score.accuracy)


def test_classes_and_mistakes_are_those_of_the_confusion(package: Path, data: ShardedImages) -> None:
    score = score_package(package, data, "val+test")
    assert score.samples == data.num_samples("val") + data.num_samples("test")
    assert score.probabilities is None
    assert sum(found.samples for found in score.by_class.values()) == score.samples
    assert sum(found.correct for found in score.by_class.values()) == round(score.accuracy * score.samples)
    for name, found in score.by_class.items():
        low, high = found.interval
        assert found.accuracy == score.per_class[name]
        assert -1e-9 <= low - 1e-9 <= found.accuracy <= high + 1e-9 <= 1 + 1e-9
    pairs = score.confused(1000)
    assert sum(count for *_, count in pairs) == round((1 - score.accuracy) * score.samples)
    assert [count for *_, count in pairs] == sorted((count for *_, count in pairs), reverse=True)
    assert all(true != predicted for true, predicted, _ in pairs)
    assert score.confused(2) == pairs[:2]


def test_another_size_gives_other_answers_and_one_that_does_not_fit_is_refused(
    package: Path, data: ShardedImages
) -> None:
    own, larger = (score_package(package, data, "val", size=size) for size in (None, (16, 16)))
    assert own.rows.tolist() == larger.rows.tolist()
    assert (own.predicted != larger.predicted).any()
    with pytest.raises(DataError, match="size 9x15: cannot be cut into patches of 2 pixels") as error:
        score_package(package, data, "val", size=(9, 15))
    assert "for one 8x16; the model was made for 8x8" in str(error.value)
    with pytest.raises(DataError, match="has no split 'tset'"):
        score_package(package, data, "tset")


def test_a_model_of_other_classes_is_refused(gray: Path, data: ShardedImages) -> None:
    with pytest.raises(DataError, match="5 classes, 1 channels"):
        score_package(gray, data, "test")
