"""Students of an embedding model: size, speed and int8; plain ones; a cascade; given vectors.

The records are of benchmarks/studies/embedding_speed.py at commit f5db6bb, plain.py at commit 38d89b54 and
teacher_vectors.py at commit 8de9daff. That of the cascade is what `homodistil cascade` writes, by the command in
docs/embeddings.md.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies import retrieval
from benchmarks.studies.study import Study
from homodistil_hf.tables import markdown_table

STUDENT, TEACHER, ASYMMETRIC = "student", "teacher", "asymmetric"
FORMS = ("torch", "onnxruntime", "onnxruntime, int8")
BATCH_SIZES = (1, 32)
_PER_S = "sentences_per_s, 1 at once"
SCORES = (("stsb", "spearman"), ("qnli_part", "ndcg_at_10"), ("squad_part", "ndcg_at_10"))
AGREEMENT = ("cosine", "neighbours_in_index")
MAP_ALONE = "map alone"
SHARES = (0.0, 0.1, 0.2, 0.4)
"""Of queries that go to the teacher, as the table has them."""
VARIANTS = {"start": "this package", "LEAF": "LEAF's recipe"}
"""Variant of the students of given vectors → its name in the table."""
GUIDE_RUNS = {"half": "1/2", "quarter": "1/4"}
"""Run of retrieval.py → share of the MACs."""
PAGE = Path("docs/embeddings.md")


def speed_table(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row a model and form, and how many times as fast it is as the teacher in the same form."""
    cells = [
        [
            *(name, form, f"{100 * one['stsb']:.1f}", f"{one['size_bytes'] / 1e6:.1f}", f"{one[_PER_S]:,.0f}"),
            f"{one[_PER_S] / models[TEACHER][form][_PER_S]:.1f}",
        ]
        for name, found in models.items()
        for form, one in found.items()
        if form in FORMS
    ]
    header = ["model", "run by", "STS-B", "MB", "sentences/s", "× faster"]
    return markdown_table(header, cells)


def guide_table(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row a model that the guide is of: what it keeps of STS-B, and cost."""
    kept = {TEACHER: 1.0} | {f"{share} MACs": retrieval.stsb_kept(run) for run, share in GUIDE_RUNS.items()}
    cells = [
        [name.removesuffix(" MACs"), f"{100 * share:.1f} %", f"{models[name]['torch']['size_bytes'] / 1e6:.0f}"]
        + [f"{models[name][form][_PER_S]:,.0f}" for form in (FORMS[0], FORMS[2])]
        for name, share in kept.items()
    ]
    return markdown_table(["MACs", "STS-B kept", "MB", "sentences/s, torch", "sentences/s, ONNX int8"], cells)


def plain_table(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row a model; the teacher's scores stand beside each student's."""
    *_, last = models.values()
    cells = []
    for name, one in models.items():
        side, found = (TEACHER, last) if name == TEACHER else (STUDENT, one)
        # of retrieval, the student's questions in the teacher's index
        scores = [found["scores"][task][metric] for task, metric in SCORES]
        values = [100 * (of.get("asymmetric", of[side]) if side == STUDENT else of[side]) for of in scores]
        values += [100 * (found["agreement"][kind] if side == STUDENT else 1) for kind in AGREEMENT]
        values += [one["size_bytes"] / 1e6, *(one[f"ms, {size} at once"] for size in BATCH_SIZES)]
        cells.append([name, f"{one['macs']:.2f}", *(f"{value:.1f}" for value in values)])
    header = ["model", "MACs", "STS-B", "QNLI", "SQuAD", "cosine", "neighbours", "MB", "ms, 1 text", "ms, 32 texts"]
    return markdown_table(header, cells)


def cascade_table(results: Mapping[str, Any]) -> list[str]:
    """A row a share of queries for the teacher, then the margin that was chosen; no times: the machine was busy."""
    ((source, rows),) = results["curves"].items()
    choice = results["choices"][source]
    own = choice["macs"] - choice["share"]
    cells = [
        [f"{100 * row[name]:.1f}" for name in ("share", "agreement", "ndcg_at_10")] + [f"{row['share'] + own:.0%}"]
        for row in rows
        if row["share"] in SHARES
    ]
    bound = choice["guarantee"]
    agreement = f"{100 * bound['agreement']:.1f}, at least {100 * bound['at_least']:.1f}"
    cells.append([f"{100 * choice['share']:.1f} by margin", agreement, "", f"{choice['macs']:.0%}"])
    return markdown_table(["sent to the teacher, %", "same first hit, %", "nDCG@10", "its MACs"], cells)


def vectors_table(rows: list[dict[str, Any]]) -> list[str]:
    """A row a variant and rate, behind the teacher; questions are the variant's, documents the teacher's."""
    cells = [[TEACHER, "", *_scores(rows[0], TEACHER, TEACHER), *["100.0"] * len(AGREEMENT)]]
    for row in rows:
        name = row["variant"]
        rate = "–" if name == MAP_ALONE else f"{row['rate']:g}"
        scores = [*_scores(row, STUDENT, ASYMMETRIC), *(f"{100 * row['agreement'][kind]:.1f}" for kind in AGREEMENT)]
        cells.append([VARIANTS.get(name, name), rate, *scores])
    return markdown_table(["", "rate", "STS-B", "QNLI", "SQuAD", "cosine", "neighbours"], cells)


def _scores(row: Mapping[str, Any], side: str, retrieving: str) -> list[str]:
    """Scores × 100 of a side, those of retrieval of another."""
    sides = (side, retrieving, retrieving)
    found = (row["scores"][task][metric][one] for (task, metric), one in zip(SCORES, sides, strict=True))
    return [f"{100 * score:.1f}" for score in found]


VECTORS = Study(Path("docs/results/studies/teacher_vectors.json"), PAGE, lambda rows: {"vectors": vectors_table(rows)})
CASCADE = Study(Path("docs/results/studies/cascade.json"), PAGE, lambda results: {"cascade": cascade_table(results)})
SPEED = Study(Path("docs/results/embedding_speed.json"), PAGE, lambda read: {"speed": speed_table(read["models"])})
GUIDE = Study(SPEED.record, Path("docs/guides/embedding.md"), lambda read: {"known": guide_table(read["models"])})
PLAIN = Study(Path("docs/results/embedding_plain.json"), PAGE, lambda read: {"plain": plain_table(read["models"])})
