"""``vitray jobs submit``: train, sweep, prepare and predict, with the words that they take here, on a cluster."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from vitray.cli.jobs_follow import Looking, cluster_option, follow_to_end
from vitray.cli.output import emit, note, output_option
from vitray.errors import ConfigError
from vitray.masking import masked

if TYPE_CHECKING:
    from vitray.cluster.job_request import Request, Target
    from vitray.cluster.jobs import Submitted


@dataclass(frozen=True)
class _Kind:
    """``paths``: its options that are paths or URIs, beside its positional words."""

    module: str
    attribute: str
    words: tuple[str, ...]
    help: str
    paths: tuple[str, ...] = ()


_KINDS = {
    "train": _Kind("train", "train", ("train",), "Train the experiment in CONFIG, or go on with one."),
    "sweep": _Kind("sweep", "run", ("sweep", "run"), "Run the sweep in CONFIG, or go on with one."),
    "prepare": _Kind("data", "prepare", ("data", "prepare"), "Turn the images of SOURCE into the dataset DEST."),
    "predict": _Kind("predict", "predict", ("predict",), "Score the images of SOURCE... into a file.", ("to",)),
}
_NOT_SENT = ("address", "output", "insecure", "executor", "resume", "config", "overrides")
_STOP_S = 120
_SENT_AS = {"home": "VITRAY_HOME", "tracking_uri": "MLFLOW_TRACKING_URI"}


class _Kinds(click.Group):
    """One command a kind, which takes the options of the command that it submits, and those of a submission."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_KINDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _KINDS:
            return None
        kind = _KINDS[cmd_name]
        command = getattr(importlib.import_module(f"vitray.cli.{kind.module}"), kind.attribute)
        theirs = [param for param in command.params if param.name not in _NOT_SENT]
        return _command(cmd_name, kind, theirs)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, kind.help) for name, kind in _KINDS.items()])


def _command(name: str, kind: _Kind, theirs: list[click.Parameter]) -> click.Command:
    @click.pass_context
    def run(ctx: click.Context, **options: Any) -> None:
        _submit(name, ctx, theirs, options)

    for option in reversed(_options(trains=name in ("train", "sweep"))):
        run = option(run)
    command = click.command(name, help=_text(name, kind))(run)
    first = [param for param in [*theirs, *command.params] if isinstance(param, click.Argument)]
    command.params = [*first, *(param for param in [*theirs, *command.params] if param not in first)]
    return command


def _text(name: str, kind: _Kind) -> str:
    about = "--resume NAME goes on with a run of the cluster that was stopped, failed or lost its cluster.\n\n"
    return (
        f"{kind.help}\n\nThis is `vitray {' '.join(kind.words)}` as a job of the Ray cluster at --address, and takes "
        "the same words. The vitray that is installed here is sent along.\n\n"
        f"{about if name in ('train', 'sweep') else ''}"
        "Paths must be such as all machines of the cluster see."
    )


def _options(*, trains: bool) -> list[Any]:
    shared = [
        click.option("--follow", is_flag=True, help="Print its log until it ends, and exit with its code."),
        click.option("--home", metavar="PATH", help="State folder there.  [default: the cluster's VITRAY_HOME]"),
        click.option(
            "--tracking-uri", metavar="URI", help="MLflow server.  [default: MLFLOW_TRACKING_URI, here or there]"
        ),
        click.option("--env", "variables", multiple=True, metavar="NAME[=VALUE]", help="For the job; no secrets."),
        click.option(
            "--stop-s",
            default=_STOP_S,
            show_default=True,
            type=click.IntRange(min=1),
            metavar="SECONDS",
            help="Time for its checkpoint when it is stopped.",
        ),
        click.option("--installed", is_flag=True, help="Run the cluster's own vitray, and send none."),
        cluster_option,
        output_option,
    ]
    if not trains:
        return [click.option("--name", metavar="NAME", help="Of the job.  [default: the last word]"), *shared]
    return [
        click.argument("config", type=click.Path(), required=False),
        click.argument("overrides", nargs=-1, metavar="[section.key=value ...]"),
        click.option("--resume", metavar="NAME", help="Go on with an earlier run of the cluster, or a job by its id."),
        click.option("--name", metavar="NAME", help="Of the job and its run.  [default: the config's]"),
        click.option(
            "--worker-gpus", type=click.IntRange(min=0), metavar="N", help="N workers with a GPU each; 0: on CPUs."
        ),
        *shared,
    ]


@click.group(cls=_Kinds)
def submit() -> None:
    """Submit a command to the Ray cluster at --address, RAY_API_SERVER_ADDRESS or RAY_ADDRESS."""


