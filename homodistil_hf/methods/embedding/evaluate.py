"""`evaluate_embedding`: an embedding model, beside its teacher, on the same texts, pairs and questions.

Rows of GLUE and SQuAD become tasks for vectors here; tasks of MTEB are run by `mteb`. `objective.py` compares the
vectors of student and teacher.

Shapes: N texts, pairs or questions, M documents, D channels.
"""

import importlib.util
import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional as F
from tqdm.auto import tqdm

from ...data.blocks import some_blocks
from ...data.corpus import load_text
from ...data.samples import drawn
from ...evaluation.evaluated_model import model_in, model_name, results_claimed
from ...evaluation.fine_tuning import settings_from
from ...evaluation.metrics import missing_packages
from ...evaluation.task_data import GLUE_TASKS, data_folder, load_glue, load_squad
from ...export.student_in_folder import student_in
from ...files.caches import keep_datasets_here
from ...files.field_checks import check_fields, make_tuples, refuse_without_part, setting
from ...files.messages import short_repr
from ...files.provenance import public_name, version_facts
from ...files.strict_json import write_json
from ...models.cost import COSTS, model_facts
from ...tables import figures_line
from .folder import ASYMMETRIC, STUDENT, TEACHER, embedding_table, has_own_space, publish_scores, read_embedding_facts
from .model import EmbeddingModel, is_embedding_folder, load_embedding_model
from .objective import agreement
from .texts import paragraphs_of

logger = logging.getLogger(__name__)

RESULTS_FILE = "embedding.json"

NUM_BEST = 10

_PLACES = ("data_dir", "eval_data")
_PUBLISHED = ("models", "agreement", "scores")


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


@dataclass(frozen=True)
class EmbeddingEvaluationSettings:
    """Settings of [`evaluate_embedding`].

    Raises:
        ValueError: nothing is named to measure on, or a value is out of range.
    """

    data_dir: str | None = setting(None, "Folder with stsb/, qnli/ or qnli_part/, squad_v2/ …")
    eval_data: tuple[str, ...] = setting((), "Held-out text: files, folders, globs or Hub data sets.")
    mteb_tasks: tuple[str, ...] = setting((), "Names of MTEB's tasks, fetched from the Hub: STSBenchmark SciFact …")
    text_column: str | None = setting(None, "Column with the text; default: text.")
    eval_split: str = setting("validation", "Split of a Hub data set or folder.")
    max_texts: int = setting(1000, "Paragraphs of held-out text at most, ≥ 11.", least=11)
    max_queries: int = setting(1000, "Pairs and questions of a task at most, ≥ 1.", least=1)

    def __post_init__(self) -> None:
        make_tuples(self)
        if not (self.eval_data or self.mteb_tasks or self.data_dir):
            raise ValueError(
                "data_dir, eval_data and mteb_tasks are not set; name rows of tasks (--data_dir glue), held-out text "
                "(--eval_data held-out.txt), tasks of MTEB, or several of them"
            )
        check_fields(self)
        own = {"eval_data": ("text_column", "eval_split", "max_texts"), "data_dir": ("max_queries",)}
        for source, names in own.items():
            if not getattr(self, source):
                refuse_without_part(self, dict.fromkeys(names, f"it belongs to {source}; leave it out"))


