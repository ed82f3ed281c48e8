"""The operations of one optimizer step, counted by part on a CPU, as a GPU would be asked for them.

    python -m benchmarks.speed.operations

A step of few rows on a GPU takes as long as the host needs to launch its kernels. Launches, waits and bytes are the
same numbers on every machine, so a test holds them. The model has BERT-base's 12 layers at tiny widths, under
bfloat16 autocast. Where the package or torch do another thing on a GPU, the count does so too: LayerNorm is of
float32, attention is torch's fused one, scores take all weights at once, and the loss over the vocabulary is cut into
as many pieces as for 256 × 128 tokens.
"""

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer, TrainingArguments

from benchmarks.quiet import QUIET
from benchmarks.speed.interleaved import GatedRun
from benchmarks.speed.profiles import PARTS, within_parts
from benchmarks.speed.reference import PlainLoop
from benchmarks.speed.settings import BenchSettings, Workload, make_workload
from benchmarks.speed.variants import one_shot_trainer, our_trainer, plain_loop, strong_loop
from benchmarks.speed.whole_run import Stretch
from homodistil_hf.data.masking import MaskedLMCollator
from homodistil_hf.distillation import losses, vocabulary_loss
from homodistil_hf.models.widths import WidthPlan
from homodistil_hf.pruning import scores
from homodistil_hf.tables import aligned_lines
from homodistil_hf.training.distillation_trainer import DistillationTrainer

