"""What compiling costs a run whose student passes many widths: docs/results/compiling.json.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.compiling

A run of `torch_compile` on the way from 12 narrow layers to a tenth of their MACs. Graphs and compilations are counted
behind each step. Without a backend that makes kernels, the seconds are those of tracing alone.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from torch._dynamo.utils import counters
from transformers import TrainerCallback

from benchmarks.quiet import QUIET
from benchmarks.speed.settings import BenchSettings, make_workload
from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.models.compiling import compiling_seconds

RESULTS = Path("docs/results/compiling.json")
SHAPE = {"hidden_size": 96, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 192}
SHAPE |= {"vocab_size": 1200, "max_position_embeddings": 32}
SETTINGS = BenchSettings(shape=json.dumps(SHAPE), student="macs=0.1,layers=12", batch_size=4, length=16)
NUM_STEPS = 100


class Counts(TrainerCallback):
    """What has been compiled, and the widths that the student has had, behind each step.

    Args:
        trainer: of the student.
    """

    def __init__(self, trainer: HomoDistilTrainer):
        self.trainer = trainer
        self.graphs: list[int] = []
        self.compilations: list[int] = []
        self.widths = {trainer.kept}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add a step."""
        self.graphs.append(counters["stats"]["unique_graphs"])
        self.compilations.append(counters["frames"]["total"])
        self.widths.add(self.trainer.kept)


def measure(backend: str, num_steps: int = NUM_STEPS) -> dict[str, Any]:
    """Train, and count; the last of each list is the whole run's."""
    counters.clear()
    work, began = make_workload(SETTINGS, num_steps=num_steps), compiling_seconds()
    with tempfile.TemporaryDirectory() as folder:
        settings = {"student": SETTINGS.student, "max_steps": num_steps, "per_device_train_batch_size": 4}
        schedule = {"pruning_end_fraction": 0.9, "pruning_interval_steps": 1, "width_multiple": 1}
        args = HomoDistilTrainingArguments(
            folder, use_cpu=True, torch_compile_backend=backend, **settings, **schedule, **QUIET
        )
        trainer = HomoDistilTrainer(work.teacher, args, train_dataset=work.blocks, processing_class=work.tokenizer)
        counts = Counts(trainer)
        trainer.add_callback(counts)
        trainer.train()
    return {
        "machine": machine_facts(),
        "shape": SHAPE,
        "student": SETTINGS.student,
        "backend": backend,
        "num_widths": len(counts.widths),
        "graphs": counts.graphs,
        "compilations": counts.compilations,
        "seconds": round(compiling_seconds() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="aot_eager", help="of torch.compile; inductor makes kernels")
    found = measure(parser.parse_args().backend)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
