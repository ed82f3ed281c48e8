"""`evaluate_embedding`: an embedding model, beside its teacher, on the same texts, pairs and questions.

They are rows of GLUE and SQuAD as pairs and questions, queries of your own, tasks of MTEB by name. `metrics.py` has
the scores. [`space_matrix`] compares models of one space.

Shapes: N texts, pairs or questions, M documents, D channels.
"""

import importlib.util
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset

from ..data.blocks import drawn
from ..data.corpus import load_text
from ..data.read_line import read_line
from ..evaluation.evaluated_model import model_in, model_name, recorded_teacher, results_claimed
from ..evaluation.fine_tuning import settings_from
from ..evaluation.guarantee import WORDS, guarantee, length_groups
from ..export.card import card_table, guarantee_text
from ..export.export_folder import student_in
from ..export.facts import GUARANTEE
from ..files.caches import keep_datasets_here
from ..files.messages import short_repr
from ..files.provenance import public_name, version_facts
from ..files.settings import check_fields, make_tuples, refuse_without_part, setting
from ..files.strict_json import write_json
from ..models.cost import COSTS, model_facts
from ..tasks.glue import BENCHMARK_TASKS, PART_SUFFIX, load_task
from .card import ASYMMETRIC, SPACE, STUDENT, TEACHER, embedding_table, space_tables
from .deployable import query_ms
from .folder import has_own_space, is_packed, publish_scores, read_embedding_facts
from .metrics import agreement, first_hits, pair_score, retrieval_scores
from .model import EmbeddingModel, load_embedding_model
from .texts import LEAST_CHARACTERS, some_paragraphs
from .vectors import Encoder, TeacherVectors, load_teacher

logger = logging.getLogger(__name__)

