"""What a distributed run sends and computes at every step, on paper: widths follow from the schedule alone.

`benchmarks/scaling.py` holds these figures against what it counts in runs of 1, 2 and 4 ranks.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import BertConfig

from homodistil_hf.models.cost import count_parameters, encoder_macs
from homodistil_hf.models.widths import WidthPlan, teacher_plan
from homodistil_hf.plans.resolve import resolve_plan
from homodistil_hf.pruning.compaction import is_worthwhile
from homodistil_hf.pruning.masks import scheduled_plan
from homodistil_hf.pruning.schedule import PruningSchedule

BYTES_A_GRADIENT = 4  # float32, whatever the autocast type
BUCKET_BYTES = 25 << 20  # DDP's default
COUNTS_BYTES, GUARD_BYTES = 32, 4  # 4 float64 and 1 float32
NETWORKS_GB_A_SECOND = {"10 Gbit/s Ethernet": 1.25, "100 Gbit/s InfiniBand": 12.5, "NVLink": 300.0}
GPU_TFLOPS = 150.0
NUM_RANKS, TOKENS_A_RANK, NUM_STEPS = 64, 64 * 128, 28_000
MASKED_FRACTION = 0.15


@dataclass(frozen=True)
class Step:
    """The student at one step.

    Args:
        step: completed optimizer steps before it.
        num_parameters: that are trained, projections included.
        hidden_size: the student's.
        macs: of one token through the encoder.
        compacted: whether the step before ended in a compaction.
    """

    step: int
    num_parameters: int
    hidden_size: int
    macs: int
    compacted: bool


def steps_of_a_run(config: BertConfig, target: WidthPlan, settings: Mapping[str, Any]) -> list[Step]:
    """Follow the schedule without training: which widths the parameters have at each step.

    Args:
        config: the teacher's.
        target: the plan.
        settings: `num_steps`, `interval_steps`, `start_fraction`, `end_fraction`, `multiple`, `compaction_threshold`.

    Returns:
        `list[Step]`, one a step; without a discrepancy guard, which may delay pruning.
    """
    full = present = kept = teacher_plan(config)
    window = (settings["start_fraction"], settings["end_fraction"])
    schedule = PruningSchedule(
        dict.fromkeys(("hidden", "attention", "ffn"), window), settings["interval_steps"], settings["num_steps"]
    )
    steps, compacted = [], False
    for step in range(settings["num_steps"]):
        size = trained_parameters(config, present)
        steps.append(Step(step, size, present.hidden_size, encoder_macs(present), compacted))
        compacted = False
        if kept == target or not schedule.is_due(step + 1):
            continue
        progress = schedule.progress(step + 1)
        kept = scheduled_plan(full, target, progress=progress, present=kept, multiple=settings["multiple"])
        is_last = all(value == 1 for value in progress.values())
        if is_worthwhile(present, kept, threshold=0.0 if is_last else settings["compaction_threshold"]):
            present, compacted = kept, True
    return steps


def trained_parameters(config: BertConfig, plan: WidthPlan) -> int:
    """Parameters of a masked-LM student and of its projections to the teacher's hidden size."""
    projections = (len(plan.layers) + 1) * plan.hidden_size * config.hidden_size
    return count_parameters(plan, config, head="masked_lm") + projections


def sent_by_a_rank(num_bytes: float, num_ranks: int) -> float:
    """Bytes that leave a rank when so many are added up over all ranks in a ring: 2 (n − 1) / n of them."""
    return 2 * (num_ranks - 1) / num_ranks * num_bytes


def large_run() -> dict[str, Any]:
    """BERT-base to homobert-tiny on 64 GPUs: volume, and time at several bandwidths beside the time to compute."""
    config = BertConfig()
    target = resolve_plan("homobert-tiny", config, multiple=8)
    settings = {
        "num_steps": NUM_STEPS,
        "interval_steps": 10,
        "start_fraction": 0.0,
        "end_fraction": 0.5,
        "multiple": 8,
        "compaction_threshold": 0.15,
    }
    steps = steps_of_a_run(config, target, settings)
    gradient_bytes = [BYTES_A_GRADIENT * step.num_parameters for step in steps]
    mean_bytes = sum(gradient_bytes) / len(steps)
    seconds = [step_seconds(config, step) for step in (steps[0], steps[-1])]
    moments = {"first": gradient_bytes[0], "mean": mean_bytes, "last": gradient_bytes[-1]}
    return {
        "reached_plan": steps[-1].macs == encoder_macs(target),
        "settings": settings | {"teacher": "bert-base", "student": "homobert-tiny"},
        "num_ranks": NUM_RANKS,
        "tokens_a_rank": TOKENS_A_RANK,
        "gpu_tflops": GPU_TFLOPS,
        "num_compactions": sum(step.compacted for step in steps),
        "gradient_bytes": moments,
        "num_gradient_messages": {name: math.ceil(value / BUCKET_BYTES) for name, value in moments.items()},
        "bytes_sent_a_rank": {name: sent_by_a_rank(value, NUM_RANKS) for name, value in moments.items()},
        "communication_s": {
            network: {name: sent_by_a_rank(value, NUM_RANKS) / (1e9 * speed) for name, value in moments.items()}
            for network, speed in NETWORKS_GB_A_SECOND.items()
        },
        "compute_s": dict(zip(("first", "last"), seconds, strict=True)),
        "all_steps_bytes_fraction": mean_bytes / gradient_bytes[0],
    }


def step_seconds(config: BertConfig, step: Step) -> float:
    """Time of a step's matrix products on one GPU: forward of the teacher, forward and backward of the student."""
    head = MASKED_FRACTION * config.hidden_size * (config.vocab_size + config.hidden_size)
    student_head = head * step.hidden_size / config.hidden_size
    macs = encoder_macs(teacher_plan(config)) + head + 3 * (step.macs + student_head)
    return 2 * macs * TOKENS_A_RANK / (GPU_TFLOPS * 1e12)
