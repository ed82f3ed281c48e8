"""What the tests of each method add to shared tables.

A method is a folder of homodistil_hf/methods; tests/methods has a folder of the same name. Its `cases.py` holds what
tests of all methods take from it. Embedding models have their folders beside those of methods.
"""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

SAME_HEADS = {"hidden_size": 16, "num_attention_heads": 4, "head_dim": 4, "intermediate_size": 32}
"""Widths of a student with the heads of the tiny teacher, which every method but a few can make."""
_TESTS = Path(__file__).parents[1]


def cases(name: str) -> list[Any]:
    """The value of a name in every `cases.py` that has it, in the order of the folders."""
    return [getattr(module, name) for module in _modules() if hasattr(module, name)]


def merged_cases(name: str) -> dict[str, Any]:
    """The entries of a dict of that name in every `cases.py`."""
    return {key: value for found in cases(name) for key, value in found.items()}


def student_of(method: str) -> dict[str, int]:
    """Widths that a method of masked words can give a student of the tiny teacher."""
    return merged_cases("STUDENTS").get(method, SAME_HEADS)


@cache
def _modules() -> list[ModuleType]:
    files = [*_TESTS.glob("methods/*/cases.py"), _TESTS / "embedding" / "cases.py"]
    return [_imported(file) for file in sorted(files, key=lambda file: file.parent.name)]


def _imported(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"cases_of_{file.parent.name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up the module of their class
    spec.loader.exec_module(module)
    return module
