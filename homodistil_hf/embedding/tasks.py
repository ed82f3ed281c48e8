"""Tasks for vectors: rows of GLUE and SQuAD as pairs and questions, tasks of MTEB by name; and their scores.

`evaluate.py` measures embedding models on them, `pairs.py` rerankers by one of the scores.

Shapes: N pairs or questions, M documents, D channels.
"""

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ..data.samples import drawn
from ..distillation.task_scores import correlations
from ..evaluation.task_data import GLUE_TASKS, data_folder, load_glue, load_squad
from ..files.messages import short_repr
from .similarity import COSINE, pair_similarities, similarities

NUM_BEST = 10


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
    """

    name: str
    queries: list[str]
    documents: list[str]
    answers: list[int] | None
    groups: Mapping[str, list[str]] = field(default_factory=dict)


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
    found = [make(data_dir, max_queries) for name, make in _MAKERS.items() if _has_rows(name, data_dir)]
    if not found:
        raise ValueError(f"data_dir={str(data_dir)!r} has rows of none of {', '.join(_MAKERS)}; add some")
    return found


def _has_rows(name: str, data_dir: str | Path) -> bool:
    if name == "squad":
        folders = [Path(data_dir, f"{known}{part}") for known in ("squad", "squad_v2") for part in ("", "_part")]
        return any(folder.is_dir() for folder in folders)
    try:
        data_folder(name, data_dir)
    except ValueError:
        return False
    return True


def _pair_task(name: str, metric: str) -> Callable[[str | Path, int], EmbeddingTask]:
    def make(data_dir: str | Path, max_queries: int) -> EmbeddingTask:
        data = load_glue(name, data_dir)
        rows = data.dev["validation"]
        if metric != "spearman":
            rows = drawn(rows, max_queries, seed=0)
        first, second = (rows[column][:] for column in GLUE_TASKS[name].text_columns)
        return PairTask(data.name, metric, first, second, rows["label"][:])

    return make


def _qnli_task(data_dir: str | Path, max_queries: int) -> EmbeddingTask:
    data = load_glue("qnli", data_dir)
    rows = data.dev["validation"]
    # class 0: the sentence answers its question; sentences of all rows are the index
    entailed = rows.select(np.flatnonzero(np.asarray(rows["label"][:]) == 0).tolist())
    return _retrieval_task(data.name, entailed, "question", "sentence", rows["sentence"][:], max_queries)


def _squad_task(data_dir: str | Path, max_queries: int) -> EmbeddingTask:
    data = load_squad("squad", data_dir)
    # Paragraphs of training questions make the index larger, and the search harder.
    documents = [*data.dev["validation"]["context"][:], *data.train["context"][:]]
    return _retrieval_task(data.name, data.dev["validation"], "question", "context", documents, max_queries)


def _retrieval_task(
    name: str, rows: Dataset, query: str, document: str, documents: list[str], max_queries: int
) -> RetrievalTask:
    if not len(rows):
        raise ValueError(f"{name} has no question with an answer among its rows for evaluation; give it some")
    asked = drawn(rows, max_queries, seed=0)
    # equal documents are one, or no rank could tell them apart
    index = {text: number for number, text in enumerate(dict.fromkeys(documents))}
    return RetrievalTask(name, asked[query][:], list(index), [index[text] for text in asked[document][:]])


_MAKERS: dict[str, Callable[[str | Path, int], EmbeddingTask]] = {
    "stsb": _pair_task("stsb", "spearman"),
    "qnli": _qnli_task,
    "squad": _squad_task,
    "mrpc": _pair_task("mrpc", "average_precision"),
    "qqp": _pair_task("qqp", "average_precision"),
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
        # No cache: mteb's cache finds a folder by its name alone, whatever its weights.
        results = mteb.evaluate(
            SentenceTransformer(name, trust_remote_code=False), tasks, cache=None, co2_tracker=False
        )
        for task, result in zip(tasks, results.task_results, strict=True):
            found[task.metadata.name][task.metadata.main_score][side] = _defined(float(result.get_score()))
    return found


def pair_score(
    metric: str, first_ND: torch.Tensor, second_ND: torch.Tensor, labels: list[float], *, similarity: str = COSINE
) -> float:
    """Score the similarities of pairs by labels.

    Args:
        metric: `spearman`: rank correlation with the labels, in [-1, 1]; 0 where all pairs are equally similar, or all
            labels equal. `average_precision`: average precision of the pairs labelled 1 when all pairs are ordered
            from most to least similar, in [0, 1].
        first_ND: float.
        second_ND: of the same shape.
        labels: one a pair.
        similarity: of `SIMILARITIES`.

    Raises:
        ImportError: scikit-learn and SciPy are missing: `pip install 'homodistil-hf[evaluation]'`.

    Example:
    ```python
    >>> vectors = torch.eye(3)
    >>> pair_score("spearman", vectors, vectors[[0, 1, 0]] + 0.1 * vectors[[0, 2, 2]], [5, 4, 0])
    1.0

    ```
    """
    from scipy.stats import spearmanr
    from sklearn.metrics import average_precision_score

    found = pair_similarities(first_ND.double(), second_ND.double(), similarity).numpy()
    if metric == "spearman":
        return _defined(float(spearmanr(found, labels).statistic))
    return float(average_precision_score(labels, found))


def retrieval_scores(
    queries_ND: torch.Tensor, documents_MD: torch.Tensor, answers: list[int], *, similarity: str = COSINE
) -> dict[str, float]:
    """Look each question's one document up among all.

    Args:
        queries_ND: float.
        documents_MD: float.
        answers: each question's row in `documents_MD`.
        similarity: of `SIMILARITIES`.

    Returns:
        `ndcg_at_10`: mean of 1 / log2(1 + rank), and `mrr_at_10`: mean of 1 / rank. Ranks count from 1; ranks below
        the tenth count 0. All documents as similar as the right one stand before it.

    Example:
    ```python
    >>> retrieval_scores(torch.eye(2), torch.eye(2).flip(0), [1, 1])
    {'ndcg_at_10': 0.8154648767857288, 'mrr_at_10': 0.75}

    ```
    """
    ranks = _ranks(queries_ND, documents_MD, answers, similarity)
    return {"ndcg_at_10": float(_gains(ranks).mean()), "mrr_at_10": float(((ranks <= NUM_BEST) / ranks).mean())}


def gains(
    queries_ND: torch.Tensor, documents_MD: torch.Tensor, answers: list[int], *, similarity: str = COSINE
) -> torch.Tensor:
    """Each question's part of nDCG@10, `(N,)` float64; arguments as [`retrieval_scores`]."""
    return _gains(_ranks(queries_ND, documents_MD, answers, similarity))


