"""A cascade: a small student encodes each query, and where its first two hits are close, the teacher encodes it again.

Both look up in one index, the teacher's, so nothing but the query is encoded twice. [`measure_cascade`] finds
the margin for a wanted agreement, on held-out queries: it is chosen on every second one, and judged on the others.

Shapes: N queries, M documents, D channels.
"""

import itertools
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..evaluation.guarantee import guarantee, largest_share
from ..export.card import percent_below
from ..export.export_folder import members_hint, student_in
from ..files.folders import check_writable
from ..files.messages import short_repr
from ..files.provenance import public_name, version_facts
from ..files.settings import setting
from ..files.strict_json import write_json
from ..models.cost import model_facts
from ..tables import aligned_lines
from .deployable import query_ms
from .evaluate import QuerySettings, RetrievalTask, line_of, retrieval_tasks, tasks_of
from .folder import has_own_space, read_embedding_facts
from .metrics import best, gains, ranks_of
from .model import EmbeddingModel, load_embedding_model, model_folder

logger = logging.getLogger(__name__)
RESULTS_FILE = "cascade.json"
SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)


class Hits(NamedTuple):
    """The best documents of each query.

    Args:
        rows: `(N, k)` int64, most similar first.
        similarities: `(N, k)`, of the model that answered.
        asked: `(N,)` bool, whether the teacher answered.
    """

    rows: torch.Tensor
    similarities: torch.Tensor
    asked: torch.Tensor


@dataclass(frozen=True)
class Cascade:
    """Answers queries with a student, and with its teacher where the student is in doubt.

    Args:
        student: of the teacher's space: folder, Hub name or loaded; of a loaded one the space can't be checked.
        teacher: folder, Hub name or loaded.
        documents: their vectors by the teacher, `(M, D)`, two or more; kept in float32.
        margin: the teacher answers where the similarity of the first hit is ahead of the second's by less; 0: never,
            infinity: always. `homodistil cascade` finds one for a wanted agreement.

    Raises:
        ValueError: vectors of another length or space, or fewer than two documents.

    Example:
    ```python
    teacher = load_embedding_model("all-MiniLM-L6-v2")
    cascade = Cascade("runs/embeddings/student", teacher, teacher.encode(texts, prompt_name="document"), margin=0.04)
    cascade.search(["Who wrote this?"], k=3).rows
    ```
    """

    student: EmbeddingModel
    teacher: EmbeddingModel
    documents: torch.Tensor = field(repr=False)
    margin: float = 0.0

    def __post_init__(self) -> None:
        for name in ("student", "teacher"):
            if isinstance(model := getattr(self, name), str | Path):
                object.__setattr__(self, name, load_embedding_model(model, argument=name))
                if name == "student":
                    check_space(model_folder(model, name), f"{name}={str(model)!r}")
        object.__setattr__(self, "documents", torch.as_tensor(self.documents).float())
        lengths = {"student": self.student.dimension, "teacher": self.teacher.dimension}
        if set(lengths.values()) != {self.documents.shape[-1]} or self.documents.dim() != 2:
            raise ValueError(
                f"documents has the shape {tuple(self.documents.shape)}, and vectors have the lengths {lengths}; a "
                "cascade needs one space: the teacher's vectors of all documents, and a student of output='teacher'"
            )
        if len(self.documents) < 2:
            raise ValueError(f"documents has {len(self.documents)} rows; a margin is between two of them, or more")

    def search(self, queries: list[str], k: int = 10) -> Hits:
        """Find the best documents of each query; the prompt called `query` stands before it, where there is one."""
        # two hits at least: the margin is between them
        most, similarity = min(max(k, 2), len(self.documents)), self.teacher.similarity
        nearness, rows = best(self.student.encode(queries, prompt_name="query"), self.documents, most, similarity)
        asked = nearness[:, 0] - nearness[:, 1] < self.margin
        if asked.any():
            # queries in doubt: the teacher's hits, in the same index, take the place of the student's
            again = [query for query, is_asked in zip(queries, asked.tolist(), strict=True) if is_asked]
            vectors = self.teacher.encode(again, prompt_name="query")
            nearness[asked], rows[asked] = best(vectors, self.documents, most, similarity)
        return Hits(rows[:, :k], nearness[:, :k], asked)


def check_space(folder: Path, label: str) -> None:
    """Refuse, by a ValueError, a student whose folder says that its vectors are in a space of its own."""
    if has_own_space(read_embedding_facts(folder)):
        raise ValueError(
            f"{label} has vectors of another space than the teacher's, so they share no index; distil one of "
            "output='teacher'"
        )


