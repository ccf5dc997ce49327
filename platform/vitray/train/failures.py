"""Why an experiment failed, in one of few classes, and in a form that every process can unpickle."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path

import ray
import torch

from vitray.errors import CodeError, LostWorkersError, OutOfMemoryError, TrainingError, VitrayError
from vitray.train.messages import Job
from vitray.train.ranks import Ranks

_SMALLER = "raise train.accumulate, lower train.global_batch, or choose a smaller model"
# torch has a class of its own for a GPU's allocator alone.
_NO_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "std::bad_alloc",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory left: the GPU's, or this process's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _NO_MEMORY)


def portable(error: Exception, job: Job, ranks: Ranks) -> VitrayError:
    """What is told of an error. The traceback of a surprise is kept in the run's folder."""
    if isinstance(error, VitrayError):
        return error
    where = f"rank {ranks.rank}"
    if out_of_memory(error):
        return OutOfMemoryError(f"out of memory: {first_line(error)}", where=where, remedy=_SMALLER)
    trace = Path(job.run_dir) / f"error-rank{ranks.rank}.txt"
    trace.parent.mkdir(parents=True, exist_ok=True)
    trace.write_text("".join(traceback.format_exception(error)))
    return CodeError(f"{type(error).__name__}: {error}", where=where, remedy=f"traceback: {trace}")


def lost_workers(errors: Mapping[int, BaseException]) -> TrainingError:
    """What is told of ranks that died, by what Ray Train knows of each.

    One that Ray killed because its node ran out of memory is a case for smaller micro-batches, not for the same again.
    """
    ranks = ", ".join(map(str, sorted(errors)))
    # Ray Train wraps what it got when it asked a dead rank how it is.
    causes = [getattr(error, "health_check_failure", error) for error in errors.values()]
    for cause in causes:
        if isinstance(cause, ray.exceptions.OutOfMemoryError):
            return OutOfMemoryError(
                f"its node ran out of memory: {first_line(cause)}", where=f"rank {ranks}", remedy=_SMALLER
            )
    reason = first_line(next(iter(errors.values()), None))
    return LostWorkersError(f"lost rank {ranks}: {reason}")


def group_ended(error: BaseException | None) -> LostWorkersError:
    """What is told of a worker group that Ray Train has given up."""
    cause: object = getattr(error, "controller_failure", error)
    cause = getattr(cause, "cause", None) or cause
    why = f": {first_line(cause)}" if isinstance(cause, BaseException) else ""
    return LostWorkersError(
        f"the worker group has ended{why}",
        remedy="vitray doctor says whether something is wrong with the machines; the run goes on with --resume",
    )


def first_line(error: BaseException | None) -> str:
    """What an error says, in a line."""
    if error is None:
        return "no reason given"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
