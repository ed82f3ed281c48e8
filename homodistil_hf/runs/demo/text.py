"""English text that every Python has: the docstrings, messages and comments of its standard library.

Source files are parsed, never imported, so nothing in them runs. A file's name alone decides whether it is training
text or held-out text. So no machine trains a student on text that the teacher's machine held out.
"""

import ast
import hashlib
import re
import sysconfig
import warnings
from collections.abc import Mapping
from pathlib import Path

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
_SKIPPED_FOLDERS = {"test", "tests", "idlelib", "site-packages", "dist-packages"}
_HELD_OUT_EVERY = 16


def source_files() -> dict[str, Path]:
    """Name and path of the Python files of the standard library, without its tests, by name."""
    return python_files(Path(sysconfig.get_path("stdlib")))


def python_files(root: Path) -> dict[str, Path]:
    """Name and path of the Python files under a folder, without tests and installed packages, by name."""
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    return {name: root / name for name in names if not _SKIPPED_FOLDERS & set(name.split("/"))}


def is_held_out(name: str) -> bool:
    """Whether a source file's text is for measuring: one in 16, by its name."""
    return hashlib.sha256(name.encode()).digest()[0] % _HELD_OUT_EVERY == 0


def read_documents(files: Mapping[str, Path]) -> tuple[list[str], list[str]]:
    """Training documents and held-out ones, no paragraph twice.

    Args:
        files: path of each file by its name.

    Returns:
        `tuple[list[str], list[str]]`: one document a source file that has any text, paragraphs separated by a newline.

    Raises:
        ValueError: there is no text.
    """
    documents: tuple[list[str], list[str]] = ([], [])
    seen: set[str] = set()
    # training files come first, so held-out text has no paragraph of theirs
    for name in tqdm(sorted(files, key=is_held_out), desc="Reading the standard library", unit=" files"):
        new = {text.casefold(): text for text in english_paragraphs(files[name]) if text.casefold() not in seen}
        seen.update(new)
        if new:
            documents[is_held_out(name)].append("\n".join(new.values()))
    if not all(documents):
        raise ValueError(f"num_files={len(files)}: this Python's standard library has no source text; use another")
    return documents


def english_paragraphs(path: Path) -> list[str]:
    """The English paragraphs in one source file's strings and comments, without line breaks.

    A file that this Python can't parse has none.
    """
    try:
        source = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    strings = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    # lines of comments that follow each other are one text, without their marks
    comments = [re.sub(r"(?m)^\s*#+", "", lines) for lines in re.findall(r"(?m)(?:^[ \t]*#.*\n)+", source)]
    blocks = (block for text in strings + comments for block in re.split(r"\n\s*\n", text))
    # examples of the interpreter are no prose
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
