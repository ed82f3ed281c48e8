"""Tasks for vectors: rows of GLUE and SQuAD as pairs and questions, queries of your own, tasks of MTEB by name.

`evaluate.py` measures embedding models on them, `metrics.py` has the scores.

Shapes: N pairs or questions.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ..data.corpus import is_running_text, load_text
from ..data.read_line import read_line
from ..data.samples import drawn
from ..files.caches import keep_datasets_here
from ..files.field_checks import check_fields, make_tuples, setting
from ..files.messages import short_repr
from ..tasks.glue import GLUE_TASKS, data_folder, load_glue, load_squad
from .metrics import defined

_NAMES = ("stsb", "qnli", "squad", "mrpc", "qqp")


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
        answers: of each question the number of its document; None where it isn't known.
        groups: column → its value for each question, such as a language.
        columns: what was read of files, of [`columns_words`].
    """

    name: str
    queries: list[str]
    documents: list[str]
    answers: list[int] | None
    groups: Mapping[str, list[str]] = field(default_factory=dict)
    columns: str = ""


EmbeddingTask = PairTask | RetrievalTask


@dataclass(frozen=True)
class QuerySettings:
    """Settings that name queries and the documents that they are looked up in: rows of tasks, or any files.

    Raises:
        ValueError: queries without documents, documents without queries, or a value out of range.
    """

    data_dir: str | None = setting(None, "Folder with stsb/, qnli/ or qnli_part/, squad_v2/ …")
    queries: tuple[str, ...] = setting((), "Held-out questions of your own, for a guarantee: a row each, any files.")
    documents: tuple[str, ...] = setting((), "The texts that queries are looked up in.")
    query_column: str | None = setting(None, "Column with the queries; default: text.")
    document_column: str | None = setting(None, "Column with the documents; default: text.")
    eval_split: str = setting("validation", "Split of a Hub data set or folder.")
    max_queries: int = setting(1000, "Pairs and questions of a task at most, ≥ 1.", least=1)

    def __post_init__(self) -> None:
        make_tuples(self)
        if bool(self.queries) != bool(self.documents):
            raise ValueError(
                f"queries={short_repr(self.queries)}, documents={short_repr(self.documents)}: queries are looked up "
                "in documents; name both, or neither"
            )
        check_fields(self)


def tasks_of(settings: QuerySettings) -> list[EmbeddingTask]:
    """Load the tasks of settings that name rows of tasks (`data_dir`), or queries and documents, or both."""
    tasks: list[EmbeddingTask] = []
    if settings.data_dir:
        tasks += load_tasks(settings.data_dir, max_queries=settings.max_queries)
    if settings.queries:
        keep_datasets_here()
        tasks.append(load_queries(settings))
    return tasks


def line_of(task: EmbeddingTask) -> str:
    """Say what was read of a task, as [`read_line`]."""
    if isinstance(task, PairTask):
        return f"{task.name}: {read_line({'pairs': task.first})}"
    return f"{task.name}: {read_line({'queries': task.queries, 'documents': task.documents}, task.columns)}"


def retrieval_tasks(tasks: Sequence[EmbeddingTask]) -> list[RetrievalTask]:
    """Those of tasks that have queries and documents."""
    return [task for task in tasks if isinstance(task, RetrievalTask)]


def load_tasks(data_dir: str | Path, *, max_queries: int) -> list[EmbeddingTask]:
    """Load all tasks in a folder: development rows of STS-B, MRPC, QQP, QNLI and SQuAD.

    Of MRPC, QQP and retrieval at most `max_queries` rows are taken, always the same.

    Raises:
        ValueError: no such folder, none of these in it, or unreadable rows.
    """
    if not Path(data_dir).is_dir():
        raise ValueError(f"data_dir={str(data_dir)!r} is no folder; expected one with e.g. stsb/ and qnli/")
    tasks: list[EmbeddingTask] = []
    squads = [Path(data_dir, f"{name}{part}") for name in ("squad", "squad_v2") for part in ("", "_part")]
    for name in _NAMES:
        if name == "squad":
            if any(folder.is_dir() for folder in squads):
                squad = load_squad("squad", data_dir)
                rows = squad.dev["validation"]
                # Paragraphs of training questions make the index larger, and the search harder.
                documents = [*rows["context"][:], *squad.train["context"][:]]
                tasks.append(_retrieval_task(squad.name, rows, "question", "context", documents, max_queries))
            continue
        try:
            data_folder(name, data_dir)
        except ValueError:  # no such rows
            continue
        glue = load_glue(name, data_dir)
        rows = glue.dev["validation"]
        if name == "qnli":
            # class 0: the sentence answers its question; sentences of all rows are the index
            entailed, index = rows.select(np.flatnonzero(np.asarray(rows["label"][:]) == 0).tolist()), rows["sentence"]
            tasks.append(_retrieval_task(glue.name, entailed, "question", "sentence", index[:], max_queries))
            continue
        metric = "spearman" if name == "stsb" else "average_precision"
        if metric != "spearman":
            rows = drawn(rows, max_queries, seed=0)
        first, second = (rows[column][:] for column in GLUE_TASKS[name].columns.texts)
        tasks.append(PairTask(glue.name, metric, first, second, rows["label"][:]))
    if not tasks:
        raise ValueError(f"data_dir={str(data_dir)!r} has rows of none of {', '.join(_NAMES)}; add some")
    return tasks


