"""Tasks of MTEB by their names, run by the library `mteb`, which fetches their data from the Hub."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from ...files.messages import short_repr


def named_tasks(names: Sequence[str]) -> list[Any]:
    """Load tasks by their names.

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
        results = mteb.evaluate(SentenceTransformer(name), tasks, cache=None, co2_tracker=False)
        for task, result in zip(tasks, results.task_results, strict=True):
            found[task.metadata.name][task.metadata.main_score][side] = float(result.get_score())
    return found
