"""Texts and tasks of retrieval.py: sentences and paragraphs of two corpora, questions of QNLI's training rows."""

import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from homodistil_hf.data.corpus import load_text

SENTENCES, QUESTIONS, PARAGRAPHS = "sentences", "questions", "paragraphs"
WEIGHTS = {SENTENCES: 1.0, QUESTIONS: 2.0, PARAGRAPHS: 0.4}
"""Passes over each kind of text in an epoch."""
_NUM_TEXTS = {"train": {SENTENCES: 40_000, PARAGRAPHS: 20_000}, "validation": {SENTENCES: 1000, PARAGRAPHS: 500}}
_LEAST_PARAGRAPH = 300
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def write_texts(data: Path, folder: Path) -> None:
    """Write a file a kind and split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, numbers in _NUM_TEXTS.items():
        rows = pd.read_parquet(data / "glue" / "qnli_part" / f"{split}.parquet")
        _write(folder / f"{split}-{QUESTIONS}.txt", dict.fromkeys(rows["question"]))
        for kind, number in numbers.items():
            corpora = (_texts(data / "corpora" / name / f"{split}.parquet", kind) for name in ("wikipedia", "books"))
            first = (itertools.islice(texts, number) for texts in corpora)
            _write(folder / f"{split}-{kind}.txt", itertools.chain.from_iterable(first))


def link_tasks(data: Path, folder: Path, names: Iterable[str]) -> None:
    """Make a folder with the rows of some tasks alone."""
    folder.mkdir(exist_ok=True)
    for name in names:
        places = data / "glue" / name, data / "squad_v2_part"
        if not (link := folder / places[name == "squad_part"].name).exists():
            link.symlink_to(places[name == "squad_part"].resolve())


def _write(file: Path, texts: Any) -> None:
    if not file.is_file():
        file.write_text("\n\n".join(texts), encoding="utf-8")


def _texts(file: Path, kind: str) -> Iterator[str]:
    """Sentences from the first document on, or long paragraphs from the last line on."""
    from homodistil_hf.methods.embedding.texts import paragraphs

    documents: Any = load_text(str(file))
    lines = [line for row in documents for line in paragraphs(row["text"])]
    if kind == SENTENCES:
        return (sentence for line in lines for sentence in _SENTENCE.split(line))
    return (line for line in reversed(lines) if len(line) >= _LEAST_PARAGRAPH)
