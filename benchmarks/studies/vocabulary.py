"""Smaller vocabularies of a real model: their share of held-out text, and the worth of a student of one.

The first table is of benchmarks/studies/vocabulary.py at commit 4419268. The students, trained for hours, were
compared by benchmarks/vocabulary.py at commit 7db6fe1: with the same tokens, on the same blocks of text, against the
same teacher; one trimmed with its teacher before it was distilled, the other afterwards.
"""

from pathlib import Path
from typing import Any

from benchmarks.studies.study import Study
from homodistil_hf.tables import markdown_table

BYTES = 4  # of a parameter in float32


def coverage_table(rows: list[dict[str, Any]]) -> list[str]:
    """Vocabularies by size."""
    cells = [
        [f"`{row['vocabulary']}`", f"{row['num_tokens']:,}", f"{row['coverage']:.1%}", f"+{row['growth']:.1%}"]
        + [f"{row['saved_parameters'][name] * BYTES / 1e6:.1f} MB" for name in ("teacher", "quarter")]
        for row in sorted(rows, key=lambda row: row["num_tokens"])
    ]
    header = ["vocabulary", "tokens", "held-out tokens kept", "longer text", "saved, teacher", "saved, 1/4 student"]
    return markdown_table(header, cells)


def students_table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Students side by side."""
    cells = []
    for name, row in rows.items():
        metrics = {"kl": ".3f", "agreement": ".1%", "mlm_accuracy": ".1%"}
        words = [format(row[metric], shape) if metric in row else "–" for metric, shape in metrics.items()]
        glue = f"{row['glue_mean']:.3f}" if "glue_mean" in row else "–"
        cells.append([name, *words, glue, f"{row['num_parameters'] / 1e6:.1f} M", f"{row['size_bytes'] / 1e6:.1f} MB"])
    header = ["student", "KL, nats", "same word as teacher", "right word", "GLUE mean", "parameters", "float32"]
    return markdown_table(header, cells)


def multilingual_table(plan: dict[str, Any]) -> list[str]:
    """Sizes of one vocabulary, as `homodistil plan --vocabulary … --json` has them, and the planned student's."""
    found = plan["vocabulary"]
    rows = {"all": {"after": found["before"], "growth": 0.0}} | dict(reversed(found["sizes"].items()))
    cells = [[f"`{name}`", *_size(row["after"]), f"+{row['growth']:.1%}"] for name, row in rows.items()]
    student = plan["student"] | {"num_tokens": found["after"]["num_tokens"]}
    cells.append(["the student's", *_size(student), f"+{found['growth']:.1%}"])
    return markdown_table(["vocabulary", "tokens", "parameters", "MB", "longer text"], cells)


def _size(costs: dict[str, int]) -> list[str]:
    return [f"{costs['num_tokens']:,}", f"{costs['num_parameters'] / 1e6:.1f} M", f"{costs['size_bytes'] / 1e6:.0f}"]


TABLES: dict[str, Any] = {"table": coverage_table, "students": students_table}
STUDY = Study(
    Path("docs/results/vocabulary.json"),
    Path("docs/vocabulary.md"),
    lambda record: {part: table(record[part]) for part, table in TABLES.items() if part in record},
)
MULTILINGUAL = Study(
    Path("docs/results/studies/multilingual_vocabulary.json"),
    Path("docs/vocabulary.md"),
    lambda plan: {"multilingual": multilingual_table(plan)},
)
