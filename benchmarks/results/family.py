"""One run that leaves several sizes, beside a run for each of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.results.words import words
from homodistil_hf.experiments.sweep.statistics import Record
from homodistil_hf.plans.fewer_layers import MACS_TOLERANCE
from homodistil_hf.tables import markdown_table


def family_lines(records: Sequence[Record]) -> list[str]:
    """The table: runs that have left `snapshots`, beside students that were trained alone."""
    rows = [row for record in records if record.get("snapshots") for row in _rows(record, records)]
    figures = ["KL, nats", "accuracy"]
    headings = ["encoder MACs", "from the family, after", *figures, "alone, after", *figures]
    return [words("family"), *markdown_table(headings, rows), ""] if rows else []


def _rows(family: Record, records: Sequence[Record]) -> Iterator[list[str]]:
    costs = family["models"]
    last = {"step": family["num_steps"], "evaluation": family["evaluation"]}
    members = [*family["snapshots"], last | {"encoder_macs": costs["student"]["encoder_macs"]}]
    tokens_a_step = family["num_tokens"] / family["num_steps"]
    for member in members:
        fitting = (
            record
            for record in records
            if not record.get("snapshots")
            and (record["method"], record["axes"].get("seed")) == (family["method"], family["axes"].get("seed"))
            and record["num_tokens"] == family["num_tokens"] // len(members)
            and abs(record["models"]["student"]["encoder_macs"] / member["encoder_macs"] - 1) <= MACS_TOLERANCE
        )
        alone = next(fitting, None)
        yield [
            f"{member['encoder_macs'] / costs['teacher']['encoder_macs']:.3f}",
            *_figures(member["step"] * tokens_a_step, member["evaluation"]),
            *(_figures(alone["num_tokens"], alone["evaluation"]) if alone else ["not run", "–", "–"]),
        ]


def _figures(num_tokens: float, evaluation: Mapping[str, Any]) -> list[str]:
    return [f"{num_tokens / 1e6:.2f} M tokens", f"{evaluation['kl']:.3f}", f"{evaluation['mlm_accuracy']:.3f}"]
