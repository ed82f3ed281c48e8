"""Cost as work grows: tokens a second at small and large batches, memory of the loss at large vocabularies."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed import variants
from benchmarks.speed.interleaved import GatedRun, interleave
from benchmarks.speed.profiles import allocations_of, gradients_of, gradients_recorded, peak_above
from benchmarks.speed.settings import DTYPES, BenchSettings, make_workload
from benchmarks.speed.tables import spread, table
from benchmarks.speed.whole_run import START, ratios, summary, way_of
from homodistil_hf.distillation.vocabulary_loss import Decoder, decoded_terms
from homodistil_hf.files.provenance import machine_facts


@dataclass(frozen=True)
class _Repeated:
    """Several steps a round, so that all variants see as many tokens."""

    run: GatedRun
    num_steps: int

    def advance(self) -> float:
        return sum(self.run.advance() for _ in range(self.num_steps))


def run_growth(
    settings: BenchSettings, *, batch_sizes: Sequence[int] = (16, 128), vocab_sizes: Sequence[int] = (30_522, 250_002)
) -> dict[str, Any]:
    """Measure both; batch sizes grow and are multiples of the first, that of the settings is the vocabularies'."""
    return {
        "machine": machine_facts(),
        "settings": asdict(settings),
        "batch_sizes": _batch_growth(settings, batch_sizes),
        "vocab_sizes": [_vocab_entry(settings, vocab_size, factor) for vocab_size in vocab_sizes for factor in (1, 4)],
    }


def _batch_growth(settings: BenchSettings, batch_sizes: Sequence[int]) -> dict[str, Any]:
    largest = max(batch_sizes)
    place = way_of(settings).places[START]
    with tempfile.TemporaryDirectory() as folder:
        num_rounds = settings.warmup_rounds + settings.rounds
        runs: dict[str, _Repeated] = {}
        try:
            for size in batch_sizes:
                own = replace(settings, batch_size=size)
                work = make_workload(own, num_steps=num_rounds * (largest // size) + 2)
                trainer = variants.our_trainer(own, work, place, Path(folder) / str(size))
                runs[str(size)] = _Repeated(GatedRun(f"batch {size}", trainer), largest // size)
            seconds = interleave(runs, rounds=settings.rounds, warmup_rounds=settings.warmup_rounds)
        finally:
            for repeated in runs.values():
                repeated.run.close()
    return {
        name: {
            "tokens_per_second": summary([largest * settings.length / value for value in values]),
            "relative_speed": ratios(seconds[str(min(batch_sizes))], values),
        }
        for name, values in seconds.items()
    }


def _vocab_entry(settings: BenchSettings, vocab_size: int, factor: int) -> dict[str, Any]:
    num_predictions = round(factor * settings.batch_size * settings.length * settings.mlm_probability)
    sizes = {"vocab_size": vocab_size, "num_predictions": num_predictions, "hidden_size": settings.full.hidden_size}
    return sizes | {
        "peak_memory_bytes": loss_bytes(**sizes, dtype=DTYPES[settings.dtype], device=torch.device(settings.device)),
        "decoder_bytes": 4 * vocab_size * settings.full.hidden_size,
        "logits_bytes": 2 * num_predictions * vocab_size * DTYPES[settings.dtype].itemsize,
    }


def loss_bytes(
    *, vocab_size: int, num_predictions: int, hidden_size: int, dtype: torch.dtype, device: torch.device
) -> int:
    """What decoder, cross-entropy, KL and their backward pass allocate at most, above inputs, weights and gradients.

    The student's matrix in `dtype`, and its gradient until it is handed over, are among it.
    """
    states, theirs = (torch.randn(num_predictions, hidden_size, device=device, dtype=dtype) for _ in range(2))
    weight = torch.randn(vocab_size, hidden_size, device=device, requires_grad=True)
    frozen = weight.detach().to(dtype)
    labels = torch.randint(vocab_size, (num_predictions,), device=device)
    student = Decoder(states.requires_grad_(), weight, None, dtype)
    session = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with gradients_recorded([states, weight]), session:
        cross_entropy, kl = decoded_terms(student, Decoder(theirs, frozen, None, dtype), labels)
        (cross_entropy + kl).backward()
    return peak_above(allocations_of(session, device.type), gradients_of(session))


def format_growth(results: Mapping[str, Any]) -> str:
    """Two Markdown tables of what `run_growth` gave."""
    batches = [
        (name, spread(entry["tokens_per_second"], "{:,.0f}"), spread(entry["relative_speed"], "{:.2f}"))
        for name, entry in results["batch_sizes"].items()
    ]
    sizes = ("peak_memory_bytes", "logits_bytes", "decoder_bytes")
    vocabularies = [
        (
            f"{entry['vocab_size']:,}",
            f"{entry['num_predictions']:,}",
            *(f"{entry[size] / 1e6:,.0f} MB" for size in sizes),
        )
        for entry in results["vocab_sizes"]
    ]
    header = ("vocabulary", "predictions", "peak of the loss", "logits of both models", "decoder's matrix")
    return "\n\n".join([table(("batch size", "tokens/s", "× smallest"), batches), table(header, vocabularies)])