RESULTS_FILE = "embedding.json"
QUERIES = 400
"""Texts at most that a run looks up among as many others."""
_PLACES = ("eval_data", "queries", "documents")
_PUBLISHED = ("models", "agreement", "scores", GUARANTEE, SPACE)
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
    query_column: str | None = setting(None, "Column with the queries; default: query, anchor, question or text.")
    document_column: str | None = setting(
        None, "Column with the documents; default: text, or the texts beside a query."
    )
    eval_split: str = setting("validation", "Split of a Hub data set or folder.")
    max_queries: int = setting(1000, "Pairs and questions of a task at most, ≥ 1.", least=1)

    belongs_to: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Setting → those beside which it has a part."""

    def __post_init__(self) -> None:
        make_tuples(self)
        if bool(self.queries) != bool(self.documents):
            raise ValueError(
                f"queries={short_repr(self.queries)}, documents={short_repr(self.documents)}: queries are looked up "
                "in documents; name both, or neither"
            )
        check_fields(self)
        for name, sources in self.belongs_to.items():
            if not any(getattr(self, source) for source in sources):
                refuse_without_part(self, {name: f"it belongs to {' or '.join(sources)}; leave it out"})


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
    belongs_to = {
        **dict.fromkeys(("text_column", "max_texts"), ("eval_data",)),
        **dict.fromkeys(("query_column", "document_column", "group_columns"), ("queries",)),
        "eval_split": ("eval_data", "queries"),
        "max_queries": ("data_dir", "queries"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.eval_data or self.mteb_tasks or self.data_dir or self.queries):
            raise ValueError(
                "data_dir, eval_data, queries and mteb_tasks are not set; name rows of tasks (--data_dir glue), "
                "held-out text (--eval_data held-out.txt), queries with their documents, tasks of MTEB, or several of "
                "them"
            )


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
    settings = settings_from(EmbeddingEvaluationSettings, settings)
    # rows and names of tasks are refused before any model is loaded
    tasks = tasks_of(settings)
    of_mteb = named_tasks(settings.mteb_tasks) if settings.mteb_tasks else []
    place = model_in(model)
    folder = str(model) if place is None else str(place.folder)  # a name on the Hub, or a folder
    with results_claimed(model, output_dir) as target:
        named = teacher or recorded_teacher(model)
        _check(settings, tasks, named)
        facts = read_embedding_facts(folder)
        student = load_embedding_model(folder, argument="model")
        if of_mteb and is_packed(student):
            raise ValueError(
                f"mteb_tasks={short_repr(settings.mteb_tasks)} has no part with a model of bits, whose code mteb "
                "would run; leave it out"
            )
        models: dict[str, Encoder] = {STUDENT: student}
        if named:
            models[TEACHER] = load_teacher(named, similarity=student.similarity)
        places: dict[str, Any] = {"data_dir": settings.data_dir and public_name(settings.data_dir)}
        places |= {name: [public_name(place) for place in getattr(settings, name)] for name in _PLACES}
        costs = costs_of(models, model_name(model))
        if named:  # two teachers may have one name and costs
            costs[TEACHER]["sha256"] = models[TEACHER].sha256
        results: dict[str, Any] = {
            "models": costs,
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
        if settings.eval_data:
            keep_datasets_here()
            documents: Any = load_text(
                settings.eval_data, text_column=settings.text_column, split=settings.eval_split, argument="eval_data"
            )
            most, is_given = settings.max_texts, isinstance(models[TEACHER], TeacherVectors)
            # given vectors are of whole texts
            texts = documents["text"][:most] if is_given else some_paragraphs(documents, most)
            if len(texts) < 2:
                raise ValueError(
                    f"eval_data={short_repr(settings.eval_data)} has {len(texts)} texts to compare vectors of (in "
                    f"text files, lines of {LEAST_CHARACTERS} characters or more); name more text, or a table with a "
                    "text a row (.csv, .jsonl)"
                )
            say(read_line({"texts to compare vectors of": texts}, documents.info.description))
            own, theirs = (models[side].encode(texts) for side in (STUDENT, TEACHER))
            similarity = models[TEACHER].similarity
            results["agreement"] = agreement(own, theirs, has_own_space=is_apart, similarity=similarity)
        scores, bounds = {}, {}
        for task in tasks:
            say(line_of(task))
            scores[task.name], bounds[task.name] = _scored(task, models, is_apart=is_apart)
        if of_mteb:
            scores |= mteb_scores(of_mteb, models)
        results["scores"] = {name: found for name, found in scores.items() if found}
        results[GUARANTEE] = {name: found for name, found in bounds.items() if found}
        results["versions"] = version_facts()
        write_json(target / RESULTS_FILE, results)
        publish_scores(folder, {name: results[name] for name in _PUBLISHED if results.get(name)}, facts)
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


def _scored(
    task: EmbeddingTask, models: Mapping[str, Encoder], *, is_apart: bool
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """`(scores, guarantee)`: metric → side → score, and how often first hits are the teacher's; each may be empty."""
    if isinstance(task, PairTask):
        pairs = {side: (model.encode(task.first), model.encode(task.second)) for side, model in models.items()}
        of_sides = {
            side: pair_score(task.metric, *vectors, task.labels, similarity=models[side].similarity)
            for side, vectors in pairs.items()
        }
        return {task.metric: of_sides}, {}
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


# What is measured on


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
    for name in _NAMES:
        folders = ("squad", "squad_v2") if name == "squad" else (name, f"glue/{name}")
        if not any(Path(data_dir, folder + part).is_dir() for folder in folders for part in ("", PART_SUFFIX)):
            continue
        data = load_task(name, data_dir)
        rows = data.dev["validation"]
        first, second = BENCHMARK_TASKS[name].columns.texts
        if name == "squad":
            # paragraphs of training questions make the index larger, and the search harder
            index = [*rows[second][:], *data.train[second][:]]
            tasks.append(_retrieval_task(data.name, rows, (first, second), index, max_queries))
        elif name == "qnli":
            # class 0: the sentence answers its question; sentences of all rows are the index
            entailed = rows.select(np.flatnonzero(np.asarray(rows["label"][:]) == 0).tolist())
            tasks.append(_retrieval_task(data.name, entailed, (first, second), rows[second][:], max_queries))
        else:
            metric = "spearman" if name == "stsb" else "average_precision"
            rows = rows if name == "stsb" else drawn(rows, max_queries, seed=0)
            tasks.append(PairTask(data.name, metric, rows[first][:], rows[second][:], rows["label"][:]))
    if not tasks:
        raise ValueError(f"data_dir={str(data_dir)!r} has rows of none of {', '.join(_NAMES)}; add some")
    return tasks


