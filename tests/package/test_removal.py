"""A method is its folder, its tests and the lines that name it; nothing else imports it.

That all other tests pass without it is shown by tests/support/method_removal.py, which CI runs.
"""

import ast
from functools import cache
from pathlib import Path

import pytest
from method_removal import METHODS, ROOT, TABLES, reaches, remove

PACKAGE = ROOT / "homodistil_hf"


def test_every_method_has_a_folder_of_tests_that_adds_to_the_shared_ones():
    assert sorted(file.parent.name for file in (ROOT / "tests" / "methods").glob("*/cases.py")) == METHODS


def test_removing_a_method_takes_its_lines_from_the_tables(tmp_path):
    for table in TABLES:
        (tmp_path / table).parent.mkdir(exist_ok=True)
        (tmp_path / table).write_text(
            "from .kept.trainer import Kept as Kept\nfrom .methods.gone.trainer import Gone as Gone\n"
            "TABLE = {'kept': Kept, 'gone': Gone}\nPAIRS = ((Kept, 1), (Gone, 2))\n"
        )
    (tmp_path / "methods" / "gone").mkdir()
    remove(tmp_path, "gone")
    for table in TABLES:
        left = "from .kept.trainer import Kept as Kept\nTABLE = {'kept': Kept}\nPAIRS = ((Kept, 1),)"
        assert (tmp_path / table).read_text() == left


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("tests/methods/test_registry.py", True),
        ("tests/runs/test_trim.py", True),  # through homodistil_hf/experiments
        ("tests/benchmarks/speed/test_reference.py", True),  # through benchmarks/speed/variants.py
        ("tests/pruning/test_masks.py", False),
        ("tests/training/test_bad_steps.py", False),
    ],
)
def test_tests_that_may_need_a_method_are_found_by_their_imports(file, expected):
    assert {reaches(ROOT / file, method) for method in METHODS} == {expected}


@cache
def modules_of(path: Path) -> list[list[str]]:
    """The parts of the names of the modules that a file imports from."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node.module.split(".") for node in nodes if isinstance(node, ast.ImportFrom) and node.module]


@pytest.mark.parametrize("folder", METHODS)
def test_nothing_else_imports_a_method(folder):
    others = [path for path in PACKAGE.rglob("*.py") if PACKAGE / "methods" / folder not in path.parents]
    for path in others:
        inside = path.is_relative_to(PACKAGE / "methods")
        imported = any(
            ("methods" in module and folder in module) or (inside and module[0] == folder)
            for module in modules_of(path)
        )
        assert not imported or path.relative_to(PACKAGE).as_posix() in TABLES, path
