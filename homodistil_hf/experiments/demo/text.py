"""English text that every machine with this package has: docstrings of the standard library and of installed packages.

Source files are parsed, never imported, so nothing in them runs. What is made of the text isn't here.
"""

import ast
import gc
import hashlib
import multiprocessing
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

# Half of all English text consists of words like these; tables, signatures and listings do not.
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """the of to and a in is for that be this with are it as by on or from an can not if which will at when has
        have was should its must than may into used but all one you any each only there they""",
    )
)
_MIN_WORDS = 8
_MIN_FUNCTION_WORD_FRACTION = 0.2
_MIN_LETTER_FRACTION = 0.85
_SKIPPED_FOLDERS = {"test", "tests", "testing", "idlelib"}
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_FILES_PER_TASK = 16


def source_files() -> list[tuple[str, Path]]:
    """Name and path of the Python files of the standard library and of all installed packages, without their tests.

    The order depends on the names only and mixes the packages.
    """
    files: dict[str, Path] = {}
    for kind in ("stdlib", "purelib", "platlib"):
        root = Path(sysconfig.get_path(kind))
        for path in root.rglob("*.py"):
            name = path.relative_to(root).as_posix()
            parts = set(name.split("/"))
            if not parts & (_SKIPPED_FOLDERS if kind != "stdlib" else {*_SKIPPED_FOLDERS, "site-packages"}):
                files.setdefault(f"{kind.removeprefix('plat').removeprefix('pure')}/{name}", path)
    return sorted(files.items(), key=lambda file: hashlib.sha256(file[0].encode()).digest())


def fingerprint(files: Sequence[tuple[str, Path]], num_characters: int) -> str:
    """Name a text before it is read: by the files it comes from, their sizes and times, and its length."""
    digest = hashlib.sha256(f"{num_characters}".encode())
    digest.update(Path(__file__).read_bytes())
    for name, path in files:
        status = path.stat()
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def collect_text(files: Sequence[tuple[str, Path]], num_characters: int) -> list[str]:
    """Gather English paragraphs from docstrings, each once, until there are `num_characters` or no more files.

    Returns:
        `list[str]`: one document a source file that has any, paragraphs separated by a newline.
    """
    documents: list[str] = []
    seen: set[str] = set()
    with tqdm(total=num_characters, unit="B", unit_scale=True, desc="Reading docstrings") as progress:
        for paragraphs in _read_in_parallel([path for _, path in files]):
            new = {text.casefold(): text for text in paragraphs if text.casefold() not in seen}
            if not new:
                continue
            seen.update(new)
            documents.append("\n".join(new.values()))
            progress.update(min(len(documents[-1]), num_characters - progress.n))
            if progress.n >= num_characters:
                break
    return documents


def english_paragraphs(path: Path) -> list[str]:
    """The English paragraphs in the docstrings of one source file, without line breaks, in its order.

    A file that this Python can't parse has no docstrings.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    docstrings = (ast.get_docstring(node) for node in _documented_nodes(tree))
    blocks = (block for docstring in docstrings if docstring for block in re.split(r"\n\s*\n", docstring))
    paragraphs = (" ".join(block.split()) for block in blocks if ">>>" not in block)
    return [paragraph for paragraph in paragraphs if is_english(paragraph)]


def is_english(paragraph: str) -> bool:
    """Whether a paragraph without line breaks is plain prose rather than a table, a signature or code.

    Example:
    ```python
    >>> is_english("Return the number of bytes that are left in the buffer.")
    True
    >>> is_english("x : array_like, shape (n, m), dtype=float64, default=None, y : int")
    False

    ```
    """
    words = paragraph.split()
    if len(words) < _MIN_WORDS or not paragraph.isascii():
        return False
    num_function_words = sum(word.lower().strip(".,;:()") in _FUNCTION_WORDS for word in words)
    num_letters = sum(character.isalpha() or character == " " for character in paragraph)
    return num_function_words >= _MIN_FUNCTION_WORD_FRACTION * len(
        words
    ) and num_letters >= _MIN_LETTER_FRACTION * len(paragraph)


def _documented_nodes(tree: ast.Module) -> Iterator[Any]:
    """Module, classes and functions, outer ones first; expressions are not searched, which takes half of the time."""
    nodes: list[Any] = [tree]
    while nodes:
        node = nodes.pop()
        yield node
        nodes.extend(child for child in reversed(node.body) if isinstance(child, _DEFINITIONS))


def _read_in_parallel(paths: list[Path]) -> Iterator[list[str]]:
    # Forked where the system can: a fresh interpreter would import torch again in each process.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    # Syntax trees have no cycles; looking for some would double the time.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=gc.disable) as pool:
        try:
            yield from pool.map(english_paragraphs, paths, chunksize=_FILES_PER_TASK)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