def evaluate_embedding(
    model: str | Path,
    *,
    teacher: str | Path | None = None,
    settings: EmbeddingEvaluationSettings | Mapping[str, Any],
    output_dir: str | Path | None = None,
    say: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Measure the vectors of an embedding model, and of its teacher on the same texts.

    Args:
        model: folder of sentence-transformers, finished run, or Hub name.
        teacher: folder or Hub name; default: the run's. Without a teacher, the model alone is measured, on tasks.
        settings: [`EmbeddingEvaluationSettings`], or some of them by name; `data_dir`, `eval_data` or `mteb_tasks` is
            needed.
        output_dir: folder of the results; default: `evaluations/NAME` beside the model.
        say: takes lines for the user.

    Returns:
        `dict`: the content of `embedding.json`. `models`: name, costs and dimension of teacher and student.
        `agreement`: on the held-out text, see [`agreement`]. `scores`: task → metric → `teacher`, `student` and, for
        retrieval, `asymmetric`: the student's questions among the teacher's documents.

    Raises:
        ValueError: no embedding model, data that can't be used, or `eval_data` without a teacher to compare with.
        OSError: a file or the Hub can't be read, or results can't be written.
    """
    since = time.perf_counter()
    settings = settings_from(EmbeddingEvaluationSettings, settings)
    tasks = load_tasks(settings.data_dir, max_queries=settings.max_queries) if settings.data_dir else []
    of_mteb = named_tasks(settings.mteb_tasks) if settings.mteb_tasks else []
    folder, recorded = _found(model)
    with results_claimed(model, output_dir) as target:
        named = teacher or recorded
        _check(settings, tasks, named)
        models = {STUDENT: load_embedding_model(folder, argument="model")} | (
            {TEACHER: load_embedding_model(named)} if named else {}
        )
        results: dict[str, Any] = {
            "models": {
                side: {"name": model_name(model) if side == STUDENT else public_name(found.name)} | _costs(found)
                for side, found in models.items()
            },
            "settings": asdict(settings) | {name: _named(getattr(settings, name)) for name in _PLACES},
        }
        is_apart = has_own_space(read_embedding_facts(folder))
        results |= _measured(models, settings, tasks, of_mteb=of_mteb, is_apart=is_apart, say=say)
        results |= {"versions": version_facts(), "time_s": round(time.perf_counter() - since, 1)}
        write_json(target / RESULTS_FILE, results)
        publish_scores(folder, {name: results[name] for name in _PUBLISHED if results.get(name)})
        return results


def _measured(
    models: Mapping[str, EmbeddingModel],
    settings: EmbeddingEvaluationSettings,
    tasks: Sequence[EmbeddingTask],
    *,
    of_mteb: Sequence[Any],
    is_apart: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """`agreement`, where there is text for it and a teacher, and `scores`."""
    results: dict[str, Any] = {}
    if settings.eval_data and TEACHER in models:
        results["agreement"] = _agreement(models, settings, is_apart=is_apart)
        say(f"agreement: {figures_line(results['agreement'], '{:.3f}')}")
    results["scores"] = {}
    for task in tasks:
        results["scores"][task.name] = found = _scores(task, models, is_apart=is_apart)
        _say_scores(task.name, found, say)
    if of_mteb:
        for name, metrics in mteb_scores(of_mteb, {side: found.name for side, found in models.items()}).items():
            results["scores"][name] = metrics
            _say_scores(name, metrics, say)
    return results


def _say_scores(task: str, metrics: Mapping[str, Mapping[str, float]], say: Callable[[str], None]) -> None:
    for metric, of_sides in metrics.items():
        say(f"{task}, {metric}: {figures_line(of_sides)}")


def format_scores(results: Mapping[str, Any]) -> str:
    """Lay out results of [`evaluate_embedding`] as Markdown: a row a measure, × 100."""
    return embedding_table(results["models"], results.get("agreement", {}), results["scores"])


def _found(model: str | Path) -> tuple[str, str | None]:
    """The folder or Hub name to load, and the teacher that a run recorded."""
    source = str(model)
    if model_in(source) is None:  # a name on the Hub
        return source, None
    found = student_in(source)
    if not is_embedding_folder(found.folder):
        raise ValueError(
            f"model={short_repr(source)} is no folder of sentence-transformers (no modules.json); name one, a "
            "finished run of one, or a Hub name"
        )
    recorded = found.settings.get("teacher")
    return str(found.folder), recorded if isinstance(recorded, str) else None


def _costs(model: EmbeddingModel) -> dict[str, Any]:
    counted = model_facts(model.encoder)
    return {name: counted[name] for name in COSTS} | {"dimension": model.dimension}


def _named(values: str | tuple[str, ...] | None) -> Any:
    return [public_name(value) for value in values] if isinstance(values, tuple) else values and public_name(values)


def _check(settings: EmbeddingEvaluationSettings, tasks: Sequence[EmbeddingTask], teacher: str | Path | None) -> None:
    """Refuse missing teachers and packages before anything is encoded."""
    if settings.eval_data and teacher is None:
        raise ValueError(
            f"eval_data={short_repr(settings.eval_data)} is compared with a teacher, and none is recorded: name "
            "--teacher"
        )
    if any(isinstance(task, PairTask) for task in tasks) and (missing := missing_packages()):
        raise ValueError(
            f"data_dir={short_repr(settings.data_dir)} has tasks whose metrics need {', '.join(missing)}; "
            "pip install 'homodistil-hf[evaluation]'"
        )


def _agreement(
    models: Mapping[str, EmbeddingModel], settings: EmbeddingEvaluationSettings, *, is_apart: bool
) -> dict[str, float]:
    keep_datasets_here()
    documents: Any = load_text(
        list(settings.eval_data), text_column=settings.text_column, split=settings.eval_split, argument="eval_data"
    )
    read = paragraphs_of(documents)
    # Texts from all documents: the first paragraph of each, then the second of each, and so on.
    rows = (read(row["text"]) for row in some_blocks(documents, settings.max_texts))
    by_place = itertools.chain.from_iterable(itertools.zip_longest(*rows))
    texts = list(itertools.islice(filter(None, by_place), settings.max_texts))
    if len(texts) < 2:
        raise ValueError(
            f"eval_data={short_repr(settings.eval_data)} has {len(texts)} paragraphs; expected two or more"
        )
    student, teacher = (_encoded(models[side], texts) for side in (STUDENT, TEACHER))
    return agreement(student, teacher, has_own_space=is_apart)


def _scores(
    task: EmbeddingTask, models: Mapping[str, EmbeddingModel], *, is_apart: bool
) -> dict[str, dict[str, float]]:
    """Metric → side → score."""
    if isinstance(task, PairTask):
        both = {side: _encoded(model, [*task.first, *task.second]) for side, model in models.items()}
        num = len(task.first)
        return {
            task.metric: {
                side: pair_score(task.metric, vectors[:num], vectors[num:], task.labels)
                for side, vectors in both.items()
            }
        }
    return _retrieval(task, models, is_apart=is_apart)


def _retrieval(
    task: RetrievalTask, models: Mapping[str, EmbeddingModel], *, is_apart: bool
) -> dict[str, dict[str, float]]:
    # `encode_query` and `encode_document` of sentence-transformers use prompts of these names, if the model has them.
    queries = {side: _encoded(model, task.queries, "query") for side, model in models.items()}
    documents = {side: _encoded(model, task.documents, "document") for side, model in models.items()}
    compared = {side: (queries[side], documents[side]) for side in models}
    if TEACHER in models and models[TEACHER].dimension == models[STUDENT].dimension and not is_apart:
        compared[ASYMMETRIC] = queries[STUDENT], documents[TEACHER]
    found = {side: retrieval_scores(*vectors, task.answers) for side, vectors in compared.items()}
    return {metric: {side: scores[metric] for side, scores in found.items()} for metric in found[STUDENT]}


def _encoded(model: EmbeddingModel, texts: list[str], prompt_name: str | None = None) -> torch.Tensor:
    unique = list(dict.fromkeys(texts))
    with tqdm(total=len(unique), desc="encoding texts", disable=None, leave=False) as bar:
        vectors = model.encode(unique, prompt_name=prompt_name, on_batch=bar.update)
    rows = {text: number for number, text in enumerate(unique)}
    return vectors[[rows[text] for text in texts]]


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


def _defined(score: float) -> float:
    """Return 0 for an undefined score, as `evaluation/metrics.py` does: JSON has no NaN, and facts would be lost."""
    return 0.0 if math.isnan(score) else score


def pair_score(metric: str, first_ND: torch.Tensor, second_ND: torch.Tensor, labels: list[float]) -> float:
    """Score the cosines of pairs by labels.

    Args:
        metric: `spearman`: rank correlation with the labels, in [-1, 1]; 0 where all pairs are equally similar, or all
            labels equal. `average_precision`: average precision of the pairs labelled 1 when all pairs are ordered
            from most to least similar, in [0, 1].
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
        return _defined(float(spearmanr(cosines, labels).statistic))
    return float(average_precision_score(labels, cosines))


def retrieval_scores(queries_ND: torch.Tensor, documents_MD: torch.Tensor, answers: list[int]) -> dict[str, float]:
    """Look each question's one document up among all, by cosine.

    Args:
        queries_ND: float.
        documents_MD: float.
        answers: each question's row in `documents_MD`.

    Returns:
        `ndcg_at_10`: mean of 1 / log2(1 + rank), and `mrr_at_10`: mean of 1 / rank. Ranks count from 1; ranks below
        the tenth count 0. All documents as similar as the right one stand before it.

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
