"""Pruning without labels or gradients: its kernel on a real model, time and memory, quality beside baselines.

    python -m benchmarks.studies.gradient_free kernel --model DIR       # a minute
    python -m benchmarks.studies.gradient_free speed [--device cuda]    # BERT-base shape, random weights

The baseline with labels follows the formula of the mask search of Kwon et al. 2022: a filter's score is the sum over
labelled samples of (∂loss/∂mask)², at masks of one. The rows on quality, after hours of fine-tuning, are of
benchmarks/gradient_free.py at commit 7db6fe1.
"""

import argparse
import copy
import itertools
import resource
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from benchmarks.studies.study import Study
from homodistil_hf.distillation.teacher import multiplies_bfloat16, resolve_teacher_dtype
from homodistil_hf.evaluation.records import Spread
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.files.strict_json import write_json
from homodistil_hf.methods.gradient_free import pruning as gradient_free
from homodistil_hf.methods.gradient_free.activations import FilterStatistics, check_samples
from homodistil_hf.methods.gradient_free.pruning import GradientFreeSettings
from homodistil_hf.methods.gradient_free.representatives import convex_masking, gaussian_kernel
from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.loading import load_encoder
from homodistil_hf.models.units import UnitTensors
from homodistil_hf.tables import markdown_table

RESULTS, PAGE = Path("docs/results"), Path("docs/gradient_free.md")
RESCALED, FISHER, FOREIGN = " + rescaling", "Fisher, with labels", ", other text"
RECOVERED = ", then distilled"
MEANS = {"activation": "mean", "d2_normalization": "range"}  # the likely reading of the paper
NORMS = {"activation": "norm", "d2_normalization": "sum"}  # the default
RANKINGS = {
    "D2": GradientFreeSettings(ranking="d2", **MEANS),
    "R2": GradientFreeSettings(ranking="r2"),
    "R2D2": GradientFreeSettings(ranking="r2d2", **MEANS),
    "R2D2, norms": GradientFreeSettings(ranking="r2d2", **NORMS),
}
R2D2 = f"R2D2{RESCALED}"
VARIANTS = ("random", "magnitude", "D2", "R2", "R2D2", R2D2, f"R2D2, norms{RESCALED}", f"{R2D2}{FOREIGN}")
VARIANTS += (FISHER, FISHER + RESCALED)
RECOVERED_VARIANTS = tuple(f"{variant}{RECOVERED}" for variant in ("random", R2D2, FISHER + RESCALED))
Batches = list[dict[str, torch.Tensor]]


def second_matrices(model: PreTrainedModel) -> dict[str, torch.nn.Linear]:
    return {f"ffn.{index}": layer.output.dense for index, layer in enumerate(model.base_model.encoder.layer)}


def fisher_scores(model: PreTrainedModel, batches: Batches, dtype: torch.dtype = torch.float32) -> UnitTensors:
    """Σ over samples of (∂loss/∂mask)²: every sample has masks of its own, so one backward pass serves a batch."""
    scores = {name: torch.zeros(linear.in_features) for name, linear in second_matrices(model).items()}
    model.requires_grad_(False)
    for batch in batches:
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        shapes = {name: (len(batch["input_ids"]), 1, len(sums)) for name, sums in scores.items()}
        masks = {name: torch.ones(shape, device=model.device, requires_grad=True) for name, shape in shapes.items()}
        with ExitStack() as hooks, torch.autocast(model.device.type, dtype=dtype, enabled=dtype != torch.float32):
            for name, linear in second_matrices(model).items():
                handle = linear.register_forward_pre_hook(lambda _, inputs, mask=masks[name]: (inputs[0] * mask,))
                hooks.callback(handle.remove)
            loss = model(**batch).loss * len(batch["input_ids"])  # the sum of the samples' losses
            gradients = torch.autograd.grad(loss, list(masks.values()))
        for name, gradient in zip(masks, gradients, strict=True):
            scores[name] += gradient[:, 0].square().sum(0).cpu()
    model.requires_grad_(True)
    return scores


class Sample:
    """Rows for one model with their statistics and scores, by matrix products of one type."""

    def __init__(self, model: PreTrainedModel, batches: Batches, seed: int, dtype: str = "auto"):
        self.model, self.batches, self.seed, self.dtype = to_student(model).eval(), batches, seed, dtype
        self.statistics, self.scores = cache(self._statistics), cache(self._scores)  # for all variants and budgets

    def _statistics(self, activation: str) -> FilterStatistics:
        """Averages of activations of one kind, and their products."""
        settings = GradientFreeSettings(activation=activation, dtype=self.dtype)
        return gradient_free.filter_statistics(self.model, check_samples(self.batches, self.model), settings)

    def _scores(self, ranking: str) -> UnitTensors:
        """Scores of all filters; of the batches' labels only Fisher makes use."""
        matrices = second_matrices(self.model)
        if ranking == "random":
            draw = torch.Generator().manual_seed(self.seed)
            return {name: torch.rand(part.in_features, generator=draw) for name, part in matrices.items()}
        if ranking == "magnitude":
            return {name: part.weight.detach().norm(dim=0) for name, part in matrices.items()}
        if ranking == FISHER:
            return fisher_scores(self.model, self.batches, resolve_teacher_dtype(self.dtype, self.model.device))
        settings = RANKINGS[ranking]
        measured = FilterStatistics({}, {}) if ranking == "R2" else self.statistics(settings.activation)
        return gradient_free.filter_scores(self.model, measured, settings)


