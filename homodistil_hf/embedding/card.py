"""The model card of an embedding model, and the tables that it shares with reports and the terminal."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from ..export.card import (
    CODE_NOTE,
    card_table,
    code_span,
    fill_card,
    guarantee_text,
    paper_words,
    plain_text,
    result_title,
    run_texts,
)
from ..export.facts import (
    BENCHMARKS,
    CARD_SECTION,
    GUARANTEE,
    MULTI_VECTOR,
    PACKED_VECTORS,
    SPARSE,
    THIS_FOLDER,
)
from ..models.cost import COSTS
from ..tables import FIGURE_NAMES

LOADERS = {SPARSE: "SparseEncoder", MULTI_VECTOR: "MultiVectorEncoder"}
"""Format → class of sentence-transformers; of all others `SentenceTransformer`."""
SPACE = "space"
"""Of an export's benchmarks: first hits and scores of each pairing of models, see `space_matrix` in evaluate.py."""
START = "start"
"""Section of a teacher's facts, where it is known by its vectors alone: the model that the student started from."""
STUDENT, TEACHER, ASYMMETRIC = "student", "teacher", "asymmetric"
"""Sides of a comparison; asymmetric: the student's questions among the teacher's documents."""
_WORDS = FIGURE_NAMES | {ASYMMETRIC: "student's questions, teacher's documents"}
_TAGS = {SPARSE: ["sparse-encoder", "splade"], MULTI_VECTOR: ["multi-vector", "ColBERT"]}
_USAGE = """from sentence_transformers import {loader}

{here}
model = {loader}(name{trust})
{example}"""
_LEARNT = "distilling it towards the vectors of {:,} texts in {}."
_TERMS = "The service that gave the vectors may have terms of use for models that are trained on them."
_SINGLE = 'print(model.similarity(*model.encode(["It rains.", "The weather is wet."])))'
_PAIR = """documents = model.encode_document(["The weather is wet.", "Cats sleep."])
print(model.similarity(model.encode_query("Does it rain?"), documents))"""


