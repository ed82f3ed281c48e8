"""Rows → tables, as aligned text or Markdown; the mean of several measurements with its spread."""

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

# Key of a row → heading, format, and a longer name where that is for readers of one model.
_COLUMNS: dict[str, tuple[str, ...]] = {
    "name": ("", "{}"),
    "num_parameters": ("parameters", "{:,}"),
    "num_encoder_parameters": ("without head", "{:,}", "parameters without the head"),
    "encoder_macs": ("encoder MACs", "{:,}", "encoder multiply–accumulates a token"),
    "size_bytes": ("bytes", "{:,}", "weights, bytes"),
    "latency_ms": ("latency, ms", "{:.2f}"),
    "kl": ("KL, nats", "{:.3f}", "KL to the teacher, nats a prediction"),
    "mlm_loss": ("MLM loss, nats", "{:.3f}", "masked-LM loss, nats a token"),
    "mlm_accuracy": ("MLM accuracy", "{:.1%}", "masked-word accuracy"),
    "agreement": ("as teacher", "{:.1%}", "the teacher's top predictions"),
    "pseudo_perplexity": ("pseudo-perplexity", "{:.3f}", "pseudo-perplexity, each token masked in turn"),
    "task_loss": ("loss", "{:.3f}", "loss of the labels"),
    "task_accuracy": ("accuracy", "{:.1%}"),
    "micro_f1": ("micro F1", "{:.1%}"),
    "macro_f1": ("macro F1", "{:.1%}"),
    "exact_rows": ("rows right", "{:.1%}", "rows with all labels right"),
    "span_f1": ("span F1", "{:.1%}", "F1 of spans"),
    "exact_match": ("exact match", "{:.1f} %"),
    "f1": ("F1", "{:.1f} %"),
    "pearson": ("Pearson", "{:.3f}", "Pearson's correlation"),
    "spearman": ("Spearman", "{:.3f}", "Spearman's correlation"),
    "cosine": ("cosine", "{:.3f}", "cosine to the teacher's vectors"),
    "neighbours": ("10 nearest", "{:.3f}", "ten nearest texts alike"),
    "neighbours_in_index": ("… in the teacher's index", "{:.3f}", "ten nearest alike, in the teacher's index"),
    "active_dims": ("words", "{:.1f}", "words of a vector that are not 0"),
    "correlation": ("correlation of scores", "{:.3f}", "correlation with the teacher's scores"),
    "ndcg_at_10": ("nDCG@10", "{:.3f}", "nDCG@10 of the order, by the labels"),
    "mrr_at_10": ("MRR@10", "{:.3f}", "MRR@10 of the order, by the labels"),
}
FIGURE_NAMES = {name: [heading, *longer][-1] for name, (heading, _, *longer) in _COLUMNS.items()} | {
    "dimension": "channels of a vector",
    "span_precision": "precision of spans",
    "span_recall": "recall of spans",
    "spread": "spread of similarities, of the teacher's",
}
"""Costs and metrics in words, in cards and reports."""


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay models out as a table of text, without the columns that no row has.

    Args:
        rows: one a model, with keys of `_COLUMNS`; None where a value is unknown.

    Example:
    ```python
    >>> print(format_table([{"name": "teacher", "num_parameters": 1200, "kl": 0.0}, {"name": "student", "kl": 0.25}]))
             parameters  KL, nats
    teacher       1,200     0.000
    student           –     0.250

    ```
    """
    return "\n".join(aligned_lines(table_cells(rows)))


def table_cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The cells of [`format_table`], headings first."""
    columns = {key: words[:2] for key, words in _COLUMNS.items() if any(key in row for row in rows)}
    headings = [heading for heading, _ in columns.values()]
    return [headings, *([cell(row.get(key), shape) for key, (_, shape) in columns.items()] for row in rows)]


def aligned_lines(rows: Sequence[Sequence[str]], *, names: Collection[int] = (0,)) -> list[str]:
    """Return cells as lines of text: columns of even width, two spaces apart, those in `names` aligned to the left."""
    return ["  ".join(row).rstrip() for row in padded(rows, names=names)]


def markdown_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, rules: Sequence[str] | None = None
) -> list[str]:
    r"""Lay cells out as Markdown; `rules` below the headings align the columns, by default to the left.

    Example:
    ```python
    >>> print("\n".join(markdown_table(["", "KL"], [["mine", "0.5"]])))
    |  | KL |
    | --- | --- |
    | mine | 0.5 |

    ```
    """
    lines = [headings, rules or ["---"] * len(headings), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def padded(rows: Sequence[Sequence[str]], *, names: Collection[int]) -> list[list[str]]:
    """Bring the cells of each column to the width of its widest; columns in `names` start on the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        [
            cell.ljust(width) if index in names else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]


def cell(value: Any, shape: str = "{}") -> str:
    """Return a value in a format of numbers; a dash for None, as a table never fails a run.

    Example:
    ```python
    >>> cell(0.5, "{:.3f}"), cell(None, "{:.3f}"), cell("diverged", "{:.3f}")
    ('0.500', '–', 'diverged')

    ```
    """
    if value is None:
        return "–"
    return shape.format(value) if isinstance(value, int | float) else str(value)


def figures_line(figures: Mapping[str, Any], shape: str = "{:.4f}") -> str:
    """Return figures behind their names, in one line.

    Example:
    ```python
    >>> figures_line({"accuracy": 0.5, "f1": None})
    'accuracy 0.5000, f1 –'

    ```
    """
    return ", ".join(f"{name} {cell(value, shape)}" for name, value in figures.items())


def spread_facts(values: Iterable[float]) -> dict[str, float | None]:
    """`mean` of one or more values and `std`, their standard deviation with n − 1; None for a single value."""
    values = list(values)
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None}
