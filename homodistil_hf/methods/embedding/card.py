"""The card of an embedding model: its texts and vectors, its costs, its scores beside the teacher's."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from ...export.card import COST_LABELS, card_table, code_span, fill_card, one_line
from ...export.facts import BENCHMARKS
from ...models.cost import COSTS

STUDENT, TEACHER, ASYMMETRIC = "student", "teacher", "asymmetric"
"""Sides of a comparison; asymmetric: the student's questions among the teacher's documents."""
_WORDS = COST_LABELS | {
    "cosine": "cosine to the teacher's vectors",
    "neighbours": "ten nearest texts alike",
    "neighbours_in_index": "the same, in the teacher's index",
    "spread": "spread of similarities, of the teacher's",
    ASYMMETRIC: "student's questions, teacher's documents",
}
_TAGS = ["sentence-transformers", "feature-extraction", "sentence-similarity", "pruning", "distillation"]
_USAGE = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer({name!r})
{example}"""
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
    if any(ASYMMETRIC in found for metrics in scores.values() for found in metrics.values()):
        sides.append(ASYMMETRIC)
    lines: dict[str, Mapping[str, str]] = {
        name: {side: f"{found[name]:,}" for side, found in models.items() if name in found}
        for name in (*COSTS, "dimension")
    }
    lines |= {name: {STUDENT: f"{100 * agreement[name]:.1f}"} for name in _WORDS if name in agreement}
    for task, metrics in scores.items():
        for metric, found in metrics.items():
            name = f"{task}, {metric.replace('_', ' ')}"
            lines[name] = {side: f"{100 * score:.1f}" for side, score in found.items()}
    rows = [[_WORDS.get(name, name), *(cells.get(side, "") for side in sides)] for name, cells in lines.items()]
    return card_table(["", *(_WORDS.get(side, side) for side in sides)], rows)


def embedding_card(name: str, facts: Mapping[str, Any]) -> str:
    """The text of `README.md`.

    Args:
        name: of the folder.
        facts: content of `facts.json`.
    """
    student, teacher = facts[STUDENT], facts.get(TEACHER)
    models = {side: found for side, found in ((TEACHER, teacher), (STUDENT, student)) if found}
    summary, base = (
        f"Texts of up to {student['max_seq_length']} tokens → vectors of {student['dimension']} channels.",
        None,
    )
    if teacher:
        base = teacher["name"] if teacher.get("is_on_hub") is True else None
        summary += f" Made from {code_span(teacher['name'])} by pruning its encoder and distilling its vectors on "
        summary += "unlabelled text."
        if student["dimension"] == teacher["dimension"] and not student.get("has_own_space"):
            summary += " They are in its space: an index of its vectors can stay."
    example = _SINGLE
    if set(facts["probe"]["vectors"]) != {"query"}:
        example = _PAIR
        summary += " Queries are encoded by the student, documents by the teacher."
    measured = facts.get(BENCHMARKS, {})
    agreement = measured.get("agreement") or facts.get("evaluation", {})
    table = embedding_table(measured.get("models", models), agreement, measured.get("scores", {}))
    pipeline = {"library_name": "sentence-transformers", "pipeline_tag": "sentence-similarity"}
    return fill_card(
        ModelCardData(**pipeline, base_model=base, tags=_TAGS),
        facts["versions"],
        title=name,
        summary=summary,
        comparison=f"{table}\n\nLikeness and scores are × 100, on held-out texts.",
        usage=_USAGE.format(name=one_line(name), example=example),
    )
