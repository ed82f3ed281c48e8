"""Writes the table of CONTRIBUTING.md: how many lines each feature has, its tests, and all that it imports.

python docs/features.py
"""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from homodistil_hf.tables import markdown_table

PAGE, BEGIN, END = Path("CONTRIBUTING.md"), "<!-- written by docs/features.py -->\n", "<!-- end -->"
PACKAGE, TESTS = Path("homodistil_hf"), Path("tests")
FEATURES = {
    "trainer and arguments": "trainer.py homodistil_args.py training_args.py __init__.py __init__.pyi version.py",
    "training: exact resume, ranks, run folders, the Hub": "training",
    "pruning, schedule, rotation": "pruning",
    "losses, teacher": "distillation",
    "architectures, loading, copying, costs": "models",
    "text, blocks, masking": "data",
    "tasks of fine-tuned teachers": "tasks runs/task.py",
    "widths, budgets, `plan`": "plans cli/plan.py runs/plan.py",
    "latency": "plans/latency.py cli/latency.py",
    "exports, card, report, `verify`, `push`": "export cli/export.py cli/report.py methods/formats.py",
    "files, settings, tables": "files tables.py",
    "runs and command line": "runs cli __main__.py methods/__init__.py",
    "embedding models, rerankers, `cascade`": "embedding cli/cascade.py "
    "runs/embedding.py runs/sparse.py runs/multi_vector.py runs/reranker.py",
    "`evaluate`, `finetune`": "evaluation cli/evaluate.py cli/finetune.py",
    "`trim`": "vocabulary runs/trim.py cli/trim.py",
    "`deploy`": "deploy cli/deploy.py",
    "baselines": "methods/baselines",
    "further pre-training": "methods/self_distillation runs/further_pretraining.py",
    "one bit a weight": "methods/binarization runs/bits.py runs/bit_embeddings.py models/packed.py "
    "models/architectures/modeling_binarybert.py",
    "`prune` without gradients": "methods/gradient_free cli/prune.py",
    "`demo`": "runs/demo cli/demo.py",
}
"""Feature → its files and folders in the package; the longest path that leads to a file counts."""


def feature_of(path: Path) -> str | None:
    """The feature of a file of the package, or None."""
    places = [(Path(place), feature) for feature, places in FEATURES.items() for place in places.split()]
    around = [(len(place.parts), feature) for place, feature in places if path.is_relative_to(place)]
    return max(around)[1] if around else None


def files_of_features() -> dict[str, list[Path]]:
    """Feature → its files."""
    files: dict[str, list[Path]] = {feature: [] for feature in FEATURES}
    for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")]):
        if (feature := feature_of(path.relative_to(PACKAGE))) is None:
            raise ValueError(f"{path}: name it, or its folder, in a feature of docs/features.py")
        files[feature].append(path)
    return files


def tests_of_features() -> dict[str, list[Path]]:
    """Feature → the files of tests that mirror it."""
    files: dict[str, list[Path]] = {feature: [] for feature in FEATURES}
    for path in sorted(TESTS.rglob("test_*.py")):
        mirrored = path.relative_to(TESTS).with_name(path.name.removeprefix("test_"))
        if len(mirrored.parts) == 1:
            mirrored = Path("trainer.py")
        if feature := feature_of(mirrored):  # others are of the whole, or of benchmarks
            files[feature].append(path)
    return files


@cache
def imported_by(path: Path) -> frozenset[Path]:
    """Files of the package that a file imports as it is loaded, not inside of functions; with their folders' own."""
    folder = path.parent
    found = set()
    for node in _at_the_top(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [folder, *folder.parents][node.level - 1].joinpath(*filter(None, (node.module or "").split(".")))
            for place in (base, *(base / alias.name for alias in node.names)):
                found |= {file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()}
    return frozenset(found | {parent / "__init__.py" for file in found for parent in file.parents[:-1]})


def _at_the_top(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from _at_the_top(child)


def closure_of(files: Iterable[Path]) -> set[Path]:
    """These files, and all that they import, directly or not."""
    todo, seen = [file for file in files if file.suffix == ".py"], set()
    while todo:
        if (file := todo.pop()) not in seen:
            seen.add(file)
            todo += imported_by(file)
    return seen


def lines_of(files: Iterable[Path]) -> str:
    """The number of lines of files, in hundreds."""
    return f"{round(sum(len(file.read_text(encoding='utf-8').splitlines()) for file in files), -2):,}"


def table() -> list[str]:
    """A row a feature, and one for all."""
    files, tests = files_of_features(), tests_of_features()
    rows = [
        (feature, *map(lines_of, (own, tests[feature], closure_of(own) | set(own)))) for feature, own in files.items()
    ]
    everything = [[file for own in parts.values() for file in own] for parts in (files, tests)]
    rows.append(("all", *map(lines_of, everything), ""))
    return markdown_table(("feature", "lines", "tests", "with all that it imports"), rows)


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, after = page[: page.index(BEGIN)], page[page.index(END) :]
    text = "\n".join(table())
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