def _submit(kind: str, ctx: click.Context, theirs: Sequence[click.Parameter], own: dict[str, Any]) -> None:
    from vitray.cluster import job_memory
    from vitray.cluster.job_client import find_dashboard
    from vitray.cluster.job_request import Target
    from vitray.cluster.job_secrets import parse_variables
    from vitray.cluster.job_state import HOME_ELSE, state_notes, state_variables
    from vitray.cluster.jobs import OPTIONS, find, submit
    from vitray.train.provenance import of_repository

    target = Target.of(find_dashboard(own["address"]), note)
    if kind in ("train", "sweep"):
        request = _training(kind, target, own, [word for _, words in _given(ctx, theirs) for word in words])
    else:
        request = _command_of(kind, target, own, ctx, theirs)
    state = state_variables(here=target.here, home=own["home"], tracking_uri=own["tracking_uri"], stop_s=own["stop_s"])
    variables = parse_variables(own["variables"])
    request.variables = {**variables, **state}
    request.metadata = {key: masked(value) for key, value in of_repository(Path.cwd()).items()}
    if options := _further(own, {**variables, **state}):
        request.metadata[OPTIONS] = options
    home = state.get(_SENT_AS["home"]) or state.get(HOME_ELSE)
    done = submit(target.dashboard, request, installed=own["installed"], seen_home=home if target.here else None)
    if resumed := own.get("resume"):
        job_memory.goes_on(target.dashboard, kind, resumed)
    for line in [*target.notes, *request.notes, *state_notes(state)]:
        note(line)
    looking = Looking(target.dashboard, own["address"])
    text = _said(done, looking)
    if own["follow"]:
        note(text)
        ctx.exit(follow_to_end(looking, find(target.dashboard, done.id)))
    facts = {
        "id": done.id,
        "kind": kind,
        "name": request.name,
        "address": target.dashboard.url,
        "sent": [{"what": p.what, "bytes": len(p.body), "uri": p.uri, "new": new} for p, new in done.sent],
        "next": looking.commands(done.id),
    }
    emit(facts, own["output"], table=lambda: text)


def _further(own: dict[str, Any], sent: dict[str, str]) -> str:
    """The options that whoever goes on with this job has to give again, with the values that were sent."""
    words = [
        word for flag, name in _SENT_AS.items() if own[flag] for word in (f"--{flag.replace('_', '-')}", sent[name])
    ]
    for name in dict.fromkeys(word.partition("=")[0] for word in own["variables"]):
        words += ["--env", f"{name}={sent[name]}"]
    words += ["--stop-s", str(own["stop_s"])] if own["stop_s"] != _STOP_S else []
    return shlex.join([*words, *(["--installed"] if own["installed"] else [])])


def _training(kind: str, target: Target, own: dict[str, Any], flags: list[str]) -> Request:
    from vitray.cluster.job_memory import name_of
    from vitray.cluster.job_request import training

    config, overrides, resume = own["config"], list(own["overrides"]), own["resume"]
    if resume is not None and config is not None and "=" in config:  # there is no config, and this is an override
        config, overrides = None, [config, *overrides]
    if config is None and resume is None:
        raise ConfigError(
            "needs a config file", where=f"vitray jobs submit {kind}", remedy="give one, or --resume NAME"
        )
    if resume is not None and own["name"]:
        raise ConfigError("a run that goes on keeps its name", where=f"--name {own['name']}", remedy="leave it out")
    if own["name"]:
        overrides.append(f"name={own['name']}")
    if (gpus := own["worker_gpus"]) is not None:
        overrides += [f"cluster.workers={gpus}", "cluster.use_gpu=true"] if gpus else ["cluster.use_gpu=false"]
    name = name_of(resume) if resume else None
    return training(kind, target, config, overrides, resume=resume, name=name, flags=flags)


def _command_of(
    kind: str, target: Target, own: dict[str, Any], ctx: click.Context, theirs: Sequence[click.Parameter]
) -> Request:
    from vitray.cluster.job_request import command

    if kind == "predict" and not ctx.params.get("to"):
        raise click.UsageError("a job writes its answers to a file: --to FILE", ctx)
    pieces: list[tuple[str | None, str]] = [(None, word) for word in _KINDS[kind].words]
    last = kind
    for param, words in sorted(_given(ctx, theirs), key=lambda pair: isinstance(pair[0], click.Argument)):
        is_path = isinstance(param, click.Argument) or param.name in _KINDS[kind].paths
        what = param.human_readable_name if isinstance(param, click.Argument) else words[0]
        pieces += [(what if is_path and word != what else None, word) for word in words]
        last = Path(words[-1].rstrip("/")).name.partition("?")[0] if isinstance(param, click.Argument) else last
    return command(kind, target, pieces, own["name"] or last)


def _given(ctx: click.Context, params: Sequence[click.Parameter]) -> Iterator[tuple[click.Parameter, list[str]]]:
    """What was typed of these parameters, as the words that say the same."""
    for param in params:
        if param.name is None or ctx.get_parameter_source(param.name) is not ParameterSource.COMMANDLINE:
            continue
        value = ctx.params[param.name]
        if isinstance(param, click.Option):
            yield param, [param.opts[0], *([] if param.is_flag else [_word(value)])]
        else:
            yield param, [str(one) for one in (value if isinstance(value, tuple) else (value,))]


def _word(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _said(done: Submitted, looking: Looking) -> str:
    sent = [p.describe() + ("" if new else ", there already") for p, new in done.sent]
    lines = [f"job {done.id}", *(f"sent: {each}" for each in sent), "next:"]
    return "\n".join([*lines, *(f"  {command}" for command in looking.commands(done.id).values())])