def embedding_table(
    models: Mapping[str, Mapping[str, Any]],
    agreement: Mapping[str, float],
    scores: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> str:
    """Lay costs and scores out as Markdown, shares × 100.

    Args:
        models: `student`, and `teacher` where there is one → costs.
        agreement: of [`agreement`], or some of it.
        scores: task → metric → side → score.
    """
    sides = [TEACHER, STUDENT] if TEACHER in models else [STUDENT]
    if any(ASYMMETRIC in values for metrics in scores.values() for values in metrics.values()):
        sides.append(ASYMMETRIC)
    lines: dict[str, Mapping[str, str]] = {
        name: {side: f"{values[name]:,}" for side, values in models.items() if name in values}
        for name in (*COSTS, "dimension")
    }
    lines |= {name: {STUDENT: f"{100 * agreement[name]:.1f}"} for name in _WORDS if name in agreement}
    for task, metrics in scores.items():
        for metric, values in metrics.items():
            name = f"{task}, {metric.replace('_', ' ')}"
            lines[name] = {side: f"{100 * score:.1f}" for side, score in values.items()}
    rows = [[_WORDS.get(name, name), *(cells.get(side, "") for side in sides)] for name, cells in lines.items()]
    return card_table(["", *(_WORDS.get(side, side) for side in sides)], rows)


def space_tables(space: Mapping[str, Any]) -> list[tuple[str, tuple[list[str], list[list[str]]]]]:
    """Title, headings and cells of a table for each measure of each task in `space_matrix`'s results.

    A row has a model that encodes queries, a column one that encoded the index.
    """
    titles = {"ndcg_at_10": "nDCG@10 × 100", "first_hits": "first hits as the teacher's alone, %"}
    tables = []
    for task, rows in space.get("tasks", {}).items():
        measures = next(iter(next(iter(rows.values())).values()))
        num_queries, num_documents = space["sizes"][task]
        counted = f"{task}, {num_queries:,} in an index of {num_documents:,}"
        for measure in (name for name in titles if name in measures):
            cells = []
            for name, row in rows.items():
                costs = space["models"].get(name)
                shown = [f"{costs['size_bytes'] / 1e6:.1f}", f"{costs['ms']:.1f}"] if costs else ["–", "–"]
                cells.append([name, *shown, *(f"{100 * cell[measure]:.1f}" for cell in row.values())])
            headings = ["queries by", "MB", "ms a query", *(f"index by {name}" for name in rows)]
            tables.append((f"{counted}: {titles[measure]}; ms in {space['runtime']}", (headings, cells)))
    return tables


def embedding_card(name: str, facts: Mapping[str, Any]) -> str:
    """The text of `README.md`.

    Args:
        name: of the folder.
        facts: content of `facts.json`.
    """
    student, teacher = facts[STUDENT], facts.get(TEACHER) or {}
    start = teacher.get(START)
    # what the student's weights come from
    origin = start or teacher
    routes, format = set(facts["probe"]["vectors"]), str(facts.get("format"))
    kinds = {SPARSE: "sparse vectors of {:,} words", MULTI_VECTOR: "a vector of {} channels for each token"}
    kind = kinds.get(format, "vectors of {} channels")
    summary = f"Texts of up to {student['max_seq_length']} tokens → {kind.format(student['dimension'])}."
    if teacher:
        how = "pruning its encoder and distilling its vectors on unlabelled text."
        if format == PACKED_VECTORS:
            bits = student["activation_bits"]
            how = f"giving its encoder weights of 1 bit and activations of {bits}, and distilling its vectors."
        if start:
            how = _LEARNT.format(teacher["num_texts"], code_span(teacher["name"]))
        summary += f" Made from {code_span(origin['name'])} by {how}"
        if student["dimension"] == teacher["dimension"] and not student.get("has_own_space"):
            summary += " Student and teacher vectors are interchangeable: an index of the teacher's can stay."
    example = _SINGLE
    if routes != {"query"}:
        example = _PAIR
    if format != MULTI_VECTOR and routes != {"query"}:
        table = "looked up in the teacher's table, documents encoded by the student"
        summary += f" Queries are {table if format == SPARSE else 'encoded by the student, documents by the teacher'}."
    texts, measured = run_texts(facts), facts.get(BENCHMARKS, {})
    if start:  # the student has weights of its start alone
        texts["licence"] = f"{run_texts({**facts, TEACHER: start})['licence']} {_TERMS}"
    if scores := measured.get("scores"):
        sides: dict[str, Any] = {side: {} for side in measured.get("models", ())}
        table = embedding_table(sides, {}, scores)
        texts["comparison"] += f"\n\nScores of tasks, × 100:\n\n{table}"
    spaces = [f"{title}\n\n{card_table(*cells)}" for title, cells in space_tables(measured.get(SPACE, {}))]
    further = filter(None, [texts["comparison"], guarantee_text(measured.get(GUARANTEE, {})), *spaces])
    texts["comparison"] = "\n\n".join(further)
    own_tags = [*_TAGS.get(format, ()), "feature-extraction", *["sentence-similarity"] * (format not in LOADERS)]
    own_tags.append("binarization" if format == PACKED_VECTORS else "pruning")
    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="feature-extraction" if format in LOADERS else "sentence-similarity",
        base_model=origin.get("hub_id"),
        license=origin.get("licence"),
        tags=["sentence-transformers", *own_tags, "distillation"],
    )
    return fill_card(
        data,
        facts["versions"],
        title=result_title(facts, name),
        summary=summary,
        usage=_USAGE.format(
            loader=LOADERS.get(format, "SentenceTransformer"),
            here=THIS_FOLDER,
            trust=", trust_remote_code=True" if format == PACKED_VECTORS else "",
            example=example,
        ),
        format_note=CODE_NOTE if format == PACKED_VECTORS else "",
        how=plain_text(str(facts.get(CARD_SECTION, {}).get("how", ""))),
        paper=paper_words(facts),
        **texts,
    )
