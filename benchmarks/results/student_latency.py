"""How fast students of the sweep of sizes are beside their teacher: docs/results/student_latency.json.

    python -m benchmarks.results.student_latency
    python -m benchmarks.results.student_latency baselines    docs/results/baselines_latency.json: theirs

Models of their shapes with random weights, which don't matter for speed, in ONNX Runtime: processor time of one core,
which other work on the machine hardly changes. A compact student runs as it is, without padding.
"""

import json
import sys
from pathlib import Path

import torch

from benchmarks.results.students import DEFAULTS, Results, plan_of, shape_of
from benchmarks.speed.latency import one_core_of
from benchmarks.sweep.folder import trained
from homodistil_hf.files.folders import write_text
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.models.architectures.modeling_homobert import HomoBertConfig, HomoBertForMaskedLM

TEACHER = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
NUM_LAYERS = 6
BASELINES, HALF_DEPTH = "baselines", "three layers"
RECORDS = {DEFAULTS: "student_latency", BASELINES: "baselines_latency"}
"""Sweep → the name of the record of its shapes."""


def configs(results: Results, sweep: str) -> dict[str, HomoBertConfig]:
    """`teacher`, the shapes that students of a sweep have, and of baselines a teacher of half its layers."""
    plans = {shape_of(record): plan_of(record) for record in trained(results.records[sweep])}
    found = {
        name: HomoBertConfig(**({"num_hidden_layers": NUM_LAYERS} | plan))
        for name, plan in {"teacher": TEACHER, **plans}.items()
    }
    if sweep == BASELINES:
        found[HALF_DEPTH] = HomoBertConfig(num_hidden_layers=NUM_LAYERS // 2, **TEACHER)
    return found


def main() -> None:
    sweep = sys.argv[1] if sys.argv[1:] else DEFAULTS
    results = Results.read(Path("docs/results"), Path("examples/sweeps"))
    torch.manual_seed(0)
    models = {name: HomoBertForMaskedLM(config).eval() for name, config in configs(results, sweep).items()}
    found = one_core_of(models) | {"machine": machine_facts()}
    write_text(results.folder / f"{RECORDS[sweep]}.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
