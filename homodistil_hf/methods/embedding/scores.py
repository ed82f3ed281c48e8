"""How good vectors are at a task; no model is run here.

Shapes: N pairs or questions, M documents, D channels.
"""

import torch
from torch.nn import functional as F

NUM_BEST = 10


def pair_score(metric: str, first_ND: torch.Tensor, second_ND: torch.Tensor, labels: list[float]) -> float:
    """Hold the cosines of pairs against labels.

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