def _retrieval_task(
    name: str, rows: Dataset, query: str, document: str, documents: list[str], max_queries: int
) -> RetrievalTask:
    if not len(rows):
        raise ValueError(f"{name} has no question with an answer among its rows for evaluation; give it some")
    asked = drawn(rows, max_queries, seed=0)
    # equal documents are one, or no rank could tell them apart
    index = {text: number for number, text in enumerate(dict.fromkeys(documents))}
    return RetrievalTask(name, asked[query][:], list(index), [index[text] for text in asked[document][:]])


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
    """Run tasks of [`named_tasks`] with models: side → folder or Hub name.

    Returns:
        `dict`: task → its main metric → side → score, the mean over subsets and splits.
    """
    import mteb
    from sentence_transformers import SentenceTransformer

    scores: dict[str, dict[str, dict[str, float]]] = {
        task.metadata.name: {task.metadata.main_score: {}} for task in tasks
    }
    for side, name in models.items():
        # No cache: mteb's cache finds a folder by its name alone, whatever its weights.
        results = mteb.evaluate(
            SentenceTransformer(name, trust_remote_code=False), tasks, cache=None, co2_tracker=False
        )
        for task, result in zip(tasks, results.task_results, strict=True):
            scores[task.metadata.name][task.metadata.main_score][side] = defined(float(result.get_score()))
    return scores


def load_queries(settings: QuerySettings) -> RetrievalTask:
    """Read queries and the documents that they are looked up in; which document answers a query isn't needed.

    A row of a table is a query, or a line of a text file; as many as `max_queries`, evenly spread over all.

    Raises:
        ValueError: unreadable files, a missing column, or fewer than two documents.
    """
    queries, split, most = settings.queries, settings.eval_split, settings.max_queries
    texts, read = _texts(queries, "query_column", settings.query_column, split)
    groups = {
        name: [value for one in queries for value in _column(one, "group_columns", name, split)["text"][:]]
        for name in getattr(settings, "group_columns", ())
    }
    # places of the queries that stay, for texts and groups alike: those with text, `most` of them evenly spread
    rows = [row for row in range(len(texts)) if texts[row]]
    rows = [rows[len(rows) * place // most] for place in range(most)] if len(rows) > most else rows
    lines, also_read = _texts(settings.documents, "document_column", settings.document_column, split)
    index = list(dict.fromkeys(filter(None, lines)))
    if not rows or len(index) < 2:
        raise ValueError(
            f"queries={short_repr(list(queries))} and documents={short_repr(list(settings.documents))} have "
            f"{len(rows)} and {len(index)} texts; expected a query and two documents, or more"
        )
    chosen = {name: [values[row] or "none" for row in rows] for name, values in groups.items()}
    columns = "; ".join(
        dict.fromkeys([f"queries {words}" for words in read] + [f"documents {words}" for words in also_read])
    )
    return RetrievalTask("queries", [texts[row] for row in rows], index, None, chosen, columns)


def _texts(source: Sequence[str], setting: str, column: str | None, split: str) -> tuple[list[str], list[str]]:
    """All texts, and the words on columns of each source."""
    lines: list[str] = []
    columns = []
    for one in source:
        rows = _column(one, setting, column, split)
        columns.append(rows.info.description)
        texts = [text or "" for text in rows["text"][:]]
        # a paragraph of a text file may have several lines, a query each; rows of tables stay whole
        lines += [line for text in texts for line in text.splitlines()] if is_running_text(rows) else texts
    return [text.strip() for text in lines], columns


def _column(source: str, setting: str, column: str | None, split: str) -> Any:
    argument = "documents" if setting == "document_column" else "queries"
    try:
        return load_text(source, text_column=column, split=split, argument=argument)
    except ValueError as error:  # it calls the column of a text by the name that it has elsewhere
        raise ValueError(str(error).replace("text_column", setting)) from error
