"""What a run computes, from the widths that it logged: students that are wide at first cost more than narrow ones."""

from collections.abc import Iterable, Mapping
from inspect import signature
from statistics import fmean

from benchmarks.results.verdicts import REFERENCE
from homodistil_hf import OneShotTrainer
from homodistil_hf.experiments.sweep.statistics import Record
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan

PRUNED_METHODS = ("homodistil", "one_shot", "pruned_first")  # cut out of the teacher: kept fractions say how wide
FORWARD_AND_BACKWARD = 3  # a step of training in forward passes

_DEFAULT_SCORING_BATCHES = signature(OneShotTrainer).parameters["num_scoring_batches"].default
_KINDS = ("hidden", "attention", "ffn")


def run_macs(record: Record) -> float:
    """Multiply–accumulates of both encoders in a whole run, a token of its batches each.

    The teacher's forward pass, the student's forward and backward as three, at the widths that are kept (compaction
    follows a little later), and the scores that one-shot pruning takes from the whole teacher first.
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


def computation_line(records: Iterable[Record]) -> list[str]:
    """What the runs of pruned students compute beside HomoDistil's, in a sentence; none without it."""
    arms: dict[str, list[float]] = {}
    for record in records:
        if record["method"] in PRUNED_METHODS and record["kept_fractions"]:
            arms.setdefault(record["arm"], []).append(run_macs(record))
    own = arms.pop(REFERENCE, None)
    if own is None or not arms:
        return []
    words = ", ".join(f"`{arm}` {fmean(macs) / fmean(own):.2f}" for arm, macs in arms.items())
    return [
        "Multiply–accumulates of both encoders in a whole run (the teacher's forward pass, the student's forward and "
        f"backward as three, one-shot's scores), as a share of `{REFERENCE}`'s: {words}.",
        "",
    ]


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
