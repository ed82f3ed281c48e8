"""Tasks for vectors of texts: of rows of GLUE and SQuAD, which `evaluate.py` runs, and of MTEB, run by `mteb`."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ...data.samples import drawn
from ...evaluation.glue.data import GLUE_TASKS, data_folder, load_glue
from ...evaluation.squad.data import load_squad
from ...files.messages import short_repr


@dataclass(frozen=True)
class PairTask:
    """Pairs of texts with labels to compare their similarity with.

    Args:
        name: in results.
        metric: `spearman`, of graded labels, or `average_precision`, of labels 0 and 1.
        first: a text of each pair.
        second: the other one.
        labels: one a pair.
    """

    name: str
    metric: str
    first: list[str]
    second: list[str]
    labels: list[float]


@dataclass(frozen=True)
class RetrievalTask:
    """Questions, each answered by one of the documents.

    Args:
        name: in results.
        queries: the questions.
        documents: each text once.
        answers: of each question the number of its document.
    """

    name: str
    queries: list[str]
    documents: list[str]
    answers: list[int]


EmbeddingTask = PairTask | RetrievalTask


def load_tasks(data_dir: str | Path, *, max_queries: int) -> list[EmbeddingTask]:
    """Load all tasks in a folder: development rows of STS-B, MRPC, QQP, QNLI and SQuAD.

    Args:
        data_dir: folder as for evaluations on GLUE and SQuAD.
        max_queries: rows of MRPC, QQP and retrieval at most, always the same.

    Raises:
        ValueError: no such folder, none of these in it, or unreadable rows.
    """
    if not Path(data_dir).is_dir():
        raise ValueError(f"data_dir={str(data_dir)!r} is no folder; expected one with e.g. stsb/ and qnli/")
    found = [make(data_dir, max_queries) for name, make in _MAKERS.items() if _has(name, data_dir)]
    if not found:
        raise ValueError(f"data_dir={str(data_dir)!r} has rows of none of {', '.join(_MAKERS)}; add some")
    return found


def _has(name: str, data_dir: str | Path) -> bool:
    if name == "squad":
        folders = [Path(data_dir, f"{known}{part}") for known in ("squad", "squad_v2") for part in ("", "_part")]
        return any(folder.is_dir() for folder in folders)
    try:
        data_folder(name, data_dir)
    except ValueError:
        return False
    return True


def _pairs(name: str, metric: str) -> Callable[[str | Path, int], EmbeddingTask]:
    def make(data_dir: str | Path, max_queries: int) -> EmbeddingTask:
        data = load_glue(name, data_dir)
        rows = data.dev["validation"]
        if metric != "spearman":
            rows = drawn(rows, max_queries, seed=0)
        first, second = (rows[column][:] for column in GLUE_TASKS[name].text_columns)
        return PairTask(data.name, metric, first, second, rows["label"][:])

    return make


def _qnli(data_dir: str | Path, max_queries: int) -> EmbeddingTask:
    data = load_glue("qnli", data_dir)
    rows = data.dev["validation"]
    entailed = rows.select(np.flatnonzero(np.asarray(rows["label"][:]) == 0).tolist())
    return _retrieval(data.name, entailed, "question", "sentence", rows["sentence"][:], max_queries)


def _squad(data_dir: str | Path, max_queries: int) -> EmbeddingTask:
    data = load_squad("squad", data_dir)
    # Paragraphs of training questions make the index larger, and the search harder.
    documents = [*data.dev["validation"]["context"][:], *data.train["context"][:]]
    return _retrieval(data.name, data.dev["validation"], "question", "context", documents, max_queries)


def _retrieval(
    name: str, rows: Dataset, query: str, document: str, documents: list[str], max_queries: int
) -> RetrievalTask:
    asked = drawn(rows, max_queries, seed=0)
    index = {text: number for number, text in enumerate(dict.fromkeys(documents))}
    return RetrievalTask(name, asked[query][:], list(index), [index[text] for text in asked[document][:]])


_MAKERS: dict[str, Callable[[str | Path, int], EmbeddingTask]] = {
    "stsb": _pairs("stsb", "spearman"),
    "qnli": _qnli,
    "squad": _squad,
    "mrpc": _pairs("mrpc", "average_precision"),
    "qqp": _pairs("qqp", "average_precision"),
}


def named_tasks(names: Sequence[str]) -> list[Any]:
    """Load tasks of MTEB by their names; their data come from the Hub.

    Raises:
        ValueError: the library is missing, or has no such task.
    """
    if not importlib.util.find_spec("mteb"):
        raise ValueError(f"mteb_tasks={short_repr(names)} needs mteb; pip install 'homodistil-hf[mteb]'")
    import mteb

    try:
        return list(mteb.get_tasks(tasks=list(names)))
    except KeyError as error:
        raise ValueError(f"mteb_tasks={short_repr(names)}: {error.args[0].removeprefix('KeyError: ')}") from error


def mteb_scores(tasks: Sequence[Any], models: Mapping[str, str]) -> dict[str, dict[str, dict[str, float]]]:
    """Run tasks with models.

    Args:
        tasks: of [`named_tasks`].
        models: side → folder or Hub name, as `SentenceTransformer` takes it.

    Returns:
        `dict`: task → its main metric → side → score, the mean over subsets and splits.

    Raises:
        OSError: data or a model can't be read or fetched.
    """
    import mteb
    from sentence_transformers import SentenceTransformer

    found: dict[str, dict[str, dict[str, float]]] = {
        task.metadata.name: {task.metadata.main_score: {}} for task in tasks
    }
    for side, name in models.items():
        # No cache: mteb's cache knows a folder by its name alone.
        results = mteb.evaluate(
            SentenceTransformer(name, trust_remote_code=False), tasks, cache=None, co2_tracker=False
        )
        for task, result in zip(tasks, results.task_results, strict=True):
            found[task.metadata.name][task.metadata.main_score][side] = float(result.get_score())
    return found
