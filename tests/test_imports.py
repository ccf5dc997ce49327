"""Who may import whom, read from the sources, and what really gets loaded, seen in a fresh process."""

from __future__ import annotations

import ast
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "platform" / "vitray"
FILES = sorted(PACKAGE.rglob("*.py"))
# Anyone may use these.
LEAVES = {
    "errors",
    "masking",
    "home",
    "environment",
    "files",
    "experiment",
    "model_config",
    "model_size",
    "augment_config",
    "search_config",
    "config_base",
    "overrides",
}

# cli, jobs -> cluster, inference, tune -> train -> data, models, tracking -> experiment, errors.
_TRAIN = {"train", "data", "models", "tracking"}
MAY_IMPORT = {
    "errors": set(),
    "masking": set(),
    "home": set(),
    "environment": set(),
    "files": set(),
    "config_base": {"errors"},
    "augment_config": {"config_base"},
    "search_config": {"config_base"},
    "model_config": {"config_base", "errors"},
    "model_size": {"model_config"},
    "overrides": {"config_base", "errors"},
    "experiment": {"augment_config", "config_base", "model_config", "search_config", "overrides", "errors"},
    "data": LEAVES,
    "models": LEAVES,
    "tracking": LEAVES | {"data"},  # the input example of a registered model is encoded as data are
    "plots": {"models"},  # figures only: data in, figure out
    "train": LEAVES | _TRAIN,
    "inference": LEAVES | _TRAIN,
    "tune": LEAVES | _TRAIN | {"inference", "plots"},
    "cluster": LEAVES | _TRAIN | {"inference", "tune"},
    "cli": LEAVES | _TRAIN | {"inference", "tune", "plots", "cluster"},
}
HEAVY = ("torch", "torchvision", "ray", "mlflow", "pandas", "pyarrow", "numpy", "cv2", "sklearn", "matplotlib")


def part(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def imports(file: Path, *, at_run_time_only: bool = False) -> tuple[str, ...]:
    """Dotted names that a file imports anywhere in it, `from a import b` as `a.b`."""

    def walk(node: ast.AST) -> Iterator[str]:
        if at_run_time_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    return tuple(walk(ast.parse(file.read_text())))


def users_of(module: str) -> list[str]:
    return [
        file.relative_to(PACKAGE).as_posix()
        for file in FILES
        if any(name == module or name.startswith(f"{module}.") for name in imports(file))
    ]


def test_every_part_of_the_package_has_its_place() -> None:
    assert {part(file) for file in FILES} - {"__init__"} == set(MAY_IMPORT)


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_imports_run_one_way(name: str) -> None:
    for file in FILES:
        if part(file) == name:
            used = {n.split(".")[1] for n in imports(file) if n.startswith("vitray.")} - {"__version__", name}
            assert used <= MAY_IMPORT[name], f"{file.relative_to(ROOT)} imports {sorted(used - MAY_IMPORT[name])}"


def test_the_parts_below_training_do_not_know_each_other_in_a_circle() -> None:
    for a in MAY_IMPORT:
        for b in MAY_IMPORT[a]:
            assert a == b or a not in MAY_IMPORT[b] or {a, b} == {"experiment", "overrides"}


def test_within_tune_only_promote_uses_inference() -> None:
    users = [u for u in users_of("vitray.inference") if u.startswith("tune/")]
    assert users == ["tune/promote.py", "tune/promote_champion.py", "tune/promote_pictures.py"]


def test_ray_tune_is_imported_in_tune_alone() -> None:
    users = users_of("ray.tune")
    assert users
    assert all(user.startswith("tune/") for user in users)


def test_mlflow_is_imported_in_tracking_and_in_its_model_flavour_alone() -> None:
    users = users_of("mlflow")
    assert users
    assert [u for u in users if not u.startswith("tracking/") and u != "inference/mlflow_model.py"] == []


def test_ray_is_unknown_to_models_order_experiment_loop_and_tracking() -> None:
    users = users_of("ray")
    assert [u for u in users if u.startswith(("models/", "tracking/", "plots/", "inference/"))] == []
    for file in ("data/order.py", "data/unit.py", "experiment.py", "train/loop.py", "train/mailbox.py"):
        assert file not in users


def test_job_scripts_only_hand_over_to_the_command_line() -> None:
    scripts = sorted((ROOT / "jobs").glob("*.py"))
    assert [script.stem for script in scripts] == ["predict", "prepare", "sweep", "train"]
    for script in scripts:
        assert len(script.read_text().splitlines()) < 60
        assert {name.rpartition(".")[0] for name in imports(script)} <= {"vitray.cli", "vitray.cluster", "__future__"}


def test_the_source_root_is_no_package() -> None:
    assert not (PACKAGE.parent / "__init__.py").exists(), "it would shadow the standard library's platform"


def loaded_by(*modules: str) -> list[set[str]]:
    """Top-level names in sys.modules of a fresh process, after each of some imports made one after the other."""
    code = (
        "import importlib, json, sys\n"
        f"for names in {modules!r}:\n"
        "    for name in names.split():\n"
        "        importlib.import_module(name)\n"
        "    print(json.dumps([m for m in sys.modules if '.' not in m]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [set(json.loads(line)) for line in done.stdout.splitlines()]


def test_configs_and_commands_load_nothing_big_then_the_order_then_the_stream() -> None:
    after_configs, after_order, after_data, after_plan = loaded_by(
        "vitray.experiment vitray.overrides vitray.home vitray.cli",
        "vitray.data.order",
        "vitray.data.unit vitray.data.images",
        "vitray.cluster.launch vitray.tune.plan vitray.tune.state",
    )
    assert after_configs & set(HEAVY) == set()
    assert after_order & set(HEAVY) == {"numpy"}
    assert after_data & set(HEAVY) == {"numpy", "pyarrow", "cv2"}
    # What a sweep's plan and a refused training need: seconds would pass before the message otherwise.
    assert after_plan & set(HEAVY) == {"numpy", "pyarrow", "cv2"}


@pytest.mark.slow
def test_models_and_the_training_loop_know_neither_ray_nor_mlflow() -> None:
    after_models, after_loop = loaded_by("vitray.models", "vitray.train.loop vitray.train.mailbox")
    assert after_models & {"ray", "mlflow", "pandas", "pyarrow", "cv2", "sklearn", "matplotlib"} == set()
    assert after_loop & {"ray", "mlflow", "pandas", "sklearn", "matplotlib"} == set()


@pytest.mark.slow
def test_a_data_task_imports_no_torch() -> None:
    """The pipeline's own imports are ray, pyarrow, numpy and the unit: a task unpickles a plan and calls read_unit."""
    ours = {n for n in imports(PACKAGE / "data/pipeline.py", at_run_time_only=True) if n.startswith("vitray.")}
    modules = sorted({name.rpartition(".")[0] for name in ours})
    assert "vitray.data.unit" in modules
    assert "torch" not in loaded_by(" ".join(modules))[0]


def test_help_is_instant_and_imports_nothing_big() -> None:
    code = (
        "import sys\nfrom vitray.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.startswith("Usage:")
    assert "quickstart" in done.stdout
    assert done.stderr.strip() == "[]"
    # Processor time, since the tests share the machine: 0.4 s is what a person may wait.
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 0.4
