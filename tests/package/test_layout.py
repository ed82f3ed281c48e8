"""What the import contract (`.importlinter`) can't say: files that travel, Trainer by its own name, no catch-alls."""

import ast
from collections.abc import Iterator
from pathlib import Path

from rows import each

PACKAGE = Path(__file__).parents[2] / "homodistil_hf"
STAGES = ("files", "models", "data", "plans", "distillation", "pruning", "export")

# They travel inside compact exports, where the rest of the package is absent.
TRAVELLING = sorted((PACKAGE / "models" / "architectures").glob("modeling_*.py"))
STANDARD = {"collections", "contextlib", "copy", "dataclasses", "functools", "typing", "math"}


def imports_of(source: str) -> Iterator[tuple[str, str]]:
    """Every (module, name) that a file imports, lazy ones included; relative ones begin with a dot."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((module, alias.name) for alias in node.names)


@each("file", TRAVELLING)
def test_travelling_files_import_each_other_alone(file):
    modules = {module for module, _ in imports_of(file.read_text(encoding="utf-8"))}
    beside = {f".{other.stem}" for other in TRAVELLING}
    assert {module.split(".")[0] for module in modules - beside} <= {"torch", "transformers", *STANDARD}


@each("folder", STAGES)
def test_stages_know_nothing_of_trainer(folder):
    for path in (PACKAGE / folder).rglob("*.py"):
        for module, name in imports_of(path.read_text(encoding="utf-8")):
            assert not module.startswith(("transformers.train", "transformers.hf_argparser")), path
            assert name not in ("Trainer", "TrainerCallback", "TrainingArguments", "HfArgumentParser"), path
