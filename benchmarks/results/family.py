"""One run that leaves several sizes, beside a run for each of them."""

from collections.abc import Sequence
from typing import Any

from homodistil_hf.experiments.sweep.statistics import Record
from homodistil_hf.experiments.sweep.tables import markdown_table
from homodistil_hf.plans.fewer_layers import MACS_TOLERANCE


def family_rows(records: Sequence[Record]) -> list[str]:
    """Lay out the family of a run beside students that were trained alone.

    Args:
        records: of students; those with `snapshots` are runs that have left a family.

    Returns:
        `list[str]`: Markdown lines; none where no family was run.
    """
    rows = [row for record in records if record.get("snapshots") for row in _rows_of(record, records)]
    if not rows:
        return []
    headings = [
        "encoder MACs",
        "from the family, after",
        "KL, nats",
        "accuracy",
        "alone, after",
        "KL, nats",
        "accuracy",
    ]
    text = (
        "**One run, a family of sizes.** Snapshots of a run on its way to the smallest, each after a rest, beside the "
        "students of runs of their own whose tokens together are those of the family's run."
    )
    return [text, "", *markdown_table(headings, rows)]


def _rows_of(family: Record, records: Sequence[Record]) -> list[list[str]]:
    last = {"step": family["num_steps"], "evaluation": family["evaluation"]}
    members = [*family["snapshots"], last | {"encoder_macs": family["models"]["student"]["encoder_macs"]}]
    share = family["num_tokens"] // len(members)
    tokens_a_step = family["num_tokens"] / family["num_steps"]
    rows = []
    for member in members:
        alone = _alone(records, family, encoder_macs=member["encoder_macs"], num_tokens=share)
        fraction = member["encoder_macs"] / family["models"]["teacher"]["encoder_macs"]
        rows.append(
            [
                f"{fraction:.3f}",
                *_figures(member["step"] * tokens_a_step, member["evaluation"]),
                *(["not run", "–", "–"] if alone is None else _figures(alone["num_tokens"], alone["evaluation"])),
            ]
        )
    return rows


def _figures(num_tokens: float, evaluation: dict[str, Any]) -> list[str]:
    return [f"{num_tokens / 1e6:.2f} M tokens", f"{evaluation['kl']:.3f}", f"{evaluation['mlm_accuracy']:.3f}"]


def _alone(records: Sequence[Record], family: Record, *, encoder_macs: float, num_tokens: int) -> Record | None:
    fitting = (
        record
        for record in records
        if not record.get("snapshots")
        and record["method"] == family["method"]
        and record["num_tokens"] == num_tokens
        and record["axes"].get("seed") == family["axes"].get("seed")
        and abs(record["models"]["student"]["encoder_macs"] / encoder_macs - 1) <= MACS_TOLERANCE
    )
    return next(fitting, None)
