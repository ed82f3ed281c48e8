"""How alike vectors are, and the scores of what they find: agreement with a teacher, first hits, nDCG@10, MRR@10.

Pure functions of tensors. The functions of similarity are those of sentence-transformers.

Shapes: N and M vectors of D channels, R rows of scores.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..tasks.metrics import average_precision, spearman

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
"""Names in the settings of a model; distances are negative, so that more is always more alike."""
COSINE = SIMILARITIES[0]
"""The library's own, where a model names none."""
MAXSIMS = ("maxsim", "meanmaxsim")
"""Of models that have vectors of tokens; both order documents alike."""
MAXSIM = MAXSIMS[0]
NUM_NEIGHBOURS = 10
"""Of a text, in [`agreement`]."""
NUM_BEST = 10
"""Ranks that count in nDCG@10 and MRR@10."""
_ROWS = 256
_LEAST_DEVIATION = 1e-6  # below it, similarities differ by rounding alone
_NORMS = {"euclidean": 2.0, "manhattan": 1.0}


def compared(vectors_ND: torch.Tensor, similarity: str = COSINE) -> torch.Tensor:
    """Vectors as they are compared: brought to length 1 for cosines, as they are for all others."""
    return F.normalize(vectors_ND, dim=-1) if similarity == COSINE else vectors_ND


def similarities(first_ND: torch.Tensor, second_MD: torch.Tensor, similarity: str = COSINE) -> torch.Tensor:
    """Compare each of the first vectors with each of the second.

    Args:
        first_ND: float.
        second_MD: float.
        similarity: of `SIMILARITIES`.

    Returns:
        `torch.Tensor`: `(N, M)`.

    Example:
    ```python
    >>> vectors = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    >>> [similarities(vectors, vectors, name)[0, 1].item() for name in ("dot", "euclidean", "manhattan")]
    [8.0, -3.605551242828369, -5.0]

    ```
    """
    if similarity in _NORMS:
        # Exact, not by products of matrices, which round distances of near vectors away.
        return -torch.cdist(first_ND, second_MD, _NORMS[similarity], "donot_use_mm_for_euclid_dist")
    return compared(first_ND, similarity) @ compared(second_MD, similarity).T


def pair_similarities(first_ND: torch.Tensor, second_ND: torch.Tensor, similarity: str = COSINE) -> torch.Tensor:
    """Compare each of the first vectors with the second one in the same row; `(N,)`."""
    if similarity in _NORMS:
        return -torch.linalg.vector_norm(first_ND - second_ND, _NORMS[similarity], dim=-1)
    return (compared(first_ND, similarity) * compared(second_ND, similarity)).sum(-1)


def agreement(
    student_ND: torch.Tensor,
    teacher_ND: torch.Tensor,
    *,
    has_own_space: bool = False,
    similarity: str = COSINE,
    most_neighbours: int = NUM_NEIGHBOURS,
) -> dict[str, float]:
    """Compare the vectors of the same texts.

    Args:
        student_ND: float, any length.
        teacher_ND: as many vectors; their channels may differ only if the student has a space of its own.
        has_own_space: whether the student's vectors are in another space.
        similarity: what neighbours are nearest by, of `SIMILARITIES`.
        most_neighbours: how many nearest others of a text are compared.

    Returns:
        `cosine`: mean over a text's two vectors. `neighbours`: share of a text's nearest others that both models
        have, each in its own index. `neighbours_in_index`: the same with the student's vector looked up in the
        teacher's index. `spread`: standard deviation of similarities between texts, as a share of the teacher's, 0 for
        collapsed vectors. It is left out where all the teacher's similarities are equal, as with two texts. The result
        is empty for fewer than two texts, and has `neighbours` and `spread` alone for two spaces.

    Example:
    ```python
    >>> vectors = torch.eye(4)
    >>> found = agreement(vectors, vectors)
    >>> found["cosine"], found["neighbours"]
    (1.0, 1.0)

    ```
    """
    if len(student_ND) < 2:
        return {}
    student, teacher = (compared(vectors.double(), similarity) for vectors in (student_ND, teacher_ND))
    is_one_space = student.shape == teacher.shape and not has_own_space
    compare = partial(similarities, similarity=similarity)
    found = nearest_alike(student, teacher, compare, is_one_space=is_one_space, most_neighbours=most_neighbours)
    return {"cosine": float(pair_similarities(student, teacher).mean())} | found if is_one_space else found


