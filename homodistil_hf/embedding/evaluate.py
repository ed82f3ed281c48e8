"""`evaluate_embedding`: an embedding model, beside its teacher, on the same texts, pairs and questions.

`tasks.py` reads what is measured on, `metrics.py` has the scores. [`space_matrix`] compares models of one space.

Shapes: N texts, pairs or questions, M documents, D channels.
"""

import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data.corpus import load_text
from ..data.read_line import read_line
from ..evaluation.evaluated_model import model_in, model_name, results_claimed
from ..evaluation.fine_tuning import settings_from
from ..evaluation.guarantee import WORDS, guarantee, length_groups
from ..export.card import guarantee_text, percent_below
from ..export.facts import GUARANTEE
from ..export.markdown import card_table
from ..export.student_in_folder import student_in
from ..files.caches import keep_datasets_here
from ..files.field_checks import refuse_without_part, setting
from ..files.messages import short_repr
from ..files.provenance import public_name, version_facts
from ..files.strict_json import write_json
from ..models.cost import COSTS, model_facts
from ..tables import figures_line
from .card import ASYMMETRIC, SPACE, STUDENT, TEACHER, embedding_table, space_tables
from .deployable import query_ms
from .folder import has_own_space, publish_scores, read_embedding_facts
from .metrics import agreement, first_hits, pair_score, retrieval_scores
from .model import EmbeddingModel
from .reading import load_embedding_model
from .tasks import (
    EmbeddingTask,
    PairTask,
    QuerySettings,
    RetrievalTask,
    line_of,
    mteb_scores,
    named_tasks,
    retrieval_tasks,
    tasks_of,
)
from .texts import some_paragraphs
from .vectors import Encoder, TeacherVectors, load_teacher

logger = logging.getLogger(__name__)

RESULTS_FILE = "embedding.json"
QUERIES = 400
"""Texts at most that a run looks up among as many others."""
_PLACES = ("eval_data", "queries", "documents")
_PUBLISHED = ("models", "agreement", "scores", GUARANTEE, SPACE)