def ranking_scores(scores_R: np.ndarray, labels_R: np.ndarray, queries: Sequence[str]) -> dict[str, float]:
    """Score the order that scores give the passages of queries, by labels.

    Args:
        scores_R: of each pair of a query and a passage.
        labels_R: the worth of the passage, 0 and 1 or graded; all are raised where one is below 0.
        queries: of each pair, its query.

    Returns:
        `spearman`, over all pairs; and over queries with passages of different labels `ndcg_at_10`, with the labels as
        gains, and `mrr_at_10`, of the first passage with the query's highest label. Of equal scores the passage of
        the least label stands first.

    Example:
    ```python
    >>> found = ranking_scores(np.array([0.1, 0.7, 0.9]), np.array([0, 2, 1]), ["q", "q", "q"])
    >>> {name: round(value, 3) for name, value in found.items()}
    {'ndcg_at_10': 0.86, 'mrr_at_10': 0.5, 'spearman': 0.5}

    ```
    """
    # nDCG is of gains ≥ 0
    gains_R = labels_R - min(0.0, labels_R.min())
    rows_of: dict[str, list[int]] = {}
    for row, query in enumerate(queries):
        rows_of.setdefault(query, []).append(row)
    found = []
    for rows in rows_of.values():
        # lexsort's last key comes first: by falling score, of equal ones the least gain first
        gains, order = gains_R[rows], np.lexsort((gains_R[rows], -scores_R[rows]))
        if np.ptp(gains) > 0:
            # Σ gain / log₂(1 + rank) over ten ranks, by that of the best order; rank of the first best passage
            parts = _gains(torch.arange(1.0, len(rows) + 1, dtype=torch.float64)).numpy()
            rank = int(np.argmax(gains[order] == gains.max())) + 1
            found.append((gains[order] @ parts / (np.sort(gains)[::-1] @ parts), (rank <= NUM_BEST) / rank))
    means = dict(zip(("ndcg_at_10", "mrr_at_10"), np.mean(found, 0).tolist(), strict=True)) if found else {}
    return means | {"spearman": correlations(scores_R[:, None], labels_R[:, None])["spearman"]}


def _gains(ranks: torch.Tensor) -> torch.Tensor:
    return (ranks <= NUM_BEST) / torch.log2(1 + ranks)


def _ranks(queries: torch.Tensor, documents: torch.Tensor, answers: list[int], similarity: str) -> torch.Tensor:
    similarities_NM = similarities(queries.double(), documents.double(), similarity)
    # as many documents as are at least as similar, the right one among them, are its rank
    right_N1 = similarities_NM.gather(1, torch.tensor(answers)[:, None])
    return (similarities_NM >= right_N1).sum(1).double()


def _defined(score: float) -> float:
    """Return 0 for an undefined score, as `evaluation/metrics.py` does: JSON has no NaN, and facts would be lost."""
    return 0.0 if math.isnan(score) else score
