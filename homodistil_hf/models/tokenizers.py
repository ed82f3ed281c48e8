"""Load the tokenizer beside a model; its files may not run code or name files outside its folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from ..files.messages import first_line, short_repr
from ..files.strict_json import read_json_object
from ..files.tensors import stays_inside
from .architectures import max_tokens

TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
_JSON_FILES = (TOKENIZER_CONFIG_FILE, "tokenizer.json", "special_tokens_map.json", "added_tokens.json")
_MAX_ID = 1 << 24
_MULTIPLE = 8
_LENGTHS = ("model_max_length", "max_length", "max_input_chars_per_word")  # 10³⁰: no limit
_FILE_KEYS = ("vocab", "merges", "vocab_file", "merges_file", "tokenizer_file", "spm_file")


def stored_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer of an export or a checkpoint, if it holds one; `ValueError` if it is damaged."""
    if not (folder / TOKENIZER_CONFIG_FILE).is_file():
        return None
    check_tokenizer_files(folder, f"folder={str(folder)!r}")
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ValueError(
            f"folder={str(folder)!r}: its tokenizer can't be loaded ({type(error).__name__}: {first_line(error)}); "
            "copy it again from the teacher"
        ) from error


def load_tokenizer(name: str, *, revision: str | None = None, token: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer that has tokens, from a folder or the Hub.

    Raises:
        ValueError: it is missing or unreadable, or has special tokens alone.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, revision=revision or "main", token=token, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"tokenizer={name!r} can't be loaded ({first_line(error)}); name one with --tokenizer"
        ) from error
    # transformers makes such a tokenizer of a folder without a vocabulary.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise ValueError(f"tokenizer={name!r} has no vocabulary beside special tokens; name one with --tokenizer")
    return tokenizer


def padding_multiple(config: PreTrainedConfig) -> int | None:
    """Return the multiple that padded lengths are rounded up to, None where the last one would exceed the positions.

    Matrix libraries prepare for fewer shapes then.
    """
    return _MULTIPLE if max_tokens(config) % _MULTIPLE == 0 else None


def check_tokenizer_files(folder: Path, label: str) -> None:
    """Raise `ValueError` if a tokenizer's files are no JSON, have huge ids or lead out of the folder."""
    contents = {
        name: read_json_object(folder / name, f"{label}: {name}") for name in _JSON_FILES if (folder / name).is_file()
    }
    for name, values in contents.items():
        _refuse_huge_ids(values, f"{label}: {name}")
    config = contents.get(TOKENIZER_CONFIG_FILE, {})
    for key in _FILE_KEYS:
        value = config.get(key)
        if isinstance(value, str) and not stays_inside(value) and os.path.lexists(value.replace("\0", "")):
            raise ValueError(
                f"{label}: {TOKENIZER_CONFIG_FILE} has {key}={short_repr(value)}, which is outside the folder; remove "
                "it"
            )
    for name in _template_names(config.get("chat_template")):
        if not isinstance(name, str) or not stays_inside(name) or len(Path(name).parts) != 1 or "\\" in name:
            raise ValueError(
                f"{label}: {TOKENIZER_CONFIG_FILE} has a chat_template called {short_repr(name)}; expected a plain "
                "word"
            )


def _refuse_huge_ids(values: Any, label: str) -> None:
    """Refuse ids for which the tokenizers library would take memory: it does so for all up to the largest."""
    left = [("", values)]
    while left:
        name, value = left.pop()
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += ((name, item) for item in value)
        elif isinstance(value, int) and abs(value) > _MAX_ID and name not in _LENGTHS:
            raise ValueError(
                f"{label} has {short_repr(name)}={short_repr(value)}; expected token ids of at most {_MAX_ID}"
            )


def _template_names(templates: Any) -> list[Any]:
    if isinstance(templates, dict):
        return list(templates)
    if isinstance(templates, list):
        return [entry.get("name") for entry in templates if isinstance(entry, dict)]
    return []


@contextmanager
def as_it_was(tokenizer: Any) -> Iterator[None]:
    """Restore a tokenizer's truncation and padding afterwards: a fast one keeps the last settings in its file."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield
        return
    truncation, padding = backend.truncation, backend.padding
    try:
        yield
    finally:
        backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
        backend.no_padding() if padding is None else backend.enable_padding(**padding)