RESULTS = Path("docs/results/operations.json")
SHAPE = {"hidden_size": 96, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 192}
SHAPE |= {"vocab_size": 1200, "max_position_embeddings": 32}
_MANY = 1 << 60
NUM_PREDICTIONS, NUM_WORDS = 4864, 30_522
"""Of 256 × 128 tokens, 19 a row predicted: the loss over the vocabulary is cut into as many pieces as there."""
_WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique2", "aten::equal"}
"""Operations whose results the host must know before it goes on, if their inputs are on a GPU."""
_NO_LAUNCHES = {f"aten::{name}" for name in ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")}
_NO_LAUNCHES |= {"aten::_unsafe_view", "profiler::_record_function_enter_new", "profiler::_record_function_exit"}
"""Allocations, a view by another name, and ranges for profilers."""


@dataclass
class Operations(TorchDispatchMode):
    """Counts what is asked of the device while it is entered.

    Args:
        launches: part of the step → operations that compute or copy.
        views: operations that do neither: views, allocations, and ranges for profilers.
        casts: launches that change a number type.
        made_bytes: part → bytes of the results of its launches.
        waits: part → launches that the host waits for. Those of `data` and `masks` are of tensors on the host.
    """

    launches: Counter = field(default_factory=Counter)
    views: int = 0
    casts: int = 0
    made_bytes: Counter = field(default_factory=Counter)
    waits: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__init__()
        self._parts = ["other"]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count it."""
        name, part = func._schema.name, self._parts[-1]
        # In inference mode an operation made of others arrives whole, as a linear layer with its casts. It is counted
        # by its parts, as everywhere else. The dropout of an evaluation has none.
        if name == "aten::dropout" and not args[2]:
            return func(*args, **(kwargs or {}))
        with self:
            result = func.decompose(*args, **(kwargs or {}))
        if result is not NotImplemented:
            return result
        result = func(*args, **(kwargs or {}))
        is_view = any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)
        if is_view or name in _NO_LAUNCHES:
            self.views += 1
            return result
        self.launches[part] += 1
        self.casts += name == "aten::_to_copy"
        self.waits[part] += name in _WAITS
        results = result if isinstance(result, tuple | list) else [result]
        self.made_bytes[part] += sum(one.nbytes for one in results if isinstance(one, torch.Tensor))
        return result

    def count_wait(self, method: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
        """Return a method of tensors that counts as a wait besides."""

        def counted(tensor: torch.Tensor) -> Any:
            self.waits[self._parts[-1]] += 1
            return method(tensor)

        return counted

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Count what follows as of a part."""
        self._parts.append(part)
        try:
            yield
        finally:
            self._parts.pop()

    def as_facts(self) -> dict[str, Any]:
        """JSON values, parts in their order."""
        return {
            "launches": {part: self.launches[part] for part in PARTS if self.launches[part]},
            "views": self.views,
            "casts": self.casts,
            "waits": sum(number for part, number in self.waits.items() if part not in ("data", "masks")),
            "made_megabytes": round(sum(self.made_bytes.values()) / 1e6, 2),
        }


def settings_of_counts() -> BenchSettings:
    """A tiny BERT of 12 layers and its student of a quarter."""
    return BenchSettings(
        shape=json.dumps(SHAPE), student="48-12x4-96", batch_size=32, length=32, multiple=4, mlm_probability=0.15
    )


@contextmanager
def as_on_a_gpu(num_predictions: int, vocab_size: int) -> Iterator[None]:
    """Within the block, the package and torch compute on a CPU what they would on a GPU."""
    layer_norm = F.layer_norm

    def of_float32(states: torch.Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
        if not torch.is_autocast_enabled("cpu"):
            return layer_norm(states, shape, weight, bias, eps)
        with torch.autocast("cpu", enabled=False):
            return layer_norm(states.float(), shape, weight, bias, eps)

    # numbers and bytes at a time, by as much fewer as there are fewer predictions and words
    share = num_predictions * vocab_size / (NUM_PREDICTIONS * NUM_WORDS)
    piece, logits = share * vocabulary_loss.OTHER_CHUNK_ELEMENTS, share * vocabulary_loss.LOGITS_BYTES
    with ExitStack() as stack:
        stack.enter_context(patch.object(F, "layer_norm", of_float32))
        stack.enter_context(patch.object(scores, "CPU_CHUNK_ELEMENTS", 0))
        stack.enter_context(patch.object(losses, "CPU_CHUNK_ELEMENTS", _MANY))
        stack.enter_context(patch.dict(losses.LAYERS_ELEMENTS, {"cpu": losses.OTHER_LAYERS_ELEMENTS}))
        stack.enter_context(patch.dict(vocabulary_loss.CHUNK_ELEMENTS, {"cpu": round(piece)}))
        stack.enter_context(patch.object(vocabulary_loss, "LOGITS_BYTES", round(logits)))
        yield


def use_fused_attention(trainer: Trainer) -> None:
    """Let all models of a trainer take torch's fused attention, as they do on a GPU."""
    own = trainer.distillation.teacher if isinstance(trainer, DistillationTrainer) else None
    models = [trainer.student, trainer.teacher] if isinstance(trainer, PlainLoop) else [trainer.model]
    for model in [*models, *([own.exact, own.fast] if own else [])]:
        model.set_attn_implementation("sdpa")


def plain_trainer(settings: BenchSettings, work: Workload, folder: Path) -> Trainer:
    """Return Trainer itself with the masked-LM loss alone: no teacher."""
    return Trainer(
        work.start,
        TrainingArguments(
            output_dir=str(folder),
            max_steps=settings.max_steps,
            per_device_train_batch_size=settings.batch_size,
            bf16=True,
            use_cpu=True,
            remove_unused_columns=False,
            **QUIET,
        ),
        train_dataset=work.blocks,
        data_collator=MaskedLMCollator(work.tokenizer, mlm_probability=settings.mlm_probability, seed=settings.seed),
    )


def pruned(loop: PlainLoop, plan: WidthPlan) -> PlainLoop:
    """Let a loop have the masks of a plan, as it is timed."""
    loop.prune_to(plan)
    return loop


def variants(settings: BenchSettings) -> dict[str, Callable[[Workload, Path], Trainer]]:
    """Name of a phase or a baseline → its trainer."""
    full, target = settings.full, settings.target
    return {
        "before and in the window": lambda work, folder: our_trainer(settings, work, Stretch(1, full), folder),
        "plan reached": lambda work, folder: our_trainer(settings, work, Stretch(1, target), folder),
        "one_shot": lambda work, folder: one_shot_trainer(settings, work, folder),
        "strong loop": lambda work, folder: pruned(strong_loop(settings, work, folder), target),
        "plain loop": lambda work, folder: pruned(plain_loop(settings, work, folder), target),
        "Trainer, no teacher": lambda work, folder: plain_trainer(settings, work, folder),
    }


def count_step(make: Callable[[Workload, Path], Trainer], settings: BenchSettings) -> Operations:
    """Count the third step of a trainer."""
    work = make_workload(settings, num_steps=8)
    # of each row without its first and last token
    num_predictions = settings.batch_size * round(settings.mlm_probability * (settings.length - 2))
    with tempfile.TemporaryDirectory() as folder, as_on_a_gpu(num_predictions, settings.config.vocab_size):
        trainer, operations = make(work, Path(folder)), Operations()
        use_fused_attention(trainer)
        run = GatedRun("counted", trainer)
        try:
            run.advance()
            with (
                within_parts(run.trainer, operations.within),
                patch.object(torch.Tensor, "tolist", operations.count_wait(torch.Tensor.tolist)),
            ):
                run.advance(within=operations)
        finally:
            run.close()
    return operations


def format_counts(counts: Mapping[str, Mapping[str, Any]]) -> str:
    """A table with a column a variant."""
    rows = [["", *counts]]
    for part in PARTS:
        rows.append([part, *(f"{of.get('launches', {}).get(part, 0):,}" for of in counts.values())])
    rows.append(["launches", *(f"{sum(of['launches'].values()):,}" for of in counts.values())])
    for name in ("casts", "views", "waits", "made_megabytes"):
        rows.append([name.replace("_", " "), *(f"{of[name]:,}" for of in counts.values())])
    return "\n".join(aligned_lines(rows))


def main() -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    settings = settings_of_counts()
    counts = {name: count_step(make, settings).as_facts() for name, make in variants(settings).items()}
    print(format_counts(counts))
    RESULTS.write_text(
        json.dumps({"torch": torch.__version__.partition("+")[0], "shape": SHAPE, "counts": counts}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
