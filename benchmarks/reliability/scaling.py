"""Measure runs of 1, 2 and 4 gloo ranks with the same global batch, and count the traffic between ranks.

    python -m benchmarks.reliability.scaling

Writes docs/results/scaling.json. On a machine of few cores ranks wait for each other, so times say nothing about
speed-up. Bytes, collective calls, rows and the moments of slicing are compared with paper.
"""

import json
import os
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import distributed
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from benchmarks.quiet import QUIET
from benchmarks.speed.whole_run import course
from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments, MaskedLMCollator, trainer
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.homodistil_args import PRUNING_KINDS
from homodistil_hf.models.cost import count_parameters
from homodistil_hf.models.widths import WidthPlan, widths_of
from homodistil_hf.plans.resolve import resolve_plan
from homodistil_hf.pruning.schedule import PruningSchedule
from homodistil_hf.training import distillation_trainer, exact_trainer
from homodistil_hf.training import ranks as wrapping

RESULTS = Path("docs/results/scaling.json")
WORLD_SIZES = (1, 2, 4)
GLOBAL_BATCH, SEQUENCE_LENGTH, NUM_ROWS, VOCAB_SIZE = 16, 32, 200, 1000
SHAPE = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
TEACHER = BertConfig(vocab_size=VOCAB_SIZE, max_position_embeddings=SEQUENCE_LENGTH, **SHAPE)
STUDENT = "64-4x16-200"
PAPER_SETTINGS = {"num_steps": 30, "interval_steps": 2, "start_fraction": 0.1, "end_fraction": 0.7, "multiple": 8}
NUM_STREAM_STEPS = 6
COUNTS_BYTES = 32  # 4 int64
BUFFER_BYTES = 2 * 8 * SEQUENCE_LENGTH  # int64 position and token type of each position
COUNTED = {"all_reduce": 0, "all_gather": 1, "all_gather_into_tensor": 1, "broadcast": 0, "_broadcast_coalesced": 1}
"""Collective call → which argument holds what this rank gives."""


@dataclass(frozen=True)
class Step:
    """The student at one step: trained parameters with projections; whether the step before sliced it."""

    num_parameters: int
    plan: WidthPlan
    sliced: bool


def steps_of_a_run(config: BertConfig, target: WidthPlan, settings: Mapping[str, Any]) -> list[Step]:
    """Follow the schedule without training.

    Args:
        config: the teacher's.
        target: the plan.
        settings: `num_steps`, `interval_steps`, `start_fraction`, `end_fraction`, `multiple`.
    """
    window = (settings["start_fraction"], settings["end_fraction"])
    schedule = PruningSchedule(dict.fromkeys(PRUNING_KINDS, window), settings["interval_steps"], settings["num_steps"])
    stretches = course(widths_of(config), target, schedule, multiple=settings["multiple"])
    steps: list[Step] = []
    for stretch in stretches:
        size = trained_parameters(config, stretch.plan)
        steps.append(Step(size, stretch.plan, sliced=bool(steps)))
        steps += [Step(size, stretch.plan, sliced=False)] * (stretch.num_steps - 1)
    return steps


def trained_parameters(config: BertConfig, plan: WidthPlan) -> int:
    """Parameters of a masked-LM student and of its projections to the teacher's hidden size."""
    projections = (len(plan.layers) + 1) * plan.hidden_size * config.hidden_size
    return count_parameters(plan, config, head="masked_lm") + projections


