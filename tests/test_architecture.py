"""Imports only point down the ranks, and only the top of the package knows about Trainer and its settings."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "homodistil_hf"

# Lowest first. A module may import the modules of lower ranks, never one of its own rank or above; `x.*` stands for
# every module of the subpackage x. A new module fails `test_every_module_has_a_rank` until it is given its place.
RANKS: tuple[tuple[str, ...], ...] = (
    # Formulas, plain types and files; nothing of ours below.
    (
        "version",
        "widths",
        "modeling",
        "schedule",
        "guard",
        "losses",
        "attention",
        "projections",
        "durable",
        "stopping",
        "compiling",
        "origins",
        "evaluation.glue_metrics",
        "evaluation.squad_metrics",
    ),
    ("json_files", "hub_errors", "evaluation.metrics", "evaluation.settings"),
    ("advice", "checkpoint", "config_files", "weight_files"),
    ("evaluation.discrepancy_settings", "evaluation.squad_settings", "evaluation.glue_data"),
    ("evaluation.squad_features",),
    ("evaluation.squad_data", "evaluation.answers"),
    ("corpus", "packing", "collator", "sharing", "caches", "demo_text", "decoding", "baseline_losses"),
    # The stages of the method: tensors and plans in, tensors and plans out.
    ("structure", "cost", "passes", "tasks", "teacher", "registration", "tokenizer_files"),
    ("latency", "latency.timing", "latency.machine", "latency.onnx_graph", "latency.tables", "latency.layout"),
    ("latency.backends",),
    ("budgets", "sensitivity", "masks", "compaction", "recording", "optimizers", "evaluation.finetuning"),
    ("latency.parts", "latency.comparison"),
    ("latency.planning",),
    ("plans", "conversion", "depth", "pruning", "distillation", "discrepancy", "data", "rotation"),
    # Folders on disk.
    ("stored_state",),
    ("facts", "run_state", "snapshot_plans"),
    ("card", "outcome"),
    ("hub",),
    ("hub_checkpoints",),
    ("export",),
    ("verify", "run_folder", "report"),
    ("evaluation.models",),
    ("evaluation.records", "evaluation.publication"),
    ("evaluation.task_runs",),
    ("evaluation.glue", "evaluation.squad", "evaluation.discrepancy", "evaluation.comparison"),
    ("evaluation.command",),
    # Who reads settings and puts the stages together.
    ("training_args", "resumable"),
    ("ranks",),
    ("resolution",),
    ("preparation", "from_settings", "measuring", "run_config"),
    ("exporting", "accounting"),
    ("snapshots",),
    ("pushing",),
    ("trainer",),
    ("planned",),
    ("fewer_layers",),
    ("methods.*",),
    ("registry",),
    ("launch",),
    ("sweep", "sweep.cells", "sweep.locks"),
    ("sweep.reading", "sweep.records", "sweep.checks", "sweep.evaluations"),
    ("sweep.training", "sweep.statistics", "sweep.twins"),
    ("sweep.worker", "sweep.tables"),
    ("sweep.plots",),
    ("sweep.running",),
    ("evaluation",),
    ("bench", "bench.course", "bench.gates", "bench.limits", "bench.reference", "bench.settings", "bench.tables"),
    ("bench.arms", "bench.profiles", "bench.totals"),
    ("bench.speed", "bench.chart", "bench.growth"),
    ("demo_teacher",),
    ("demo",),
    ("commands", "commands.parsing"),
    (
        "commands.bench",
        "commands.demo",
        "commands.distill",
        "commands.evaluate",
        "commands.export",
        "commands.plan",
        "commands.push",
        "commands.sweep",
    ),
    ("cli",),
    ("__main__",),
)

SETTINGS_READERS = (
    "training_args",
    "resolution",
    "preparation",
    "from_settings",
    "run_config",
    "trainer",
    "planned",
    "fewer_layers",
    "methods.*",
    "launch",
    "sweep.*",
    "bench.*",
    "demo",
    "commands.*",
    "cli",
)
TRAINER_USERS = (
    *SETTINGS_READERS,
    "resumable",
    "ranks",
    "measuring",
    "accounting",
    "exporting",
    "pushing",
    "demo_teacher",
    "evaluation.finetuning",
)
TRAINER_MODULES = ("transformers.trainer", "transformers.training_args", "transformers.hf_argparser")
TRAINER_NAMES = ("Trainer", "TrainerCallback", "TrainingArguments", "HfArgumentParser")

# Travels inside compact exports, where the rest of the package is absent.
SELF_CONTAINED = {
    "modeling": ("torch", "transformers", "collections", "contextlib", "dataclasses", "functools", "typing", "math")
}


def module_name(path: Path) -> str:
    """`homodistil_hf/methods/one_shot.py` → `methods.one_shot`; a package is named after its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = [name for name in SOURCES if name]
