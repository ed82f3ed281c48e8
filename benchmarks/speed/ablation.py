"""Record what each way of being fast or small is worth: docs/results/speed-ablation.json.

    python -m benchmarks.speed.ablation                                    # teacher6x384, all of them
    python -m benchmarks.speed.ablation --shape bert-base --student homobert-tiny --only "one part" "activations kept"
    python -m benchmarks.speed.ablation --pages 5                          # large pages: a process each, in turns

Every arm is our trainer at the start of the schedule with one thing turned back; all take turns in one process. A
ratio above 1 says that the thing makes a step faster, or its memory smaller, by that factor. Large pages are a choice
that torch makes once a process.
"""

import argparse
import dataclasses
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from torch.profiler import ProfilerActivity, profile

from benchmarks.speed import arms
from benchmarks.speed.gates import GatedRun, interleave
from benchmarks.speed.profiles import peak_bytes
from benchmarks.speed.settings import BenchSettings, make_workload
from benchmarks.speed.tables import spread, table
from benchmarks.speed.totals import START, summary, way_of
from homodistil_hf import HomoDistilTrainer
from homodistil_hf.distillation.teacher import FrozenTeacher
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.models.families import modeling_homobert as modeling

RESULTS = Path("docs/results/speed-ablation.json")
WHOLE = "nothing turned back"


@dataclass(frozen=True)
class Change:
    """One thing turned back.

    Args:
        prepare: done to the trainer once.
        during: entered for each of its turns.
    """

    prepare: Callable[[HomoDistilTrainer], object] = lambda trainer: None
    during: Callable[[], AbstractContextManager] = nullcontext


def attention(name: str) -> Change:
    """Another attention implementation, in both models."""

    def prepare(trainer: HomoDistilTrainer) -> None:
        for model in (trainer.model, trainer.distillation.teacher.fast):
            model.set_attn_implementation(name)

    return Change(prepare)


def hold_all_logits(trainer: HomoDistilTrainer) -> None:
    """Logits of all masked positions, and autograd's own way back through the decoder."""
    trainer.distillation.task = dataclasses.replace(trainer.distillation.task, has_vocabulary=False)


def cast_each() -> AbstractContextManager:
    """Autocast's own casts: one for each of query, key and value."""
    stock = modeling.BertSelfAttention.forward
    return mock.patch.object(modeling.HomoBertSelfAttention, "forward", stock)


def keep_activations() -> AbstractContextManager:
    """Save what leaves an activation."""
    return mock.patch.object(modeling, "_computed_again", return_value=nullcontext())


def exact_teacher(trainer: HomoDistilTrainer) -> None:
    """A teacher in float32."""
    trainer.distillation.teacher = FrozenTeacher(trainer.distillation.teacher.exact)


def one_part(trainer: HomoDistilTrainer) -> None:
    """The whole micro-batch at once, whatever memory that takes."""
    trainer.args.activation_budget_mb = 0


CHANGES = {
    WHOLE: Change(),
    "plain attention": attention("eager"),
    "torch's fused attention": attention("sdpa"),
    "all logits at once": Change(hold_all_logits),
    "a cast for query, key and value each": Change(during=cast_each),
    "activations kept": Change(during=keep_activations),
    "one part": Change(one_part),
    "teacher in float32": Change(exact_teacher),
    "teacher compiled": Change(lambda trainer: trainer.distillation.teacher.compile()),
}


