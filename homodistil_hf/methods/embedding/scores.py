"""Scores of vectors: a student's beside its teacher's on the same texts, and each at a task.

Shapes: N texts, pairs or questions, M documents, D channels.
"""

import torch
from torch.nn import functional as F

NUM_NEIGHBOURS = 10
_ROWS = 256
_LEAST_DEVIATION = 1e-6  # below it, similarities differ by rounding alone
NUM_BEST = 10


def agreement(student_ND: torch.Tensor, teacher_ND: torch.Tensor, *, has_own_space: bool = False) -> dict[str, float]:
    """Compare the vectors of the same texts.

    Args:
        student_ND: float, any length.
        teacher_ND: as many; of other channels only where the student has a space of its own.
        has_own_space: whether the student's vectors are in another space.

    Returns:
        `cosine`: mean over a text's two vectors. `neighbours`: share of a text's ten nearest others that both models
        have, each in its own index. `neighbours_in_index`: the same with the student's vector looked up in the
        teacher's index. `spread`: standard deviation of similarities between texts, as a share of the teacher's; 0 for
        collapsed vectors, left out where the teacher's similarities are all the same, as those of two texts are.
        Empty for fewer than two texts; `neighbours` and `spread` alone for two spaces.

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
    student, teacher = (F.normalize(vectors.double(), dim=-1) for vectors in (student_ND, teacher_ND))
    num_neighbours = min(NUM_NEIGHBOURS, len(student) - 1)
    is_one_space = student.shape == teacher.shape and not has_own_space
    # In blocks of rows, so that N × N similarities are never held at once; sums are exact as counts and float64.
    shared, moments = [0] * (1 + is_one_space), torch.zeros(2, 3, dtype=torch.float64)
    for start in range(0, len(student), _ROWS):
        rows = slice(start, start + _ROWS)
        pairs = [(teacher, teacher), (student, student), *[(student, teacher)] * is_one_space]
        similarities = [queries[rows] @ index.T for queries, index in pairs]
        others = torch.ones_like(similarities[0], dtype=torch.bool)
        others[torch.arange(len(others)), start + torch.arange(len(others))] = False
        for side in range(2):
            values = similarities[side][others]
            moments[side] += torch.tensor([values.numel(), values.sum(), values.square().sum()], dtype=torch.float64)
        of_teacher, *found = (
            one.masked_fill(~others, -torch.inf).topk(num_neighbours).indices for one in similarities
        )
        shared = [total + _num_shared(one, of_teacher) for total, one in zip(shared, found, strict=True)]
    means = moments[:, 1:] / moments[:, :1]
    deviations = (means[:, 1] - means[:, 0].square()).clamp(min=0).sqrt()
    shares = [count / (num_neighbours * len(student)) for count in shared]
    found_in_own = {"neighbours": shares[0]}
    if deviations[0] > _LEAST_DEVIATION:
        found_in_own["spread"] = float(deviations[1] / deviations[0])
    if not is_one_space:
        return found_in_own
    cosine = float((student * teacher).sum(-1).mean())
    return {"cosine": cosine, "neighbours": shares[0], "neighbours_in_index": shares[1]} | found_in_own


def _num_shared(found: torch.Tensor, expected: torch.Tensor) -> int:
    return int((found[:, :, None] == expected[:, None, :]).sum())


def pair_score(metric: str, first_ND: torch.Tensor, second_ND: torch.Tensor, labels: list[float]) -> float:
    """Score the cosines of pairs by labels.

    Args:
        metric: `spearman`: rank correlation with the labels, in [-1, 1]. `average_precision`: of the pairs labelled 1
            among all, the most similar first, in [0, 1].
        first_ND: float.
        second_ND: of the same shape.
        labels: one a pair.

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

    cosines = F.cosine_similarity(first_ND.double(), second_ND.double()).numpy()
    if metric == "spearman":
        return float(spearmanr(cosines, labels).statistic)
    return float(average_precision_score(labels, cosines))


def retrieval_scores(queries_ND: torch.Tensor, documents_MD: torch.Tensor, answers: list[int]) -> dict[str, float]:
    """Look each question's one document up among all, by cosine.

    Args:
        queries_ND: float.
        documents_MD: float.
        answers: of each question the row of its document.

    Returns:
        `ndcg_at_10`: mean of 1 / log2(1 + rank), and `mrr_at_10`: mean of 1 / rank, ranks from 1, 0 for those below
        the tenth. Of documents as similar as the right one all stand before it.

    Example:
    ```python
    >>> retrieval_scores(torch.eye(2), torch.eye(2).flip(0), [1, 1])
    {'ndcg_at_10': 0.8154648767857288, 'mrr_at_10': 0.75}

    ```
    """
    queries, documents = (F.normalize(vectors.double(), dim=-1) for vectors in (queries_ND, documents_MD))
    similarities_NM = queries @ documents.T
    right_N1 = similarities_NM.gather(1, torch.tensor(answers)[:, None])
    ranks = (similarities_NM >= right_N1).sum(1).double()
    found = ranks <= NUM_BEST
    return {
        "ndcg_at_10": float((found / torch.log2(1 + ranks)).mean()),
        "mrr_at_10": float((found / ranks).mean()),
    }