class Traffic:
    """What this rank has handed to collective calls: purpose → calls and bytes."""

    def __init__(self) -> None:
        self.purpose = "other"
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    @contextmanager
    def counted_as(self, purpose: str) -> Iterator[None]:
        """Name what is called inside."""
        before, self.purpose = self.purpose, purpose
        try:
            yield
        finally:
            self.purpose = before

    def take(self) -> dict[str, dict[str, int]]:
        """What came together since the last time."""
        taken = {name: {"calls": self.calls[name], "bytes": self.bytes[name]} for name in sorted(self.calls)}
        self.calls.clear()
        self.bytes.clear()
        return taken

    def watch(self) -> None:
        """Count the calls of `torch.distributed` from now on; DDP's own reductions go through a hook."""
        for name, position in COUNTED.items():
            setattr(distributed, name, self._counting(getattr(distributed, name), position))
        for module in (wrapping, exact_trainer):
            module.lay_out_buckets = self._hooked(module.lay_out_buckets)
        trainer.check_same_masks = self.counted_as("digest")(trainer.check_same_masks)
        distillation_trainer.wrap_again = self.counted_as("wrap")(distillation_trainer.wrap_again)

    def _counting(self, call: Callable[..., Any], position: int) -> Callable[..., Any]:
        @wraps(call)
        def counted(*args: Any, **kwargs: Any) -> Any:
            given = args[position]
            tensors = [given] if isinstance(given, torch.Tensor) else given
            self.calls[self.purpose] += 1
            self.bytes[self.purpose] += sum(tensor.nbytes for tensor in tensors)
            return call(*args, **kwargs)

        return counted

    def _hooked(self, lay_out_buckets: Callable[..., None]) -> Callable[..., None]:
        @wraps(lay_out_buckets)
        def hooked(wrapper: DistributedDataParallel, smallest_inputs: dict[str, torch.Tensor]) -> None:
            wrapper.register_comm_hook(None, lambda _, bucket: self.reduce_bucket(bucket))
            with self.counted_as("wrap"):
                lay_out_buckets(wrapper, smallest_inputs)

        return hooked

    def reduce_bucket(self, bucket: Any) -> Any:
        """DDP's own reduction of a bucket."""
        with self.counted_as("wrap" if self.purpose == "wrap" else "gradients"):
            return allreduce_hook(None, bucket)


class CountingTrainer(HomoDistilTrainer):
    """Counts bytes, calls, rows and seconds of every step."""

    def __init__(self, *args: Any, traffic: Traffic, **kwargs: Any):
        self.traffic = traffic
        self.steps: list[dict[str, Any]] = []
        self.started_s = time.perf_counter()
        super().__init__(*args, **kwargs)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """DDP's forward, in the loss, copies buffers."""
        with self.traffic.counted_as("buffers"):
            return super().compute_loss(*args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """A step begins."""
        self.traffic.take()
        self.started_s = time.perf_counter()
        with self.traffic.counted_as("counts"):
            return super().get_batch_samples(*args, **kwargs)

    def end_step(self) -> None:
        """A step ends."""
        trained = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        plan, end_s = self.kept, time.perf_counter()
        super().end_step()
        step = {"step": self.state.global_step - 1, "num_parameters": trained, "seconds": end_s - self.started_s}
        step |= {"finish_seconds": time.perf_counter() - end_s, "sliced": self.kept != plan}
        self.steps.append(step | {"traffic": self.traffic.take()})


class CountingCollator(MaskedLMCollator):
    """Counts the rows that a rank makes batches of."""

    num_rows = 0

    def __call__(self, rows: Any) -> dict[str, torch.Tensor]:
        """Batch rows."""
        self.num_rows += len(rows)
        return super().__call__(rows)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        worlds = {str(size): run_world(Path(folder), size) for size in WORLD_SIZES}
    target = resolve_plan(STUDENT, TEACHER, multiple=PAPER_SETTINGS["multiple"])
    paper = [step.num_parameters for step in steps_of_a_run(TEACHER, target, PAPER_SETTINGS)]
    results = {
        "machine": machine_facts() | {"load_average": round(os.getloadavg()[0], 1)},
        "settings": PAPER_SETTINGS | {"global_batch": GLOBAL_BATCH, "num_rows": NUM_ROWS, "student": STUDENT},
        "worlds": worlds,
        "paper": {"num_parameters": paper},
        "differences": differences(worlds, paper),
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: results[name] for name in ("machine", "differences")}, indent=1))


