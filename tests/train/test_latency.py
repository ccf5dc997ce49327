"""Latency is measured where a sweep weighs it, once, and leaves the model as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_runs import restored, small_experiment, train

from vitray.experiment import Experiment
from vitray.models import VisionTransformer
from vitray.train.latency import latency_ms


def searching(experiment: Experiment, *objectives: str) -> Experiment:
    search = {"space": {"model.depth": [1, 2]}, "algorithm": "nsga2", "objectives": objectives}
    return Experiment(**{**experiment.model_dump(), "search": search})


@pytest.mark.slow
def test_the_last_report_of_a_run_carries_it_and_nothing_else_changes(digits: Path, tmp_path: Path) -> None:
    experiment = small_experiment(digits)
    weighed = train(searching(experiment, "val/accuracy", "latency_ms"), tmp_path / "weighed")
    assert ["latency_ms" in report.metrics for report in weighed] == [False, True]
    assert weighed[-1].metrics["latency_ms"] > 0
    for objectives in (("val/accuracy", "gflops"), None):
        plain = searching(experiment, *objectives) if objectives else experiment
        reports = train(plain, tmp_path / str(objectives))
        assert not any("latency_ms" in report.metrics for report in reports)
        one, other = restored(tmp_path / "weighed", experiment), restored(tmp_path / str(objectives), experiment)
        assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])


def test_it_is_that_of_one_image_as_evaluation_sees_it() -> None:
    experiment = Experiment(
        data={"path": "x"},
        model={"image_size": (8, 4), "patch_size": 4, "in_chans": 3, "num_classes": 10, "embed_dim": 12, "depth": 1},
    )
    model = VisionTransformer(experiment.model).train()
    seen: list[tuple[torch.Size, torch.dtype, bool, bool]] = []

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        image = inputs[0]
        seen.append((image.shape, image.dtype, module.training, torch.is_inference_mode_enabled()))

    model.register_forward_pre_hook(look)
    assert latency_ms(model, experiment, torch.device("cpu")) > 0
    assert set(seen) == {(torch.Size((1, 3, 8, 4)), torch.float32, False, True)}
    assert model.training
