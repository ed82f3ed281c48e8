"""What a run computes, from the widths that it logged: students that are wide at first cost more than narrow ones."""

import math
from collections.abc import Mapping
from typing import Any

from homodistil_hf import HomoDistilTrainingArguments
from homodistil_hf.experiments.sweep.statistics import Record
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan

FORWARD_AND_BACKWARD = 3  # a step of training in forward passes

_GRADUAL = "homodistil"
_CUT_FROM_THE_TEACHER = (_GRADUAL, "one_shot", "pruned_first")  # kept fractions say how wide they are
_KINDS = ("hidden", "attention", "ffn")


def run_macs(record: Record) -> float:
    """Multiply–accumulates of both encoders in a whole run, a token of its batches each; nan where widths don't tell.

    The teacher's forward pass, the student's forward and backward as three, and the scores that are taken from the
    whole teacher first.
    """
    rows = record["kept_fractions"]
    if record["method"] not in _CUT_FROM_THE_TEACHER or not rows:
        return math.nan
    teacher = record["models"]["teacher"]["encoder_macs"]
    delay = _delay(record)
    total, last = delay * (1 + FORWARD_AND_BACKWARD) * float(teacher), delay
    for row in rows:
        until = record["num_steps"] if row is rows[-1] else min(row["step"] + delay, record["num_steps"])
        total += (until - last) * (teacher + FORWARD_AND_BACKWARD * _student_macs(record, row))
        last = until
    return total + _num_scoring_batches(record) * (1 + FORWARD_AND_BACKWARD) * float(teacher)


def _num_scoring_batches(record: Record) -> int:
    if record["method"] == "pruned_first":
        return 0
    earlier = 16 if record["method"] == "one_shot" else 0  # when it was no setting of all runs
    given = {**record.get("own_settings", {}), **record["method_settings"], **record["settings"]}
    return int(given.get("num_scoring_batches", earlier))


def setting_of(record: Record, name: str) -> Any:
    """What a run was given, or had by default."""
    return {**record.get("own_settings", {}), **record["settings"]}.get(
        name, getattr(HomoDistilTrainingArguments, name)
    )


def _delay(record: Record) -> int:
    """Steps by which the widths of a row were in use later than it says.

    A row says the widths that its last step was trained at, so that of a student that starts whole begins with a whole
    one. Earlier versions chose masks before they logged: their first row is pruned already, and each row's widths were
    in use until the next was logged. This is exact where a run logs at every choice of masks, as the sweeps do, and
    too much, never too little, for one that logs more rarely.
    """
    starts_whole = record["method"] == _GRADUAL
    first = record["kept_fractions"][0]
    return int(setting_of(record, "logging_steps")) if starts_whole and any(first[kind] < 1 for kind in _KINDS) else 0


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