def nearest_alike(
    student: Any,
    teacher: Any,
    compare: Callable[[Any, Any], torch.Tensor],
    *,
    is_one_space: bool = True,
    most_neighbours: int = NUM_NEIGHBOURS,
) -> dict[str, float]:
    """`neighbours`, `neighbours_in_index` and `spread` of [`agreement`] for what `compare` compares: all with all."""
    num_neighbours = min(most_neighbours, len(student) - 1)
    # In blocks of rows, so that N × N similarities are never held at once; sums are exact as counts and float64.
    shared, moments = [0] * (1 + is_one_space), torch.zeros(2, 3, dtype=torch.float64)
    for start in range(0, len(student), _ROWS):
        rows = slice(start, start + _ROWS)
        # who asks in which index; the student asks in the teacher's where they share a space
        pairs = [(teacher, teacher), (student, student), *[(student, teacher)] * is_one_space]
        of_pairs = [compare(queries[rows], index) for queries, index in pairs]
        # a text is no neighbour of itself: row i of this block is text start + i
        others = torch.ones_like(of_pairs[0], dtype=torch.bool)
        others[torch.arange(len(others)), start + torch.arange(len(others))] = False
        # count, Σ s and Σ s² of the similarities, the teacher's and the student's
        for side in range(2):
            values = of_pairs[side][others]
            moments[side] += torch.tensor([values.numel(), values.sum(), values.square().sum()], dtype=torch.float64)
        # neighbours in the teacher's own index, and how many of them the others have
        of_teacher, *nearest = (one.masked_fill(~others, -torch.inf).topk(num_neighbours).indices for one in of_pairs)
        # (rows, k, 1) == (rows, 1, k): indices of a row differ, so a neighbour that both have is equal once
        equal = (one[:, :, None] == of_teacher[:, None, :] for one in nearest)
        shared = [total + int(one.sum()) for total, one in zip(shared, equal, strict=True)]
    # √(E s² − (E s)²) of both
    means = moments[:, 1:] / moments[:, :1]
    deviations = (means[:, 1] - means[:, 0].square()).clamp(min=0).sqrt()
    shares = [count / (num_neighbours * len(student)) for count in shared]
    found = dict(zip(("neighbours", "neighbours_in_index"), shares, strict=False))
    if deviations[0] > _LEAST_DEVIATION:
        found["spread"] = float(deviations[1] / deviations[0])
    return found


def mean_maxsim(queries: Sequence[torch.Tensor], documents: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean over a query's vectors of the product with the most similar one of a document; float64 `(N, M)`.

    MaxSim is their sum, which orders documents alike.

    Args:
        queries: N times vectors of tokens, one at least.
        documents: M times such.

    Example:
    ```python
    >>> query, document = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.0, -1.0]])
    >>> mean_maxsim([query, query[1:]], [document]).tolist()
    [[0.75], [0.5]]

    ```
    """
    whole, lengths = torch.cat(list(queries)), torch.tensor([len(query) for query in queries])
    # of each of all queries' vectors the most similar one of each document
    best_TM = torch.stack([(whole @ document.T).amax(1) for document in documents], 1).double()
    query_T = torch.arange(len(queries)).repeat_interleave(lengths)
    sums_NM = best_TM.new_zeros(len(queries), len(documents)).index_add_(0, query_T, best_TM)
    return sums_NM / lengths[:, None]


def first_hits(queries_ND: torch.Tensor, documents_MD: torch.Tensor, similarity: str = COSINE) -> torch.Tensor:
    """The row of each query's most similar document, `(N,)` int64."""
    # float64, so that rounding seldom decides which hit is first; in blocks, as N × M numbers are many
    queries, documents = queries_ND.double(), documents_MD.double()
    return torch.cat([similarities(part, documents, similarity).argmax(1) for part in queries.split(_ROWS)])


def best(
    queries_ND: torch.Tensor, documents_MD: torch.Tensor, k: int, similarity: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarities and rows of the k best documents of each query, `(N, k)` both; in blocks of queries."""
    blocks = [similarities(part, documents_MD, similarity).topk(k) for part in queries_ND.split(_ROWS)]
    return torch.cat([block.values for block in blocks]), torch.cat([block.indices for block in blocks])


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
    ranks = ranks_of(queries_ND, documents_MD, answers, similarity)
    return {"ndcg_at_10": float(gains(ranks).mean()), "mrr_at_10": float(((ranks <= NUM_BEST) / ranks).mean())}


def ranks_of(
    queries_ND: torch.Tensor, documents_MD: torch.Tensor, answers: list[int], similarity: str = COSINE
) -> torch.Tensor:
    """The rank of each question's document, from 1, `(N,)` float64; arguments as [`retrieval_scores`]."""
    similarities_NM = similarities(queries_ND.double(), documents_MD.double(), similarity)
    # as many documents as are at least as similar, the right one among them, are its rank
    right_N1 = similarities_NM.gather(1, torch.tensor(answers)[:, None])
    return (similarities_NM >= right_N1).sum(1).double()


def gains(ranks: torch.Tensor) -> torch.Tensor:
    """The part of each rank in nDCG@10."""
    return (ranks <= NUM_BEST) / torch.log2(1 + ranks)


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
    of_queries = []
    for rows in rows_of.values():
        # lexsort's last key comes first: by falling score, of equal ones the least gain first
        own, order = gains_R[rows], np.lexsort((gains_R[rows], -scores_R[rows]))
        if np.ptp(own) > 0:
            # Σ gain / log₂(1 + rank) over ten ranks, by that of the best order; rank of the first best passage
            weights = gains(torch.arange(1.0, len(rows) + 1, dtype=torch.float64)).numpy()
            rank = int(np.argmax(own[order] == own.max())) + 1
            of_queries.append((own[order] @ weights / (np.sort(own)[::-1] @ weights), (rank <= NUM_BEST) / rank))
    means = dict(zip(("ndcg_at_10", "mrr_at_10"), np.mean(of_queries, 0).tolist(), strict=True)) if of_queries else {}
    return means | {"spearman": spearman(scores_R, labels_R)}


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

    Example:
    ```python
    >>> vectors = torch.eye(3)
    >>> pair_score("spearman", vectors, vectors[[0, 1, 0]] + 0.1 * vectors[[0, 2, 2]], [5, 4, 0])
    1.0

    ```
    """
    nearness = pair_similarities(first_ND.double(), second_ND.double(), similarity).numpy()
    score = (spearman if metric == "spearman" else average_precision)(nearness, np.array(labels))
    return float(np.nan_to_num(score))  # JSON has no number for an undefined one