def pruned(sample: Sample, variant: str, macs: float) -> PreTrainedModel:
    """The model of one variant at one budget."""
    ranking = variant.removesuffix(FOREIGN).removesuffix(RESCALED)
    settings = RANKINGS.get(ranking, GradientFreeSettings())
    products = sample.statistics(settings.activation).products if RESCALED in variant else None
    student = copy.deepcopy(sample.model)
    gradient_free.prune_filters(student, sample.scores(ranking), macs, products=products, damping=settings.damping)
    return student


def quality_table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Scores × 100 of each variant over the seeds of its samples, and the mean share of the teachers' it keeps."""
    table = pd.DataFrame(rows.values()).fillna({"variant": "fine-tuned"})
    teachers = table[table["variant"] == "fine-tuned"].set_index("task")["score"]
    cells = []
    for macs, variant in [(1.0, "fine-tuned"), *itertools.product((0.7, 0.6), VARIANTS + RECOVERED_VARIANTS)]:
        found = table[(table["macs"] == macs) & (table["variant"] == variant)].groupby("task")["score"]
        if len(found):
            kept = f"{fmean(found.mean() / teachers[found.mean().index]):.1%}" if len(found) == len(teachers) else "–"
            scores = dict(iter(found))
            shown = [f"{Spread.of(100 * scores[task]):.1f}" if task in scores else "–" for task in teachers.index]
            cells.append([f"{macs:.0%}", variant, *shown, kept])
    return markdown_table(["MACs", "", *teachers.index, "kept"], cells)


def timed(
    variant: str, config: BertConfig, num_samples: int, length: int = 128, device: str = "cpu", dtype: str = "float32"
) -> dict[str, float]:
    """Seconds, and the process's peak of memory above what it held before; to be run in a process of its own."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval().to(device)
    tokens = torch.randint(config.vocab_size, (num_samples, length))
    batches = [{"input_ids": part, "labels": torch.zeros(len(part)).long()} for part in tokens.split(32)]
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    pruned(Sample(model, batches, 0, dtype), variant, 0.6)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"time_s": round(time.perf_counter() - start, 1), "peak_above_model_mb": round(peak / 1024)}


def run_speed(options: argparse.Namespace) -> None:
    results: dict[str, Any] = {"machine": machine_facts(), "num_samples": options.num_samples, "variants": {}}
    dtypes = ["float32"] + ["bfloat16"] * multiplies_bfloat16(torch.device(options.device))
    for variant, dtype in itertools.product(options.variants, dtypes):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own_process:
            given = {"config": BertConfig(), "num_samples": options.num_samples, "device": options.device}
            found = own_process.submit(timed, variant, dtype=dtype, **given).result()
        results["variants"][f"{variant}, {dtype}"] = found
        print(f"{variant}, {dtype}: {found}", flush=True)
    if options.device == "cpu":
        SPEED.write(results)
        SPEED.show()
    else:
        write_json(RESULTS / f"gradient_free_speed_{options.device}.json", results)


def speed_table(results: Mapping[str, Any]) -> list[str]:
    """Seconds and memory of each variant."""
    cells = [
        [variant, f"{found['time_s']:.0f} s", f"{found['peak_above_model_mb'] / 1000:.1f} GB"]
        for variant, found in results["variants"].items()
    ]
    return markdown_table(["", "time", "memory above the model"], cells)


def run_kernel(options: argparse.Namespace) -> None:
    """Of every layer: how alike filters are, where the masking stops by either rule, and what its ranks follow."""
    rows = []
    for name, linear in second_matrices(load_encoder(options.model)).items():
        filters_FH = linear.weight.detach().T
        for reading, denominator in (("σ²", 1.0), ("2σ²", 2.0)):
            kernel_FF = gaussian_kernel(filters_FH, denominator=denominator)
            row = {"layer": name, "d": reading, "alike": spread(kernel_FF[kernel_FF < 1])}
            for rule in ("summed", "absolute"):
                masking = convex_masking(kernel_FF, stopping=rule)
                ranks = masking.coefficients_FF.diagonal()
                order = torch.stack([x.argsort().argsort().float() for x in (ranks, filters_FH.norm(dim=1))])
                row |= {f"{rule}: updates": masking.num_iterations, f"{rule}: R2": spread(ranks)}
                row[f"{rule}: Spearman"] = round(float(torch.corrcoef(order)[0, 1]), 2)
            rows.append(row)
    KERNEL.write(rows)
    KERNEL.show()


def spread(values: torch.Tensor) -> str:
    """5 %, half, 95 %."""
    ordered = values.flatten().sort().values
    return " / ".join(f"{float(ordered[int(share * (len(ordered) - 1))]):.2g}" for share in (0.05, 0.5, 0.95))


KERNEL = Study(
    RESULTS / "gradient_free_kernel.json",
    PAGE,
    lambda rows: {"kernel": markdown_table(list(rows[0]), [list(map(str, row.values())) for row in rows])},
)
SPEED = Study(RESULTS / "gradient_free_speed.json", PAGE, lambda record: {"speed": speed_table(record)})
QUALITY = Study(
    RESULTS / "gradient_free_quality.json", PAGE, lambda record: {"quality": quality_table(record["rows"])}
)
RUNS = {"kernel": run_kernel, "speed": run_speed}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("--model", help="kernel: folder or Hub name of an encoder")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--num_samples", type=int, default=2048)
    parser.add_argument("--device", default="cpu", help="speed: such as cuda; its memory is not measured")
    options = parser.parse_args(arguments)
    RUNS[options.run](options)


if __name__ == "__main__":
    main()