SUBPACKAGES = {name for name, path in SOURCES.items() if name and path.name == "__init__.py"}


def matches(module: str, pattern: str) -> bool:
    subpackage = pattern.removesuffix(".*")
    return module == subpackage or (pattern.endswith(".*") and module.startswith(f"{subpackage}."))


def matches_any(module: str, patterns: tuple[str, ...]) -> bool:
    return any(matches(module, pattern) for pattern in patterns)


def rank_of(module: str) -> int:
    ranks = [rank for rank, patterns in enumerate(RANKS) if matches_any(module, patterns)]
    assert len(ranks) == 1, f"{module} has {len(ranks)} ranks in RANKS, not one"
    return ranks[0]


def imports_of(source: str, *, package: str) -> Iterator[tuple[str, str]]:
    """Every (module, name) that a file of `package` imports, lazy and relative ones included."""
    parts = package.split(".")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*base, node.module] if node.module else base)
            yield from ((module, alias.name) for alias in node.names)


@cache
def imported_by(module: str) -> tuple[tuple[str, str], ...]:
    path = SOURCES[module]
    package = ".".join(("homodistil_hf", *path.relative_to(PACKAGE).parts[:-1]))
    return tuple(imports_of(path.read_text(encoding="utf-8"), package=package))


def own_module(module: str, name: str) -> str | None:
    """The module of this package that an import reaches, None for somebody else's."""
    if module.split(".")[0] != "homodistil_hf":
        return None
    below = module.removeprefix("homodistil_hf").removeprefix(".")
    submodule = f"{below}.{name}".removeprefix(".")
    return submodule if submodule in SOURCES else below


def own_imports(module: str) -> set[str]:
    reached = (own_module(*found) for found in imported_by(module))
    return {name for name in reached if name is not None}


@pytest.mark.parametrize(
    ("source", "reached"),
    [
        ("from .masks import full_masks", "masks"),
        ("from . import masks", "masks"),
        ("from homodistil_hf import masks", "masks"),
        ("import homodistil_hf.masks", "masks"),
        ("from homodistil_hf import full_masks", ""),
        ("def f():\n    if f:\n        from .masks import full_masks", "masks"),
        ("from torch import nn", None),
        ("from homodistil_hfx import masks", None),
    ],
)
def test_every_way_to_import_is_seen(source, reached):
    assert [own_module(*found) for found in imports_of(source, package="homodistil_hf")] == [reached]


def test_imports_of_a_subpackage_climb_one_level():
    found = list(imports_of("from ..masks import full_masks", package="homodistil_hf.methods"))
    assert found == [("homodistil_hf.masks", "full_masks")]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_rank(module):
    assert rank_of(module) >= 0


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    for imported in own_imports(module):
        assert imported != "", f"{module} imports from homodistil_hf itself, which imports everybody"
        if imported in SUBPACKAGES and module.startswith(f"{imported}."):
            continue  # a subpackage's own __init__
        assert rank_of(imported) < rank_of(module), f"{module} imports {imported}, which does not stand below it"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("methods.")])
def test_methods_never_import_each_other(module):
    assert {name for name in own_imports(module) if name.startswith("methods.")} == set()


@pytest.mark.parametrize("module", [name for name in MODULES if not matches_any(name, SETTINGS_READERS)])
def test_stages_read_no_settings(module):
    assert "training_args" not in own_imports(module)


@pytest.mark.parametrize("module", [name for name in MODULES if not matches_any(name, TRAINER_USERS)])
def test_stages_know_nothing_of_trainer(module):
    for imported, name in imported_by(module):
        assert not imported.startswith(TRAINER_MODULES), f"{module} imports {imported}"
        assert not (imported.startswith("transformers") and name in TRAINER_NAMES), f"{module} imports {name}"


@pytest.mark.parametrize(("module", "allowed"), SELF_CONTAINED.items())
def test_travelling_files_are_self_contained(module, allowed):
    roots = {imported.split(".")[0] for imported, _ in imported_by(module)}
    assert roots - set(allowed) == set()


def test_no_catch_all_modules():
    assert {"utils", "common", "helpers"} & {part for module in MODULES for part in module.split(".")} == set()
