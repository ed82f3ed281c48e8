"""What a new width costs where code is compiled: docs/results/compiling.json.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.compiling

A small student passes some widths of its schedule; the first step at each compiles, with static sizes and with such
that are marked as dynamic.
"""

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config
from accelerate.state import AcceleratorState
from torch._dynamo.utils import counters

from benchmarks.speed import variants
from benchmarks.speed.interleaved import GatedRun
from benchmarks.speed.settings import BenchSettings, make_workload
from benchmarks.speed.whole_run import summary, way_of
from homodistil_hf.files.provenance import machine_facts

RESULTS = Path("docs/results/compiling.json")
SHAPE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
SETTINGS = BenchSettings(shape=json.dumps(SHAPE), batch_size=16, length=64, dtype="float32", points=4, compiled=True)
STEPS_A_WIDTH = 4


def main() -> None:
    sizes = {name: measure(is_dynamic=name == "dynamic") for name in ("static", "dynamic")}
    recorded = {"machine": machine_facts(), "settings": asdict(SETTINGS), "sizes": sizes}
    RESULTS.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


def measure(*, is_dynamic: bool) -> dict[str, Any]:
    """Seconds of the first step at each width and of the others, and how many graphs were compiled by then."""
    AcceleratorState._reset_state(reset_partial_state=True)  # it reads the environment once
    torch._dynamo.reset()
    counters.clear()
    torch._inductor.config.force_disable_caches = True
    torch._dynamo.config.force_parameter_static_shapes = not is_dynamic
    os.environ["ACCELERATE_DYNAMO_USE_DYNAMIC"] = str(is_dynamic)
    places, work = way_of(SETTINGS).places, make_workload(SETTINGS, num_steps=SETTINGS.points * STEPS_A_WIDTH + 1)
    first, others, num_graphs = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        run = GatedRun("compiled", variants.our_trainer(SETTINGS, work, next(iter(places.values())), Path(folder)))
        try:
            for place in places.values():
                if place.plan != run.trainer.kept:
                    variants.choice_seconds(run.trainer, place.plan)
                seconds = [run.advance() for _ in range(STEPS_A_WIDTH)]
                first.append(seconds[0])
                others += seconds[1:]
                num_graphs.append(counters["stats"]["unique_graphs"])
        finally:
            run.close()
    return {"first_step_seconds": first, "step_seconds": summary(others), "num_graphs": num_graphs}


if __name__ == "__main__":
    main()