@dataclass(frozen=True)
class ChangedRun:
    """A run with one thing turned back during its turns."""

    run: GatedRun
    change: Change

    def turn(self) -> float:
        """One step."""
        with self.change.during():
            return self.run.turn()

    def peak_bytes(self) -> int:
        """Memory of one step above weights, gradients and optimizer state."""
        with self.change.during():
            return peak_bytes(self.run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="teacher6x384")
    parser.add_argument("--student", default="192-12x16-704")
    parser.add_argument("--only", nargs="+", choices=[name for name in CHANGES if name != WHOLE])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pages", type=int, metavar="N", help="N pairs of processes, with large pages and without")
    parser.add_argument(
        "--print_seconds", action="store_true", help="print the seconds of a few steps, and nothing else"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    settings = BenchSettings(
        shape=options.shape, student=options.student, rounds=options.rounds, pruning_end_fraction=0.5
    )
    if options.print_seconds:
        print(json.dumps(measure(settings, [WHOLE])["seconds"][WHOLE]))
        return
    if options.pages:
        write(options.results, f"{options.shape}, large pages", measure_pages(options))
        return
    measured = measure(settings, [WHOLE, *(options.only or [name for name in CHANGES if name != WHOLE])])
    print(format_ablation(measured))
    write(options.results, options.shape, measured)


def write(file: Path, name: str, measured: dict[str, Any]) -> None:
    """Put results beside what the file has."""
    recorded = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    recorded[name] = measured
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


def measure_pages(options: argparse.Namespace) -> dict[str, Any]:
    """Median step of a process without large pages over that of the next one with them."""
    ratios = []
    for _ in range(options.pages):
        medians = [statistics.median(seconds_of_a_process(options, thp)) for thp in ("0", "1")]
        ratios.append(medians[0] / medians[1])
        print(f"large pages: {ratios[-1]:.3f}× time without", flush=True)
    return {"machine": machine_facts(), "ratios": {"large pages": {"time": summary(ratios)}}}


def seconds_of_a_process(options: argparse.Namespace, thp: str) -> list[float]:
    """A few steps in a process of its own."""
    words = [
        sys.executable,
        "-m",
        "benchmarks.speed.ablation",
        "--print_seconds",
        "--rounds",
        "5",
        "--shape",
        options.shape,
    ]
    finished = subprocess.run(
        [*words, "--student", options.student],
        env=os.environ | {"THP_MEM_ALLOC_ENABLE": thp},
        check=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(finished.stdout.splitlines()[-1])


def measure(settings: BenchSettings, names: list[str]) -> dict[str, Any]:
    """Run all arms in turns."""
    with profile(activities=[ProfilerActivity.CPU]):
        pass  # the first session must be this thread's
    with tempfile.TemporaryDirectory() as folder:
        runs = start(settings, names, Path(folder))
        try:
            seconds = interleave(runs, rounds=settings.rounds, warmup_rounds=settings.warmup_rounds)
            peaks = {name: run.peak_bytes() for name, run in runs.items()}
        finally:
            for run in runs.values():
                run.run.close()
    ratios = {
        name: {
            "time": summary([changed / whole for changed, whole in zip(seconds[name], seconds[WHOLE], strict=True)]),
            "memory": peaks[name] / peaks[WHOLE],
            "peak_memory_bytes": peaks[name],
        }
        for name in names
    }
    facts = {"machine": machine_facts(), "settings": dataclasses.asdict(settings)}
    return facts | {"seconds": seconds, "ratios": ratios}


def start(settings: BenchSettings, names: list[str], folder: Path) -> dict[str, ChangedRun]:
    """Make the trainers, and hold each at its first step."""
    work = make_workload(settings, num_steps=settings.warmup_rounds + settings.rounds + 4)
    place = way_of(settings).places[START]
    runs: dict[str, ChangedRun] = {}
    first: HomoDistilTrainer | None = None
    for number, name in enumerate(names):
        trainer = arms.our_trainer(settings, work, place, folder / str(number))
        if first is not None:
            arms.share_teacher(trainer, first)
        first = first or trainer
        CHANGES[name].prepare(trainer)
        runs[name] = ChangedRun(GatedRun(name, trainer), CHANGES[name])
    return runs


def format_ablation(measured: dict[str, Any]) -> str:
    """A Markdown table."""
    rows = [
        (
            name,
            spread(ratio["time"], "{:.2f}"),
            f"{ratio['memory']:.2f}" if "memory" in ratio else "–",
            f"{ratio['peak_memory_bytes'] / 1e6:,.0f} MB" if "memory" in ratio else "–",
        )
        for name, ratio in measured["ratios"].items()
    ]
    return table(("turned back", "× time", "× memory", "peak memory"), rows)


if __name__ == "__main__":
    main()
