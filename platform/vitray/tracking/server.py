"""The few things the uploader asks of MLflow, each safe to ask again, and its errors sorted by what helps."""

from __future__ import annotations

import contextlib
import getpass
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vitray.tracking.denial import denial, status_of
from vitray.tracking.mlflow_client import connect, is_server
from vitray.tracking.tracker import Point

RUN_TAG, PARENT_TAG = "vitray.run", "vitray.parent"
PARAM_LIMIT, TAG_LIMIT, DIGEST_LIMIT = 6000, 8000, 36  # characters of one value
_TERMINAL = ("FINISHED", "FAILED", "KILLED")
T = TypeVar("T")


class UnavailableError(Exception):
    """No answer, or an answer that time may change: keep everything and try again later."""


class DeniedError(UnavailableError):
    """Who we are, or what we may do, is not enough. While a training runs that is like no answer: people can mend it.

    At the start it is refused: :mod:`vitray.tracking.access`. The cause is MLflow's own error.
    """


class RunGoneError(Exception):
    """The server does not know this run (any more): it came back empty, or from an older backup."""


class RefusedError(Exception):
    """The server understood and said no; asking again in the same words is pointless."""


class Server:
    """One MLflow store. Connects on first use; every method may raise the errors above."""

    def __init__(self, tracking_uri: str, artifact_root: Path) -> None:
        self.tracking_uri, self._artifact_root = tracking_uri, artifact_root
        self._client: Any = None
        self._experiments: dict[str, str] = {}
        self._runs: dict[str, str] = {}

    def _ask(self, question: Callable[[Any], T]) -> T:
        """``question(client)``, with whatever goes wrong sorted into the errors above."""
        try:
            if self._client is None:
                self._client = connect(self.tracking_uri, self._artifact_root)
            return question(self._client)
        except Exception as error:
            code = getattr(error, "error_code", "")
            status = status_of(error)
            if said := denial(self.tracking_uri, error):
                raise DeniedError(f"{said.what}; {said.remedy}") from error
            if code == "RESOURCE_DOES_NOT_EXIST":
                raise RunGoneError(str(error)) from error
            if code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS") or status in (
                400,
                413,
                422,
            ):
                raise RefusedError(str(error)) from error
            raise UnavailableError(str(error) or type(error).__name__) from error

    def _ask_of(self, run_id: str, question: Callable[[Any], T]) -> T:
        """:meth:`_ask` about a run: a server with users says "forbidden" also of a run that it does not know."""
        try:
            return self._ask(question)
        except DeniedError as error:
            if not self._is_known(run_id):
                raise RunGoneError(f"no run {run_id}") from error
            raise

    def _is_known(self, run_id: str) -> bool:
        from mlflow.entities import ViewType

        where = [e.experiment_id for e in self._ask(lambda client: client.search_experiments(view_type=ViewType.ALL))]
        return bool(
            where
            and self._ask(
                lambda client: client.search_runs(
                    where, f"attributes.run_id = '{run_id}'", run_view_type=ViewType.ALL, max_results=1
                )
            )
        )

    def forget(self) -> None:
        """Drop what was looked up: the server may have come back with nothing of it."""
        self._experiments.clear()
        self._runs.clear()

    def experiment_id(self, name: str) -> str:
        """The experiment with this name, created when it is new, revived when it was deleted."""
        if name not in self._experiments:
            found = self._ask(lambda client: client.get_experiment_by_name(name))
            if found is None:
                location = None if is_server(self.tracking_uri) else (self._artifact_root / _slug(name)).as_uri()
                with contextlib.suppress(RefusedError):  # another process may create it in this very moment
                    self._ask(lambda client: client.create_experiment(name, artifact_location=location))
                found = self._ask(lambda client: client.get_experiment_by_name(name))
                if found is None:
                    raise UnavailableError(f"experiment {name!r} was created and is not there")
            if found.lifecycle_stage != "active":
                self._ask(lambda client: client.restore_experiment(found.experiment_id))
            self._experiments[name] = found.experiment_id
        return self._experiments[name]

    def tag_experiment(self, name: str, key: str, value: str) -> None:
        """A harmless write to an experiment."""
        experiment = self.experiment_id(name)
        self._ask(lambda client: client.set_experiment_tag(experiment, key, value))

    def tag_model(self, name: str, key: str, value: str) -> None:
        """A harmless write to a registered model, where there is one."""
        if self._ask(lambda client: client.search_registered_models(f"name = '{name}'")):
            self._ask(lambda client: client.set_registered_model_tag(name, key, value))

    def find_run(self, run: str, experiment: str) -> Any | None:
        """The one MLflow run that carries this key, or None.

        A create that timed out here may still have succeeded there. So when there are several, the one with data
        (then the first by id, for every process the same) stays, and empty twins are deleted.
        """
        question = f"tags.`{RUN_TAG}` = '{run}'"  # a run key holds no quotes
        where = [self.experiment_id(experiment)]
        found = list(self._ask(lambda client: client.search_runs(where, filter_string=question, max_results=100)))
        if not found:
            return None
        found.sort(key=lambda r: (not r.data.metrics, not r.data.params, r.info.run_id))
        for twin in found[1:]:
            if not twin.data.metrics:
                self._delete_run(twin.info.run_id)
        self._runs[run] = found[0].info.run_id
        return found[0]

    def was_deleted(self, run: str, experiment: str) -> bool:
        """Whether there are runs with this key, and all of them were deleted by a person."""
        from mlflow.entities import ViewType

        question, where = f"tags.`{RUN_TAG}` = '{run}'", [self.experiment_id(experiment)]
        found = self._ask(
            lambda client: client.search_runs(
                where, filter_string=question, run_view_type=ViewType.ALL, max_results=100
            )
        )
        return bool(found) and all(one.info.lifecycle_stage == "deleted" for one in found)

    def _delete_run(self, run_id: str) -> None:
        self._ask(lambda client: client.delete_run(run_id))

    def run_id(self, run: str, experiment: str) -> str | None:
        """The MLflow id behind a key; None when the server has no such run."""
        if run not in self._runs:
            self.find_run(run, experiment)
        return self._runs.get(run)

    def ensure_run(self, run: str, start: Mapping[str, Any], *, known: bool = False) -> tuple[str, dict[str, int]]:
        """Find or create the run that a start record describes, and bring it up to date.

        Returns its id and the highest step it has of every metric. ``known``: it was sent here before, and so it is
        gone where it is not found (:class:`RunGoneError`), unless a person deleted it.
        """
        experiment = start["experiment"]
        tags = {RUN_TAG: run, "mlflow.user": _user(), "mlflow.source.name": "vitray", "mlflow.source.type": "LOCAL"}
        if parent := start.get("parent"):
            tags[PARENT_TAG] = parent
            if parent_id := self.run_id(parent, experiment):
                tags["mlflow.parentRunId"] = parent_id
        found = self.find_run(run, experiment)
        if found is None:
            if known and not self.was_deleted(run, experiment):
                raise RunGoneError(f"no run {run!r}")
            where = self.experiment_id(experiment)
            self._ask(
                lambda client: client.create_run(
                    where, start_time=start["timestamp_ms"], tags=tags, run_name=start["name"]
                )
            )
            found = self.find_run(run, experiment)  # not the answer itself: a lost first request may have made a twin
            if found is None:
                raise UnavailableError(f"run {run!r} was created and is not there")
        run_id: str = found.info.run_id
        if found.info.status in _TERMINAL and not start.get("late"):
            self._ask(lambda client: client.update_run(run_id, status="RUNNING"))
        there = found.data.params
        self.log(
            run_id, tags={**tags, **start["tags"]}, params=[p for p in start["params"].items() if p[0] not in there]
        )
        return run_id, {metric.key: metric.step for metric in found.data.to_proto().metrics}

    def log(
        self,
        run_id: str,
        *,
        points: Iterable[Point] = (),
        params: Iterable[tuple[str, Any]] = (),
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        """One ``log_batch`` (which cuts itself to the server's limits). Replays of the same points add nothing."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(p.key, p.value, p.timestamp_ms, p.step) for p in points]
        self._ask_of(
            run_id,
            lambda client: client.log_batch(
                run_id,
                metrics=metrics,
                params=[Param(key, _cut(str(value), PARAM_LIMIT)) for key, value in params],
                tags=[RunTag(key, _cut(str(value), TAG_LIMIT)) for key, value in (tags or {}).items()],
            ),
        )

    def log_input(self, run_id: str, dataset: Mapping[str, Any]) -> None:
        """Show a :class:`~vitray.tracking.tracker.DatasetInput` as the run's input. MLflow keeps one of a digest."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        columns = [{"name": name, "type": kind, "required": True} for name, kind in dataset["columns"]]
        shown = Dataset(
            name=dataset["name"],
            digest=dataset["fingerprint"][:DIGEST_LIMIT],
            source_type="vitray",
            source=json.dumps({"uri": dataset["source"], "fingerprint": dataset["fingerprint"]}),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps(dataset["facts"]),
        )
        context = [InputTag(MLFLOW_DATASET_CONTEXT, dataset["context"])]
        self._ask_of(run_id, lambda client: client.log_inputs(run_id, [DatasetInput(shown, context)]))

    def log_artifact(self, run_id: str, path: str, folder: str) -> None:
        """Upload a file, or a directory under its own name; uploading again replaces it by the same."""
        if not Path(path).exists():
            raise RefusedError(f"{path} is gone")
        self._ask_of(run_id, lambda client: client.log_artifact(run_id, path, folder or None))

    def end_run(self, run_id: str, status: str, end_time_ms: int) -> None:
        """Give the run its terminal status and its end time (Unix milliseconds)."""
        self._ask_of(run_id, lambda client: client.set_terminated(run_id, status=status, end_time=end_time_ms))

    def is_deleted(self, run_id: str) -> bool:
        """True when somebody deleted the run in MLflow."""
        return bool(self._ask_of(run_id, lambda client: client.get_run(run_id)).info.lifecycle_stage == "deleted")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)[:100].strip(".") or "experiment"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a passwd entry
        return "unknown"
