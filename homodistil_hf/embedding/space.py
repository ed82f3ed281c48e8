"""Several models of one space: who encodes queries, who encoded the index, and what each pairing finds.

Shapes: N queries, M documents, D channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..models.cost import model_facts
from .first_hits import first_hits
from .model import EmbeddingModel
from .query_times import query_ms
from .tasks import RetrievalTask, retrieval_scores
from .vectors import Encoder

QUERIES = 400
"""Texts at most that a run looks up among as many others."""


def space_matrix(models: Mapping[str, Encoder], tasks: Sequence[RetrievalTask]) -> dict[str, Any]:
    """Measure all pairings of models that share a space.

    Args:
        models: name → model; the first is the teacher, which may be its vectors of the tasks' texts alone.
        tasks: queries and documents.

    Returns:
        `dict`: `models`: name → `size_bytes` of the encoder and `ms` a query, of those that are here; `runtime` that
        the times are of, see [`query_ms`]. `sizes`: task → number of queries and of documents. `tasks`: task → who
        encodes queries → who encoded the index → `first_hits`, the share that is the teacher's in its own index, and
        `ndcg_at_10` where answers are known.

    Raises:
        ValueError: vectors of different lengths.
    """
    lengths = {name: model.dimension for name, model in models.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"models have vectors of the lengths {lengths}; expected one space, of one length")
    here = {name: model for name, model in models.items() if isinstance(model, EmbeddingModel)}
    runtime, ms = query_ms(here, tasks[0].queries)
    costs = {
        name: {"size_bytes": model_facts(model.encoder)["size_bytes"], "ms": ms[name]} for name, model in here.items()
    }
    sizes = {task.name: [len(task.queries), len(task.documents)] for task in tasks}
    found = {task.name: _pairings(models, task) for task in tasks}
    return {"models": costs, "runtime": runtime, "sizes": sizes, "tasks": found}


def _pairings(models: Mapping[str, Encoder], task: RetrievalTask) -> dict[str, dict[str, dict[str, float]]]:
    teacher = next(iter(models.values()))
    similarity = teacher.similarity
    queries = {name: model.encode(task.queries, prompt_name="query") for name, model in models.items()}
    index = {name: model.encode(task.documents, prompt_name="document") for name, model in models.items()}
    # the first model is the teacher: its first hits in its own index are those wanted of all pairings
    wanted = first_hits(next(iter(queries.values())), next(iter(index.values())), similarity)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for asking, vectors in queries.items():
        found[asking] = {}
        for answering, documents in index.items():
            same = first_hits(vectors, documents, similarity) == wanted
            cell = {"first_hits": float(same.double().mean())}
            if task.answers is not None:
                scores = retrieval_scores(vectors, documents, task.answers, similarity=similarity)
                cell["ndcg_at_10"] = scores["ndcg_at_10"]
            found[asking][answering] = cell
    return found


def task_of_texts(texts: Sequence[str]) -> RetrievalTask | None:
    """Every second text is looked up among the others; None for fewer than four different texts."""
    unique = list(dict.fromkeys(texts))[: 2 * QUERIES]
    return RetrievalTask("held-out texts", unique[1::2], unique[0::2], None) if len(unique) >= 4 else None
