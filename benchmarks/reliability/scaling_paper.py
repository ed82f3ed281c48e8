"""What a distributed run sends and computes at every step, on paper: widths follow from the schedule alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import BertConfig

from benchmarks.speed.whole_run import course
from homodistil_hf.models.cost import count_parameters, encoder_macs
from homodistil_hf.models.widths import WidthPlan, teacher_plan
from homodistil_hf.plans.resolve import resolve_plan
from homodistil_hf.pruning.schedule import PruningSchedule
from homodistil_hf.training_args import PRUNING_KINDS

BYTES_A_GRADIENT = 4  # float32, whatever the autocast type
BUCKET_BYTES = 25 << 20  # DDP's default
COUNTS_BYTES, GUARD_BYTES = 32, 4  # 4 float64 and 1 float32
NETWORKS_GB_A_SECOND = {"10 Gbit/s Ethernet": 1.25, "100 Gbit/s InfiniBand": 12.5, "NVLink": 300.0}
GPU_TFLOPS = 150.0
NUM_RANKS, TOKENS_A_RANK, NUM_STEPS = 64, 64 * 128, 28_000
MASKED_FRACTION = 0.15


@dataclass(frozen=True)
class Step:
    """The student at one step: trained parameters, projections included; whether the step before compacted it."""

    num_parameters: int
    plan: WidthPlan
    compacted: bool


def steps_of_a_run(config: BertConfig, target: WidthPlan, settings: Mapping[str, Any]) -> list[Step]:
    """Follow the schedule without training, and without a discrepancy guard, which may delay pruning.

    Args:
        config: the teacher's.
        target: the plan.
        settings: `num_steps`, `interval_steps`, `start_fraction`, `end_fraction`, `multiple`, `compaction_threshold`.
    """
    window = (settings["start_fraction"], settings["end_fraction"])
    schedule = PruningSchedule(dict.fromkeys(PRUNING_KINDS, window), settings["interval_steps"], settings["num_steps"])
    rounding = {"multiple": settings["multiple"], "threshold": settings["compaction_threshold"]}
    stretches = course(teacher_plan(config), target, schedule, **rounding)
    steps: list[Step] = []
    for stretch in stretches:
        size = trained_parameters(config, stretch.present)
        is_narrower = bool(steps) and steps[-1].plan != stretch.present
        steps.append(Step(size, stretch.present, is_narrower))
        steps += [Step(size, stretch.present, False)] * (stretch.num_steps - 1)
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
    window = {"interval_steps": 10, "start_fraction": 0.0, "end_fraction": 0.5}
    settings = {"num_steps": NUM_STEPS, **window, "multiple": 8, "compaction_threshold": 0.15}
    steps = steps_of_a_run(config, target, settings)
    gradient_bytes = [BYTES_A_GRADIENT * step.num_parameters for step in steps]
    mean_bytes = sum(gradient_bytes) / len(steps)
    moments = {"first": gradient_bytes[0], "mean": mean_bytes, "last": gradient_bytes[-1]}
    sent = {name: sent_by_a_rank(value, NUM_RANKS) for name, value in moments.items()}
    return {
        "reached_plan": steps[-1].plan == target,
        "settings": settings | {"teacher": "bert-base", "student": "homobert-tiny"},
        "num_ranks": NUM_RANKS,
        "tokens_a_rank": TOKENS_A_RANK,
        "gpu_tflops": GPU_TFLOPS,
        "num_compactions": sum(step.compacted for step in steps),
        "gradient_bytes": moments,
        "num_gradient_messages": {name: math.ceil(value / BUCKET_BYTES) for name, value in moments.items()},
        "bytes_sent_a_rank": sent,
        "communication_s": {
            network: {name: value / (1e9 * speed) for name, value in sent.items()}
            for network, speed in NETWORKS_GB_A_SECOND.items()
        },
        "compute_s": {"first": step_seconds(config, steps[0]), "last": step_seconds(config, steps[-1])},
        "all_steps_bytes_fraction": mean_bytes / gradient_bytes[0],
    }


def step_seconds(config: BertConfig, step: Step) -> float:
    """Time of a step's matrix products on one GPU: forward of the teacher, forward and backward of the student."""
    head = MASKED_FRACTION * config.hidden_size * (config.vocab_size + config.hidden_size)
    student_head = head * step.plan.hidden_size / config.hidden_size
    macs = encoder_macs(teacher_plan(config)) + head + 3 * (encoder_macs(step.plan) + student_head)
    return 2 * macs * TOKENS_A_RANK / (GPU_TFLOPS * 1e12)
