"""Run the tests of a copy of the checkout that lacks one method, for each method.

    python tests/support/method_removal.py                  fast tests whose imports reach the method
    python tests/support/method_removal.py --all embedding  every test, without one method

A method is its folder of homodistil_hf/methods, its lines in `TABLES`, and its folder of tests/methods. Tests whose
imports don't reach a method can't need it: the import contract keeps methods out of the core and out of each other.
"""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGE = "homodistil_hf"
METHODS = sorted(file.parent.name for file in (ROOT / PACKAGE / "methods").glob("*/__init__.py"))
TABLES = ("runs/kinds.py", "methods/formats.py", "__init__.pyi")
ABOVE_METHODS = ("experiments", "cli")
FAST = ["-m", "not slow and not distributed and not real_data"]
IMPORT_ALL = """
import importlib, pathlib
for path in sorted(pathlib.Path("homodistil_hf").rglob("*.py")):
    if path.stem not in ("__main__", "__init__"):
        importlib.import_module(".".join(path.with_suffix("").parts))
import homodistil_hf
for name in homodistil_hf.__all__:
    getattr(homodistil_hf, name)
from homodistil_hf.cli import main
from homodistil_hf.runs.kinds import METHODS
for method in METHODS:
    main(["distill", "--help_all", "--method", method])
"""
_NAMED = re.compile(rf"\"{PACKAGE}\.(methods|{'|'.join(ABOVE_METHODS)})\b|\"-m\", \"{PACKAGE}\"")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=METHODS, metavar="METHOD", help="folders; all by default")
    parser.add_argument("--all", action="store_true", help="run the whole suite, slow tests among it")
    parser.add_argument("--num_workers", default="2", help="test processes")
    options = parser.parse_args()
    failed = [method for method in options.methods if not passes_without(method, options.num_workers, options.all)]
    sys.exit(f"tests fail without {', '.join(failed)}" if failed else 0)


def passes_without(method: str, num_workers: str, is_whole: bool) -> bool:
    """Whether a copy of the checkout without a method imports, shows its help, and passes the tests."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"without-{method}-") as scratch:
        copy = Path(scratch) / "checkout"
        copy_without(method, copy)
        tests = [] if is_whole else [*FAST, *tests_of(method)]
        run = partial(subprocess.run, cwd=copy, env={"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(copy)})
        passes = run([sys.executable, "-c", IMPORT_ALL], stdout=subprocess.DEVNULL).returncode == 0
        pytest = [sys.executable, "-m", "pytest", "-q", f"--numprocesses={num_workers}", "--dist=loadfile"]
        pytest += ["-p", "no:cacheprovider"]
        passes = run([*pytest, *tests]).returncode == 0 and passes
    print(f"without {method}: {'passed' if passes else 'FAILED'} in {time.monotonic() - start:.0f} s", flush=True)
    return passes


# The copy


def copy_without(method: str, target: Path) -> None:
    """Copy the files that git knows or would add, and remove a method from the copy."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    remove(target / PACKAGE, method)
    shutil.rmtree(target / "tests" / "methods" / method)


def remove(package: Path, method: str) -> None:
    """Remove the folder of a method from a package, and its lines in `TABLES`."""
    shutil.rmtree(package / "methods" / method)
    for table in TABLES:
        file = package / table
        tree = _Without(method).visit(ast.parse(file.read_text(encoding="utf-8")))
        file.write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")


class _Without(ast.NodeTransformer):
    """Removes the imports from one folder, and the entries of tables that use them."""

    def __init__(self, method: str):
        self.method = method
        self.names: set[str] = set()

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        if self.method not in (node.module or "").split("."):
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


# The tests that may need a method


def tests_of(method: str) -> list[str]:
    """Test files, but for its own, that may need a method."""
    own = ROOT / "tests" / "methods" / method
    others = [file for file in sorted((ROOT / "tests").rglob("test_*.py")) if own not in file.parents]
    return [str(file.relative_to(ROOT)) for file in others if reaches(file, method)]


def reaches(file: Path, method: str) -> bool:
    """Whether a file imports a method or a module above all methods, itself or through what it imports."""
    above = [ROOT / PACKAGE / folder for folder in (f"methods/{method}", *ABOVE_METHODS)]
    todo, seen = [file], {file}
    while todo:
        one = todo.pop()
        if any(folder in one.parents for folder in above) or _NAMED.search(one.read_text(encoding="utf-8")):
            return True
        found = set(imported_files(one)) - seen
        seen |= found
        todo += found
    return False


@cache
def imported_files(file: Path) -> tuple[Path, ...]:
    """The files of this checkout that a file imports, inside functions too."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= set(_modules_of(node, file))
    return tuple(path for module in sorted(modules) if (path := _file_of(module)) is not None)


def _modules_of(node: ast.ImportFrom, file: Path) -> Iterator[str]:
    package = file.relative_to(ROOT).parts[: -node.level] if node.level else ()
    module = ".".join((*package, *filter(None, [node.module])))
    for alias in node.names:
        # The package's own names are imported when they are used: each stands for the module that has it.
        yield _public_modules().get(alias.name, PACKAGE) if module == PACKAGE else f"{module}.{alias.name}"
        if module != PACKAGE:
            yield module


@cache
def _public_modules() -> dict[str, str]:
    """Public name → module."""
    tree = ast.parse((ROOT / PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: f"{PACKAGE}.{node.module}" for node in imports for alias in node.names}


def _file_of(module: str) -> Path | None:
    path = Path(*module.split("."))
    places = [ROOT / path, ROOT / "tests" / "support" / path]
    files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    return next((file for file in files if file.is_file()), None)


if __name__ == "__main__":
    main()
