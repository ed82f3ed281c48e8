"""Teacher and students side by side: latency by backend, batch size and length, as JSON values and as a table.

`plans/latency/` runs and times the models.
"""

import dataclasses
import functools
import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PreTrainedModel

from ..files.provenance import machine_facts
from ..models.architectures import max_tokens
from ..models.cost import encoder_macs
from ..models.modes import evaluation_mode
from ..models.widths import widths_of
from ..plans.latency.timing import (
    BACKENDS,
    FirstOutput,
    Runner,
    check_backend,
    check_equal,
    figures,
    make_runner,
    missing_reason,
    model_inputs,
    time_in_turns,
)
from ..tables import aligned_lines

Inputs = tuple[torch.Tensor, torch.Tensor]
_NUM_WARMUP = 2
_LONGEST_REASON = 160
_WIDTH = 118


@dataclass(frozen=True)
class LatencyGrid:
    """The cells of a comparison.

    Args:
        batch_sizes: sequences a forward pass, each ≥ 1.
        lengths: tokens a sequence, each ≥ 2.
        backends: names of `BACKENDS`.
        with_head: whether heads run too; default: embeddings and encoder only.
        num_rounds: timed turns of each model, ≥ 1.
    """

    batch_sizes: Sequence[int] = (1, 32)
    lengths: Sequence[int] = (16, 128)
    backends: Sequence[str] = BACKENDS
    with_head: bool = False
    num_rounds: int = 15

    def __post_init__(self) -> None:
        for backend in self.backends:
            check_backend(backend)
        for name, minimum in (("batch_sizes", 1), ("lengths", 2)):
            values = list(getattr(self, name))
            if not values or min(values) < minimum:
                raise ValueError(f"{name}={values} needs numbers, each at least {minimum}; for example {name}=[32]")
        if self.num_rounds < 1:
            raise ValueError(f"num_rounds={self.num_rounds} is too small; nearest valid: 1")


def compare_latencies(
    models: Mapping[str, PreTrainedModel], grid: LatencyGrid, *, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Measure every model in every cell of a grid, in turns.

    Args:
        models: name → float32 model on the CPU; the others are compared with the first.
        grid: the cells.
        say: takes a line after each cell, with its milliseconds by model.

    Returns:
        `dict` of JSON values: `machine`, `settings`, `reference`, `models` (name → widths, encoder MACs at 128
        tokens), and `cells`: `backend`, `batch_size`, `length`, and either `skipped`, the reason, or `latency` and
        `speed_up`, by model as [`figures`] gives them.
    """
    if not models:
        raise ValueError("models={} holds no model; name at least one")
    modules = {name: FirstOutput(model if grid.with_head else model.base_model) for name, model in models.items()}
    limits = {name: max_tokens(model.config) for name, model in models.items()}
    onnx_runners: dict[str, Runner] = {}  # made once, they serve all shapes

    def runner_of(name: str, backend: str, inputs: Inputs, folder: Path) -> Runner:
        earlier = onnx_runners.get(name) if backend == "onnxruntime" else None
        runner = earlier or make_runner(modules[name], backend, inputs, folder)
        if backend == "onnxruntime":
            onnx_runners[name] = runner
        if backend != "torch":
            # padding takes another way through attention, so it is compared as well: half of the last row
            input_ids_BT, shorter_BT = inputs[0], inputs[1].clone()
            shorter_BT[-1, shorter_BT.shape[1] // 2 :] = 0
            check_equal(modules[name], runner, (input_ids_BT, shorter_BT), backend)
        return runner

    def measured(backend: str, batch_size: int, length: int, folder: Path) -> dict[str, Any]:
        too_long = (f"{name} has positions={limit}" for name, limit in limits.items() if length > limit)
        if reason := missing_reason(backend) or next(too_long, None):
            return {"skipped": reason}
        if backend == "compiled":
            torch.compiler.reset()  # each shape is compiled anew, and torch limits their number
        inputs = {name: model_inputs(model.config, batch_size, length) for name, model in models.items()}
        try:
            runners = {name: runner_of(name, backend, inputs[name], folder) for name in modules}
        except RuntimeError as error:
            if backend != "compiled":
                raise
            return {"skipped": f"torch.compile fails here: {' '.join(str(error).split())[:_LONGEST_REASON]}"}
        passes = {name: functools.partial(runner, *inputs[name]) for name, runner in runners.items()}
        return figures(time_in_turns(passes, num_rounds=grid.num_rounds, num_warmup=_NUM_WARMUP))

    with ExitStack() as stack, torch.no_grad():
        for model in models.values():
            stack.enter_context(evaluation_mode(model))
        folder = Path(stack.enter_context(TemporaryDirectory()))
        cells = []
        for backend, batch_size, length in itertools.product(grid.backends, grid.batch_sizes, grid.lengths):
            place = {"backend": backend, "batch_size": batch_size, "length": length}
            cell = measured(backend, batch_size, length, folder)
            medians = [f"{name} {figures['median_ms']:.2f} ms" for name, figures in cell.get("latency", {}).items()]
            result = f"skipped, {cell['skipped']}" if "skipped" in cell else ", ".join(medians)
            say(f"latency: {backend}, batch {batch_size}, length {length}: {result}")
            cells.append(place | cell)
    return {
        "machine": machine_facts(),
        "settings": dataclasses.asdict(grid),
        "reference": next(iter(models)),
        "models": {
            name: {
                "architecture": type(model).__name__,
                "num_hidden_layers": len((plan := widths_of(model.config)).layers),
                "plan": plan.to_dict(),
                "encoder_macs": encoder_macs(plan),
            }
            for name, model in models.items()
        },
        "cells": cells,
    }


def format_latencies(results: Mapping[str, Any]) -> str:
    """Lay out results of [`compare_latencies`], a line a cell and model: medians and quartiles in ms."""
    rows = [("backend", "batch", "length", "model", "median, ms", "quartiles, ms", "speed-up", "quartiles")]
    notes = []
    for cell in results["cells"]:
        backend, batch_size, length = cell["backend"], str(cell["batch_size"]), str(cell["length"])
        if "skipped" in cell:
            notes.append(f"skipped: {backend}, batch {batch_size}, length {length}: {cell['skipped']}")
        for name, latency in cell.get("latency", {}).items():
            spread = f"{latency['lower_quartile_ms']:.2f} – {latency['upper_quartile_ms']:.2f}"
            row = (backend, batch_size, length, name, f"{latency['median_ms']:.2f}", spread)
            if ratio := cell["speed_up"].get(name):
                quartiles = f"{ratio['lower_quartile']:.2f} – {ratio['upper_quartile']:.2f}"
                rows.append((*row, f"{ratio['ratio']:.2f}×", quartiles))
            else:
                rows.append((*row, "", ""))
    machine = results["machine"]
    about = (
        f"float32, {machine['num_threads']} threads on {machine['processor']}; medians over "
        f"{results['settings']['num_rounds']} rounds in turns; "
        + ("whole models" if results["settings"]["with_head"] else "embeddings and encoder, no head")
    )
    return "\n".join([*aligned_lines(rows, names={0, 3}), "", *notes, *textwrap.wrap(about, _WIDTH)])
