"""A method is its folder, its tests and the lines that name it: without them the package goes on with all else."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parents[2] / "homodistil_hf"
METHODS = sorted(folder.name for folder in (PACKAGE / "methods").iterdir() if (folder / "__init__.py").is_file())
TABLES = ("methods/registry.py", "methods/formats.py", "__init__.pyi")
IMPORT_ALL = """
import importlib, pathlib, sys
for path in sorted(pathlib.Path("homodistil_hf").rglob("*.py")):
    if path.stem not in ("__main__", "__init__"):
        importlib.import_module(".".join(path.with_suffix("").parts))
import homodistil_hf
for name in homodistil_hf.__all__:
    getattr(homodistil_hf, name)
from homodistil_hf.cli import main
from homodistil_hf.methods.registry import METHODS
for method in METHODS:
    main(["distill", "--help_all", "--method", method])
print(sorted(METHODS), file=sys.stderr)
"""


class Without(ast.NodeTransformer):
    """Removes the imports from one folder, and the entries of tables that use them."""

    def __init__(self, folder: str):
        self.folder = folder
        self.names: set[str] = set()

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        if self.folder not in (node.module or "").split("."):
            return node
        self.names |= {alias.asname or alias.name for alias in node.names}
        return None

    def visit_Dict(self, node: ast.Dict) -> ast.Dict:
        kept = [(k, v) for k, v in zip(node.keys, node.values, strict=True) if not self._uses(k) and not self._uses(v)]
        node.keys, node.values = [key for key, _ in kept], [value for _, value in kept]
        return node

    def visit_Tuple(self, node: ast.Tuple) -> ast.Tuple:
        node.elts = [entry for entry in node.elts if not isinstance(entry, ast.Tuple) or not self._uses(entry)]
        return node

    def _uses(self, node: Any) -> bool:
        return bool(self.names & {part.id for part in ast.walk(node) if isinstance(part, ast.Name)})


def remove(package: Path, folder: str) -> None:
    shutil.rmtree(package / "methods" / folder)
    for table in TABLES:
        file = package / table
        tree = Without(folder).visit(ast.parse(file.read_text(encoding="utf-8")))
        file.write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")


def test_methods_are_found():
    assert METHODS == ["baselines", "binarization", "embedding", "gradient_free", "self_distillation"]


@pytest.mark.slow
@pytest.mark.parametrize("folder", METHODS)
def test_the_package_goes_on_without_a_method(folder, tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "homodistil_hf", ignore=shutil.ignore_patterns("__pycache__"))
    remove(tmp_path / "homodistil_hf", folder)
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("['")


@pytest.mark.parametrize("folder", METHODS)
def test_nothing_else_imports_a_method(folder):
    others = [path for path in PACKAGE.rglob("*.py") if PACKAGE / "methods" / folder not in path.parents]
    for path in others:
        modules = [
            node.module.split(".")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and node.module
        ]
        inside = path.is_relative_to(PACKAGE / "methods")
        imported = any(
            ("methods" in module and folder in module) or (inside and module[0] == folder) for module in modules
        )
        assert not imported or path.relative_to(PACKAGE).as_posix() in TABLES, path