def _retrieval_task(
    name: str, rows: Dataset, columns: tuple[str, str], documents: list[str], max_queries: int
) -> RetrievalTask:
    if not len(rows):
        raise ValueError(f"{name} has no question with an answer among its rows for evaluation; give it some")
    asked = drawn(rows, max_queries, seed=0)
    # equal documents are one, or no rank could tell them apart
    index = {text: number for number, text in enumerate(dict.fromkeys(documents))}
    queries, right = (asked[column][:] for column in columns)
    return RetrievalTask(name, queries, list(index), [index[text] for text in right])


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


def mteb_scores(tasks: Sequence[Any], models: Mapping[str, Encoder]) -> dict[str, dict[str, dict[str, float]]]:
    """Run tasks of [`named_tasks`] with the models that are here, and not vectors alone.

    Returns:
        `dict`: task → its main metric → side → score, the mean over subsets and splits.
    """
    import mteb
    from sentence_transformers import SentenceTransformer

    scores: dict[str, dict[str, dict[str, float]]] = {
        task.metadata.name: {task.metadata.main_score: {}} for task in tasks
    }
    here = {side: model.name for side, model in models.items() if isinstance(model, EmbeddingModel)}
    for side, name in here.items():
        model = SentenceTransformer(name, trust_remote_code=False)
        # No cache: mteb's cache finds a folder by its name alone, whatever its weights.
        results = mteb.evaluate(model, tasks, cache=None, co2_tracker=False)
        for task, result in zip(tasks, results.task_results, strict=True):
            scores[task.metadata.name][task.metadata.main_score][side] = float(np.nan_to_num(result.get_score()))
    return scores


def load_queries(settings: QuerySettings) -> RetrievalTask:
    """Read queries and the documents that they are looked up in; which document answers a query isn't needed.

    A row of a table is a query, or a line of a text file; as many as `max_queries`, evenly spread over all.

    Raises:
        ValueError: unreadable files, a missing column, or fewer than two documents.
    """

    def read(argument: str, setting: str, column: str | None) -> Any:
        source, split = getattr(settings, argument), settings.eval_split
        try:
            return load_text(
                source, text_column=column, split=split, line_by_line=True, side=argument, argument=argument
            )
        except ValueError as error:  # it calls the column of a text by the name that it has elsewhere
            raise ValueError(str(error).replace("text_column", setting)) from error

    queries = read("queries", "query_column", settings.query_column)
    documents = read("documents", "document_column", settings.document_column)
    texts, lines = ([(text or "").strip() for text in rows["text"]] for rows in (queries, documents))
    index = list(dict.fromkeys(filter(None, lines)))
    # places of the queries that stay, for texts and groups alike: those with text, `most` of them evenly spread
    rows, most = [row for row in range(len(texts)) if texts[row]], settings.max_queries
    rows = [rows[len(rows) * place // most] for place in range(most)] if len(rows) > most else rows
    if not rows or len(index) < 2:
        raise ValueError(
            f"queries={short_repr(list(settings.queries))} and documents={short_repr(list(settings.documents))} have "
            f"{len(rows)} and {len(index)} texts; expected a query and two documents, or more"
        )
    names = getattr(settings, "group_columns", ())
    groups = {name: read("queries", "group_columns", name)["text"][:] for name in names}
    groups = {name: [values[row] or "none" for row in rows] for name, values in groups.items()}
    shown, _, left = queries.info.description.partition("; not read: ")
    others = ", ".join(name for name in left.split(", ") if name not in names)
    shown = "; not read: ".join(filter(None, [", ".join(dict.fromkeys([shown, *names])), others]))
    columns = f"queries {shown}; documents {documents.info.description}"
    return RetrievalTask("queries", [texts[row] for row in rows], index, None, groups, columns)
