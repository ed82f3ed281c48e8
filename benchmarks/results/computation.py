"""What a run computes, from the widths that it logged: students that are wide at first cost more than narrow ones."""

from collections.abc import Mapping, Sequence
from inspect import signature
from statistics import fmean

from homodistil_hf import OneShotTrainer
from homodistil_hf.experiments.sweep.statistics import Record
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan

PRUNED_METHODS = ("homodistil", "one_shot", "pruned_first")
"""Their students are cut out of the teacher, so that kept fractions say how wide they are."""

FORWARD_AND_BACKWARD = 3
"""A step of training in forward passes."""

_DEFAULT_SCORING_BATCHES = signature(OneShotTrainer).parameters["num_scoring_batches"].default
_KINDS = ("hidden", "attention", "ffn")


def run_macs(record: Record) -> float:
    """Multiply–accumulates of both encoders in a whole run, a token of its batches each.

    The teacher's forward pass, the student's forward and backward as three, at the widths that are kept (compaction
    follows a little later), and the scores that one-shot pruning takes from the whole teacher first.

    Args:
        record: of a method in `PRUNED_METHODS`.

    Returns:
        `float`: steps × MACs.
    """
    teacher = record["models"]["teacher"]["encoder_macs"]
    total, last = 0.0, 0
    for row in record["kept_fractions"]:
        step_macs = teacher + FORWARD_AND_BACKWARD * _student_macs(record, row)
        total += (row["step"] - last) * step_macs
        last = row["step"]
    total *= record["num_steps"] / last
    if record["method"] == "one_shot":
        num_batches = record["method_settings"].get("num_scoring_batches", _DEFAULT_SCORING_BATCHES)
        total += num_batches * (1 + FORWARD_AND_BACKWARD) * teacher
    return total


def computation_line(arms: Mapping[str, Sequence[Record]], reference: str) -> list[str]:
    """What the runs of pruned students compute beside the reference's, in a sentence; none without it."""
    pruned = {arm: group for arm, group in arms.items() if group[0]["method"] in PRUNED_METHODS}
    means = {arm: fmean(map(run_macs, logged)) for arm, group in pruned.items() if (logged := _with_widths(group))}
    own = means.pop(reference, None)
    if own is None or not means:
        return []
    words = ", ".join(f"`{arm}` {mean / own:.2f}" for arm, mean in means.items())
    return [
        "Multiply–accumulates of both encoders in a whole run (the teacher's forward pass, the student's forward and "
        f"backward as three, one-shot's scores), as a share of `{reference}`'s: {words}.",
        "",
    ]


def _with_widths(records: Sequence[Record]) -> list[Record]:
    """Those that logged their widths."""
    return [record for record in records if record["kept_fractions"]]


def _student_macs(record: Record, row: Record) -> float:
    """Encoder MACs of the student at a step: those that it ends with, times what its layers cost more there."""
    end = record["kept_fractions"][-1]
    wider = {kind: row[kind] / end[kind] for kind in _KINDS}
    macs = [encoder_macs(_layer(record["plan"], fractions)) for fractions in (wider, dict.fromkeys(_KINDS, 1.0))]
    return float(record["models"]["student"]["encoder_macs"] * macs[0] / macs[1])


def _layer(plan: Mapping[str, int], wider: Mapping[str, float]) -> WidthPlan:
    """One layer of a plan, each width multiplied."""
    attention_size = round(wider["attention"] * plan["num_attention_heads"] * plan["head_dim"])
    layer = LayerWidths(1, attention_size, round(wider["ffn"] * plan["intermediate_size"]))
    return WidthPlan.uniform(round(wider["hidden"] * plan["hidden_size"]), 1, layer)
