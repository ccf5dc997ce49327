"""The strongest sweep over digits that one would write by hand: Optuna, tensors in memory, two trials at a time.

    python optuna_digits.py WORK FOLDER threads|processes

No cluster, stream, checkpoint or tracking: what is lost when it stops is lost. Threads share one process
(``n_jobs=2``); processes are forked when torch and the data are loaded, and share their study through a journal.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import torch
from digits_steps import TRAIN_IMAGES, Training, padded, shifted

from vitray.data import ShardedImages
from vitray.experiment import Experiment

Data = dict[str, tuple[torch.Tensor, torch.Tensor]]


def load(experiment: Experiment) -> Data:
    """Images, padded for the shift in training, and labels of both splits."""
    data, splits = ShardedImages.open(experiment.data.path), {}
    for split, shift in (("train", experiment.data.augment.shift), ("val", 0)):
        (batch,) = data.batches(split, global_batch=10_000, shuffle=False)
        splits[split] = (padded(batch.image, shift), torch.tensor(batch.label))
    return splits


def train(
    experiment: Experiment, data: Data, stamp: Path, prunes: Callable[[int, float], bool]
) -> tuple[int, float, bool]:
    """Train one point; (epochs, last validation accuracy, whether it was pruned)."""
    (images, labels), (held, answers) = data["train"], data["val"]
    assert len(labels) == TRAIN_IMAGES
    batch, shift = experiment.train.global_batch, experiment.data.augment.shift
    training = Training(experiment, -(-len(labels) // batch), stamp)
    accuracy = 0.0
    for epoch in range(1, experiment.train.epochs + 1):
        for rows in torch.randperm(len(labels)).split(batch):
            training.step(shifted(images, rows, shift), labels[rows])
        accuracy = training.right(held.unsqueeze(1), answers) / len(answers)
        if prunes(epoch, accuracy):
            return epoch, accuracy, True
    return experiment.train.epochs, accuracy, False


def main() -> None:
    work, folder, way = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), sys.argv[3]
    base = Experiment(**work["experiment"])
    experiments = [base.with_values(point) for point in work["points"]]
    torch.set_num_threads(1)  # before anything is computed: a fork would inherit threads that are not there
    data, stamp = load(base), folder / "first_step"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    results: list[tuple[int, float]] = []

    def run(trial: optuna.Trial, index: int) -> tuple[float, bool]:
        def prunes(epoch: int, accuracy: float) -> bool:
            trial.report(accuracy, epoch)
            return trial.should_prune()

        epochs, accuracy, pruned = train(experiments[index], data, stamp, prunes)
        results.append((epochs, accuracy))
        return accuracy, pruned

    if way == "threads":

        def objective(trial: optuna.Trial) -> float:
            accuracy, pruned = run(trial, trial.number)
            if pruned:
                raise optuna.TrialPruned
            return accuracy

        study = _study(work, None)
        study.optimize(objective, n_trials=len(experiments), n_jobs=work["at_once"])
    else:
        storage = str(folder / "journal.log")
        study = _study(work, storage)  # made before anyone shares it
        fork = multiprocessing.get_context("fork")
        turn, said = fork.Value("i", 0), fork.SimpleQueue()

        def worker() -> None:
            mine = _study(work, storage)
            while True:
                with turn.get_lock():
                    index, turn.value = turn.value, turn.value + 1
                if index >= len(experiments):
                    break
                trial = mine.ask()
                accuracy, pruned = run(trial, index)
                state = optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.COMPLETE
                mine.tell(trial, None if pruned else accuracy, state)
            said.put(results)

        processes = [fork.Process(target=worker) for _ in range(work["at_once"])]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            if process.exitcode:
                raise SystemExit("a process failed")
        results += [pair for _ in processes for pair in said.get()]
    ended = time.time()
    said_at_end: dict[str, Any] = {
        "first_step": float(stamp.read_text()),
        "ended": ended,
        "epochs": sum(epochs for epochs, _ in results),
        "best": max(accuracy for _, accuracy in results),
    }
    (folder / "result.json").write_text(json.dumps(said_at_end))


def _study(work: dict[str, Any], journal: str | None) -> optuna.Study:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return optuna.create_study(
        study_name="digits",
        direction="maximize",
        storage=JournalStorage(JournalFileBackend(journal)) if journal else None,
        pruner=optuna.pruners.SuccessiveHalvingPruner(
            min_resource=work["grace_epochs"], reduction_factor=work["reduction_factor"]
        ),
        load_if_exists=True,
    )


if __name__ == "__main__":
    main()