@dataclass(frozen=True)
class CascadeSettings(QuerySettings):
    """Settings of [`measure_cascade`].

    Raises:
        ValueError: no queries are named, or a value is out of range.
    """

    model: str = setting("", "Student: run, export or Hub name.", text="a name")
    teacher: str | None = setting(None, "Folder or Hub name; default: as the run recorded it.")
    agreement: float = setting(0.99, "Wanted share of first hits as the teacher's, in (0, 1).", range="(0, 1)")
    max_queries: int = setting(1000, "Questions of a task at most, ≥ 20.", least=20)
    output_dir: str | None = setting(None, "Folder for cascade.json; default: none is written.")
    belongs_to = dict.fromkeys(("query_column", "document_column", "eval_split"), ("queries",))

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.queries) == bool(self.data_dir):
            raise ValueError(
                f"queries={short_repr(self.queries)}, data_dir={short_repr(self.data_dir)}: name queries and their "
                "documents, or rows of tasks (--data_dir glue)"
            )


class Encoded(NamedTuple):
    """Held-out queries of one source, looked up in the teacher's index by both models.

    Args:
        margins: `(N,)`, by how much the student's first hit is ahead of its second.
        same: `(N,)` bool, whether its first hit is the teacher's.
        gains: by the student and by the teacher, each `(N,)`, whose mean is nDCG@10; None without answers.
    """

    margins: torch.Tensor
    same: torch.Tensor
    gains: tuple[torch.Tensor, torch.Tensor] | None = None


def measure_cascade(settings: CascadeSettings, say: Callable[[str], None] = logger.info) -> dict[str, Any]:
    """Draw the curve of a cascade, and choose a margin.

    Args:
        settings: [`CascadeSettings`].
        say: takes lines for the user.

    Returns:
        `dict`: `ms`, milliseconds of a query by `student` and `teacher` in `runtime`; `curves`: source → rows of
        [`curve`]; `choices`: source → [`choose_margin`], and `macs`, the mean share of the teacher's MACs.

    Raises:
        ValueError: no teacher, a student of another space, or queries that can't be used.
        OSError: a file or the Hub can't be read, or the results can't be written.
    """
    if settings.output_dir is not None:
        check_writable(settings.output_dir, f"output_dir={settings.output_dir!r}")
    place = student_in(settings.model)
    named = settings.teacher or place.teacher
    if named is None:
        hint = members_hint(settings.model)
        raise ValueError(
            f"model={settings.model!r}: no run has recorded its teacher, a model; name it with --teacher{hint}"
        )
    student, teacher = load_embedding_model(place.folder, argument="model"), load_embedding_model(named)
    check_space(place.folder, f"model={settings.model!r}")
    if student.dimension != teacher.dimension:
        raise ValueError(
            f"model={settings.model!r} has vectors of {student.dimension} channels, its teacher of "
            f"{teacher.dimension}, so they share no index; distil one of output='teacher'"
        )
    tasks = retrieval_tasks(tasks_of(settings))
    if not tasks:
        raise ValueError(f"data_dir={settings.data_dir!r} has no questions, of qnli or squad; name others")
    for task in tasks:
        if min(len(task.queries), len(task.documents)) < 2:
            raise ValueError(
                f"{task.name} has {len(task.queries)} queries and {len(task.documents)} documents; expected two of "
                "each, or more"
            )
    macs = [model_facts(model.encoder)["encoder_macs"] for model in (student, teacher)]
    runtime, ms = query_ms({"student": student, "teacher": teacher}, tasks[0].queries)
    results: dict[str, Any] = {"model": public_name(settings.model), "teacher": public_name(teacher.name)}
    results |= {"ms": ms, "runtime": runtime, "wanted": settings.agreement, "curves": {}, "choices": {}}
    results["versions"] = version_facts()
    for task in tasks:
        say(line_of(task))
        encoded = _encoded(task, student, teacher)
        results["curves"][task.name] = curve(encoded, ms)
        choice = choose_margin(encoded, settings.agreement, ms)
        # every query costs the student's MACs, and those that are asked again the teacher's as well
        results["choices"][task.name] = choice | {"macs": macs[0] / macs[1] + choice["share"]}
    if settings.output_dir is not None:
        folder = Path(settings.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RESULTS_FILE, results)
    return results


def curve(encoded: Encoded, ms: Mapping[str, float]) -> list[dict[str, float]]:
    """What a cascade brings for each share of queries that go to the teacher, those of least margin first.

    Returns:
        A row for each of `SHARES`: `share`, `agreement` of first hits with the teacher's, mean `ms` a query, and
        `ndcg_at_10` where answers are known.
    """
    # one order for all shares: the first ones go to the teacher
    order = encoded.margins.argsort(stable=True)
    rows = []
    for share in SHARES:
        asked = torch.zeros(len(order), dtype=torch.bool)
        asked[order[: round(share * len(order))]] = True
        # the teacher's answer is its own first hit, so a query that is asked always agrees
        row = {"share": share, "agreement": float((encoded.same | asked).double().mean()), "ms": _mean_ms(ms, share)}
        if encoded.gains is not None:
            own, theirs = encoded.gains
            row["ndcg_at_10"] = float(torch.where(asked, theirs, own).mean())
        rows.append(row)
    return rows