def differences(worlds: dict[str, Any], paper: list[int]) -> dict[str, int]:
    """How many steps, of all worlds, were not as on paper."""
    found: Counter[str] = Counter(dict.fromkeys(("num_parameters", "gradients", "counts", "wrap"), 0))
    for size, ranks in worlds.items():
        for step in [step for rank in ranks for step in rank["steps"]]:
            found["num_parameters"] += step["num_parameters"] != paper[step["step"]]
            for purpose, num_bytes in expected_bytes(step, paper).items() if size != "1" else ():
                found[purpose] += step["traffic"][purpose]["bytes"] != num_bytes
    return dict(found)


def expected_bytes(step: dict[str, Any], paper: list[int]) -> dict[str, int]:
    """What a rank of several hands over in a step, on paper, by purpose."""
    expected = {"gradients": 4 * paper[step["step"]], "counts": COUNTS_BYTES}
    if step["sliced"]:  # DDP copies parameters and buffers; then a forward and backward pass lay out its buckets
        expected["wrap"] = 2 * (4 * paper[step["step"] + 1] + BUFFER_BYTES)
    return expected


def run_world(folder: Path, num_ranks: int) -> list[dict[str, Any]]:
    """What each rank has counted."""
    start_processes(run_rank, (num_ranks, free_port(), folder), num_ranks, start_method="fork")
    files = sorted(folder.glob(f"{num_ranks}-*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def run_rank(rank: int, num_ranks: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    traffic = Traffic()
    if num_ranks > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks}
        os.environ |= {name: str(value) for name, value in names.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        traffic.watch()
    trainer, collator = make_trainer(folder / f"table {num_ranks}", num_ranks, traffic, blocks())
    trainer.train()
    rows, stream_rows = collator.num_rows, [0]
    stream, steps = counted_stream(stream_rows), {"max_steps": NUM_STREAM_STEPS}
    streamed, collator = make_trainer(folder / f"stream {num_ranks}", num_ranks, traffic, stream, **steps)
    streamed.train()
    counts = {"table": rows, "stream": stream_rows[0], "stream_batches": collator.num_rows}
    found = {"rank": rank, "steps": trainer.steps, "rows": counts}
    (folder / f"{num_ranks}-{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    if num_ranks > 1:
        distributed.destroy_process_group()


def make_trainer(
    folder: Path, num_ranks: int, traffic: Traffic, data: Dataset | IterableDataset, **settings: Any
) -> tuple[CountingTrainer, CountingCollator]:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"w{index}" for index in range(5, VOCAB_SIZE)]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    collator = CountingCollator(tokenizer)
    defaults = {
        "output_dir": str(folder),
        "student": STUDENT,
        "max_steps": PAPER_SETTINGS["num_steps"],
        "per_device_train_batch_size": GLOBAL_BATCH // num_ranks,
        "pruning_interval_steps": PAPER_SETTINGS["interval_steps"],
        "pruning_start_fraction": PAPER_SETTINGS["start_fraction"],
        "pruning_end_fraction": PAPER_SETTINGS["end_fraction"],
        "width_multiple": PAPER_SETTINGS["multiple"],
        "logging_steps": 10,
        "teacher_dtype": "float32",
        "use_cpu": True,
    } | QUIET
    torch.manual_seed(0)
    trainer = CountingTrainer(
        BertForMaskedLM(TEACHER),
        HomoDistilTrainingArguments(**defaults | settings),
        traffic=traffic,
        train_dataset=data,
        processing_class=tokenizer,
        data_collator=collator,
    )
    return trainer, collator


def blocks() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    words_BT = torch.randint(5, VOCAB_SIZE, (NUM_ROWS, SEQUENCE_LENGTH - 2), generator=generator).tolist()
    return Dataset.from_dict({"input_ids": [[2, *row, 3] for row in words_BT], "example_id": list(range(NUM_ROWS))})


def counted_stream(num_rows: list[int]) -> IterableDataset:
    def rows() -> Iterator[dict[str, Any]]:
        for row in blocks():
            num_rows[0] += 1
            yield row

    return IterableDataset.from_generator(rows)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()