@dataclass(frozen=True)
class EmbeddingEvaluationSettings(QuerySettings):
    """Settings of [`evaluate_embedding`].

    Raises:
        ValueError: nothing is named to measure on, or a value is out of range.
    """

    eval_data: tuple[str, ...] = setting((), "Held-out text: files, folders, globs or Hub data sets.")
    mteb_tasks: tuple[str, ...] = setting((), "Names of MTEB's tasks, fetched from the Hub: STSBenchmark SciFact …")
    group_columns: tuple[str, ...] = setting((), "Columns of queries to bound by: language, source …")
    others: tuple[str, ...] = setting((), "Other students of the teacher: all pairings of queries and index, too.")
    text_column: str | None = setting(None, "Column with the text; default: text.")
    max_texts: int = setting(1000, "Paragraphs of held-out text at most, ≥ 11.", least=11)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.eval_data or self.mteb_tasks or self.data_dir or self.queries):
            raise ValueError(
                "data_dir, eval_data, queries and mteb_tasks are not set; name rows of tasks (--data_dir glue), "
                "held-out text (--eval_data held-out.txt), queries with their documents, tasks of MTEB, or several of "
                "them"
            )
        own = {
            "eval_data": ("text_column", "max_texts"),
            "queries": ("query_column", "document_column", "group_columns"),
            "eval_data or queries": ("eval_split",),
            "data_dir or queries": ("max_queries",),
        }
        for source, names in own.items():
            if not any(getattr(self, part) for part in source.split(" or ")):
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
        teacher: folder, Hub name, or a file of vectors that has all texts to be measured on; default: the run's model.
            Without a teacher, the model alone is measured, on tasks.
        settings: [`EmbeddingEvaluationSettings`], or some of them by name; `data_dir`, `eval_data`, `queries` or
            `mteb_tasks` is needed.
        output_dir: folder of the results; default: `evaluations/NAME` beside the model.
        say: takes lines for the user.

    Returns:
        `dict`: the content of `embedding.json`. `models`: name, costs and dimension of teacher and student.
        `agreement`: on the held-out text, see [`agreement`]. `scores`: task → metric → `teacher`, `student` and, for
        retrieval, `asymmetric`: the student's questions among the teacher's documents. `guarantee`: source of
        questions → [`guarantee`] of the share whose first document is the teacher's, in the teacher's index where the
        student is of its space. `space`: with `others`, see [`space_matrix`].

    Raises:
        ValueError: no embedding model, data that can't be used, `others` of another space or of one name, or
            `eval_data`, `queries` or `others` without a teacher to compare with.
        OSError: a file or the Hub can't be read, or results can't be written.
    """
    since = time.perf_counter()
    settings = settings_from(EmbeddingEvaluationSettings, settings)
    # rows and names of tasks are refused before any model is loaded
    tasks = tasks_of(settings)
    of_mteb = named_tasks(settings.mteb_tasks) if settings.mteb_tasks else []
    place = model_in(model)
    # else a name on the Hub
    folder, recorded = (str(model), None) if place is None else (str(place.folder), place.settings.get("teacher"))
    with results_claimed(model, output_dir) as target:
        named = teacher or (recorded if isinstance(recorded, str) else None)
        _check(settings, tasks, named)
        facts = read_embedding_facts(folder)
        student = load_embedding_model(folder, argument="model")
        models: dict[str, Encoder] = {STUDENT: student}
        if named:
            models[TEACHER] = load_teacher(named, similarity=student.similarity)
        places: dict[str, Any] = {"data_dir": settings.data_dir and public_name(settings.data_dir)}
        places |= {name: [public_name(place) for place in getattr(settings, name)] for name in _PLACES}
        results: dict[str, Any] = {
            "models": costs_of(models, model_name(model)),
            "settings": asdict(settings) | places,
        }
        is_apart = has_own_space(facts)
        if settings.others:  # first, as it refuses other spaces
            if is_apart:
                raise ValueError(
                    f"others={short_repr(settings.others)} needs one space, and this student has one of its own "
                    "(output='student'); leave it out"
                )
            names = [TEACHER, STUDENT, *map(model_name, settings.others)]
            if len(set(names)) < len(names):
                raise ValueError(
                    f"others={short_repr(settings.others)} would stand in a table as {', '.join(names)}; names must "
                    "differ: rename folders"
                )
            others = [load_embedding_model(student_in(one).folder, argument="others") for one in settings.others]
            members = zip(names, [models[TEACHER], student, *others], strict=True)
            results[SPACE] = space_matrix(dict(members), retrieval_tasks(tasks))
        results |= _measured(models, settings, tasks, of_mteb=of_mteb, is_apart=is_apart, say=say)
        results |= {"versions": version_facts(), "time_s": round(time.perf_counter() - since, 1)}
        write_json(target / RESULTS_FILE, results)
        publish_scores(folder, {name: results[name] for name in _PUBLISHED if results.get(name)}, facts)
        return results


def _measured(
    models: Mapping[str, Encoder],
    settings: EmbeddingEvaluationSettings,
    tasks: Sequence[EmbeddingTask],
    *,
    of_mteb: Sequence[Any],
    is_apart: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """`agreement`, where there is text for it and a teacher, `scores` and guarantees."""
    results: dict[str, Any] = {}
    if settings.eval_data and TEACHER in models:
        keep_datasets_here()
        documents: Any = load_text(
            list(settings.eval_data), text_column=settings.text_column, split=settings.eval_split, argument="eval_data"
        )
        most, of_vectors = settings.max_texts, isinstance(models[TEACHER], TeacherVectors)  # they are of whole texts
        texts = documents["text"][:most] if of_vectors else some_paragraphs(documents, most)
        say(read_line({"texts to compare vectors of": texts}, documents.info.description))
        own, theirs = (models[side].encode(texts) for side in (STUDENT, TEACHER))
        similarity = models[TEACHER].similarity
        results["agreement"] = agreement(own, theirs, has_own_space=is_apart, similarity=similarity)
        say(f"agreement: {figures_line(results['agreement'], '{:.3f}')}")
    results["scores"], results[GUARANTEE] = {}, {}

    def add_scores(task: str, metrics: Mapping[str, Mapping[str, float]]) -> None:
        results["scores"][task] = metrics
        for metric, of_sides in metrics.items():
            say(f"{task}, {metric}: {figures_line(of_sides)}")

    for task in tasks:
        say(line_of(task))
        if isinstance(task, PairTask):
            scores = {}
            for side, model in models.items():
                first, second = model.encode(task.first), model.encode(task.second)
                scores[side] = pair_score(task.metric, first, second, task.labels, similarity=model.similarity)
            add_scores(task.name, {task.metric: scores})
            continue
        metrics, bound = _retrieval(task, models, is_apart=is_apart)
        if metrics:
            add_scores(task.name, metrics)
        if bound:
            results[GUARANTEE][task.name] = bound
            shown, least = percent_below(bound["agreement"]), percent_below(bound["at_least"])
            say(f"{task.name}: first hits as the teacher's {shown}%, at least {least}%")
    if of_mteb:
        names = {side: model.name for side, model in models.items() if isinstance(model, EmbeddingModel)}
        for name, metrics in mteb_scores(of_mteb, names).items():
            add_scores(name, metrics)
    return results


def format_scores(results: Mapping[str, Any]) -> str:
    """Lay out results of [`evaluate_embedding`] as Markdown: a row a measure, × 100."""
    table = embedding_table(results["models"], results.get("agreement", {}), results["scores"])
    pairings = [f"{title}\n\n{card_table(*cells)}" for title, cells in space_tables(results.get(SPACE, {}))]
    return "\n\n".join(filter(None, [table, guarantee_text(results.get(GUARANTEE, {})), *pairings]))


def costs_of(models: Mapping[str, Encoder], name: str) -> dict[str, dict[str, Any]]:
    """Side → name, costs and dimension of a student of a name and of its teacher; vectors alone have no costs."""
    named = {}
    for side, model in models.items():
        counted = {} if isinstance(model, TeacherVectors) else model_facts(model.encoder)
        costs = {cost: counted[cost] for cost in COSTS if counted} | {"dimension": model.dimension}
        named[side] = {"name": name if side == STUDENT else public_name(model.name)} | costs
    return named


def _check(settings: EmbeddingEvaluationSettings, tasks: Sequence[EmbeddingTask], teacher: str | Path | None) -> None:
    for name in ("eval_data", "queries", "others"):
        if (given := getattr(settings, name)) and teacher is None:
            raise ValueError(
                f"{name}={short_repr(given)} is compared with a teacher, and none is recorded: name --teacher, "
                "a model or a file of its vectors"
            )
    if settings.others and not retrieval_tasks(tasks):
        raise ValueError(
            f"others={short_repr(settings.others)} needs queries with documents: rows of qnli or squad in --data_dir, "
            "or --queries"
        )


def _retrieval(
    task: RetrievalTask, models: Mapping[str, Encoder], *, is_apart: bool
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """`(scores, guarantee)`: metric → side → score, and how often first hits are the teacher's; each may be empty."""
    # `encode_query` and `encode_document` of sentence-transformers use prompts of these names, if the model has them.
    queries = {side: model.encode(task.queries, prompt_name="query") for side, model in models.items()}
    documents = {side: model.encode(task.documents, prompt_name="document") for side, model in models.items()}
    compared = {side: (queries[side], documents[side]) for side in models}
    # in one space the student's questions can be looked up among the teacher's documents
    if TEACHER in models and models[TEACHER].dimension == models[STUDENT].dimension and not is_apart:
        compared[ASYMMETRIC] = queries[STUDENT], documents[TEACHER]
    # side → function; `asymmetric` is no model, and compares as the student
    by = {side: models.get(side, models[STUDENT]).similarity for side in compared}
    bound = {}
    if TEACHER in models:
        asking = ASYMMETRIC if ASYMMETRIC in compared else STUDENT
        student, teacher = (first_hits(*compared[side], by[side]) for side in (asking, TEACHER))
        bound = guarantee((student != teacher).tolist(), {WORDS: length_groups(task.queries), **task.groups})
    scores: dict[str, dict[str, float]] = {}
    if task.answers is not None:
        for side, vectors in compared.items():
            for metric, score in retrieval_scores(*vectors, task.answers, similarity=by[side]).items():
                scores.setdefault(metric, {})[side] = score
    return scores, bound


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
    sizes = {name: model_facts(model.encoder)["size_bytes"] for name, model in here.items()}
    pairings: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    teacher, similarity = next((name, model.similarity) for name, model in models.items())
    for task in tasks:
        queries = {name: model.encode(task.queries, prompt_name="query") for name, model in models.items()}
        index = {name: model.encode(task.documents, prompt_name="document") for name, model in models.items()}
        # the teacher's first hits in its own index are those wanted of all pairings
        wanted = first_hits(queries[teacher], index[teacher], similarity)
        cells = pairings[task.name] = {name: {} for name in models}
        for asking, answering in itertools.product(models, models):
            vectors, documents = queries[asking], index[answering]
            is_same = first_hits(vectors, documents, similarity) == wanted
            cell = cells[asking][answering] = {"first_hits": float(is_same.double().mean())}
            if task.answers is not None:
                scores = retrieval_scores(vectors, documents, task.answers, similarity=similarity)
                cell["ndcg_at_10"] = scores["ndcg_at_10"]
    return {
        "models": {name: {"size_bytes": sizes[name], "ms": ms[name]} for name in here},
        "runtime": runtime,
        "sizes": {task.name: [len(task.queries), len(task.documents)] for task in tasks},
        "tasks": pairings,
    }


def task_of_texts(texts: Sequence[str]) -> RetrievalTask | None:
    """Every second text is looked up among the others; None for fewer than four different texts."""
    unique = list(dict.fromkeys(texts))[: 2 * QUERIES]
    return RetrievalTask("held-out texts", unique[1::2], unique[0::2], None) if len(unique) >= 4 else None