def choose_margin(encoded: Encoded, wanted: float, ms: Mapping[str, float]) -> dict[str, Any]:
    """The least margin whose agreement has the wanted bound on every second query, judged on the other queries.

    The bound is that of [`guarantee`]: on new queries as many as these the agreement falls short of it once in 20
    draws. Margins are tried from the largest down to the first that fails, so that no choice among them weakens it.

    Args:
        encoded: held-out queries.
        wanted: share of first hits as the teacher's.
        ms: milliseconds of a query by `student` and `teacher`.

    Returns:
        `margin` for [`Cascade`]; on the other queries the `share` that goes to the teacher, [`guarantee`] of the
        agreement, mean `ms` a query, and `cost`, its share of the teacher's.
    """
    margins, same = encoded.margins[0::2], encoded.same[0::2]
    order = margins.argsort(stable=True)
    # so many changed hits may be left that even their largest share is within what is wanted
    bounds = (largest_share(num_changed, len(order)) for num_changed in range(len(order)))
    num_left = sum(1 for _ in itertools.takewhile(lambda bound: bound <= 1 - wanted, bounds)) - 1
    changed = margins[order][~same[order]]
    margin = 0.0 if num_left >= 0 else math.inf  # too few queries for the bound: the teacher answers all
    if len(changed) > num_left >= 0:
        # between the last margin that has to be caught and the next larger one, so that rounding decides nothing
        last = changed[-1 - num_left]
        later = margins[margins > last]
        margin = float((last + later.min()) / 2) if len(later) else math.inf
    # judged on the queries that had no part in the choice
    others = slice(1, None, 2)
    asked = encoded.margins[others] < margin
    share = float(asked.double().mean())
    bound = guarantee((~(encoded.same[others] | asked)).tolist())
    mean_ms = _mean_ms(ms, share)
    return {"margin": margin, "share": share, "ms": mean_ms, "cost": mean_ms / ms["teacher"], "guarantee": bound}


def _mean_ms(ms: Mapping[str, float], share: float) -> float:
    return ms["student"] + share * ms["teacher"]


def _encoded(task: RetrievalTask, student: EmbeddingModel, teacher: EmbeddingModel) -> Encoded:
    index = teacher.encode(task.documents, prompt_name="document")
    vectors = [model.encode(task.queries, prompt_name="query") for model in (student, teacher)]
    # both look up two hits in the teacher's index: the margin is between the student's
    (nearness, rows), (_, wanted) = (best(one, index, 2, teacher.similarity) for one in vectors)
    scored = None
    if task.answers is not None:
        own, theirs = (gains(ranks_of(one, index, task.answers, teacher.similarity)) for one in vectors)
        scored = own, theirs
    return Encoded(nearness[:, 0] - nearness[:, 1], rows[:, 0] == wanted[:, 0], scored)


def format_cascade(results: Mapping[str, Any]) -> str:
    """Lay out results of [`measure_cascade`]: the curve of each source, and the margin that was chosen."""
    parts = []
    for source, rows in results["curves"].items():
        has_answers = "ndcg_at_10" in rows[0]
        headings = ["sent to the teacher, %", "same first hit, %", *["nDCG@10"] * has_answers]
        table = [[*headings, f"ms a query, {results['runtime']}"]]
        for row in rows:
            scores = [f"{100 * row['ndcg_at_10']:.1f}"] if has_answers else []
            table.append([f"{100 * row['share']:.0f}", f"{100 * row['agreement']:.1f}", *scores, f"{row['ms']:.1f}"])
        choice = results["choices"][source]
        bound = choice["guarantee"]
        least, confidence = percent_below(bound["at_least"]), f"{bound['confidence']:.0%}"
        missed = ", less than wanted" * (bound["at_least"] < results["wanted"])
        margin = "no margin" if choice["margin"] == math.inf else f"margin {choice['margin']:.4g}"
        chosen = (
            f"{margin} for {results['wanted']:.1%}, chosen on every second query; on the others "
            f"{choice['share']:.1%} go to the teacher,\n{bound['agreement']:.1%} of first hits are the teacher's (at "
            f"least {least}% with {confidence} confidence{missed}), at {choice['cost']:.0%} of its time and "
            f"{choice['macs']:.0%} of its MACs"
        )
        if choice["margin"] == math.inf:
            fewest = 2 * math.ceil(math.log(1 - bound["confidence"]) / math.log(results["wanted"]))
            chosen += f";\nno share of the student's answers is sure enough: {fewest:,} queries show it at the soonest"
        parts.append("\n".join([source, *aligned_lines(table), "", chosen]))
    return "\n\n".join(parts)
