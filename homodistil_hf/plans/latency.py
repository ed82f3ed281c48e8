"""Milliseconds of a model on this machine: the one routine that times, tables, and plans that meet a latency budget.

A model runs in torch as it is, in torch compiled or in ONNX Runtime. Everything is float32, in evaluation mode and
without gradients. Outputs of two ways are compared before anything is timed; `models/onnx_graphs.py` writes graphs.

For a budget such as `"latency_ms=5"` or `"latency_ms=5,batch_size=8"` budgets.py halves the range of plans some ten
times; here an encoder of each is built, of random weights, and timed. A run measures once and stores the plan, so that
no measured time steers a resumed run.
"""

import dataclasses
import functools
import itertools
import logging
import math
import statistics
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..files.messages import nearest_valid, short_repr
from ..files.provenance import machine_facts
from ..files.settings import ROW_LENGTH
from ..models.architectures import architecture_of, max_tokens
from ..models.compiling import compiling_problem
from ..models.conversion import stock_config
from ..models.equality import evaluation_mode, relative_difference
from ..models.tokenizers import fitted_length
from ..models.widths import WidthPlan, widths_of
from ..tables import aligned_lines
from .budgets import LATENCY_BUDGET, plan_for_latency

logger = logging.getLogger(__name__)

Pass = Callable[[], object]
"""One forward pass, complete when it returns."""

_LONG_MS = 250.0
_REST_SECONDS = 0.03

BACKENDS = ("torch", "compiled", "onnxruntime")
TOLERANCE = 1e-4
"""Largest difference between the outputs of two backends, as a share of the largest output (or of 1)."""

Runner = Callable[..., torch.Tensor]
Inputs = tuple[torch.Tensor, torch.Tensor]
_NUM_WARMUP = 2
_LONGEST_REASON = 160
_WIDTH = 118
_CONDITIONS: dict[str, Any] = {"batch_size": int, "length": int, "backend": str}
_BUDGET_BACKENDS = ("torch", "onnxruntime")  # torch would have to compile every plan that is timed
_EXAMPLE = "latency_ms=5,batch_size=1,length=128,backend=torch"


def time_in_turns(
    passes: Mapping[str, Pass],
    *,
    num_rounds: int = 20,
    num_warmup: int = 3,
    num_passes: int = 3,
    rest_s: float = _REST_SECONDS,
) -> dict[str, list[float]]:
    """Time several callables A B C A B C …, so that their ratios hold on a busy machine: a slow phase slows them all.

    A turn begins with a short rest. The threads of an ONNX Runtime session wait actively for some milliseconds, so
    they would take a core from the next callable. Then comes a pass that does not count and brings weights back into
    the caches. If this pass takes a quarter of a second or more, it is the whole turn and counts.

    Args:
        passes: name → callable.
        num_rounds: timed turns of each callable, ≥ 1.
        num_warmup: turns of each callable before the timed ones, ≥ 0.
        num_passes: timed passes a turn, ≥ 1; their median counts.
        rest_s: seconds before each turn.

    Returns:
        Name → milliseconds of every round, in order.
    """
    durations_ms: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(num_warmup + num_rounds):
        for name, forward in passes.items():
            time.sleep(rest_s)
            turn_ms = _time_ms(forward)
            if turn_ms < _LONG_MS:
                turn_ms = statistics.median(_time_ms(forward) for _ in range(num_passes))
            durations_ms[name].append(turn_ms)
    return {name: durations[num_warmup:] for name, durations in durations_ms.items()}


def figures(durations_ms: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Sum up the results of [`time_in_turns`], and compare all with the first.

    Returns:
        `latency`: name → `median_ms` and quartiles of one pass over one batch. `speed_up`: every name but the first →
        `ratio`, the first median over this one's, and the quartiles of the ratios of single rounds.

    Example:
    ```python
    >>> found = figures({"teacher": [8.0, 9.0, 10.0], "student": [2.0, 3.0, 2.0]})
    >>> found["latency"]["student"]
    {'median_ms': 2.0, 'lower_quartile_ms': 2.0, 'upper_quartile_ms': 2.5}
    >>> found["speed_up"]
    {'student': {'ratio': 4.5, 'lower_quartile': 3.5, 'upper_quartile': 4.5}}

    ```
    """
    reference, *others = durations_ms
    latency = {}
    for name, durations in durations_ms.items():
        lower, median, upper = quartiles(durations)
        latency[name] = {"median_ms": median, "lower_quartile_ms": lower, "upper_quartile_ms": upper}
    speed_up = {}
    for name in others:
        rounds = zip(durations_ms[reference], durations_ms[name], strict=True)
        lower, _, upper = quartiles([slow / fast for slow, fast in rounds])
        ratio = latency[reference]["median_ms"] / latency[name]["median_ms"]
        speed_up[name] = {"ratio": ratio, "lower_quartile": lower, "upper_quartile": upper}
    return {"latency": latency, "speed_up": speed_up}


def quartiles(values: Sequence[float]) -> list[float]:
    """Return lower quartile, median and upper quartile of one or more values."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3


def _time_ms(forward: Pass) -> float:
    start = time.perf_counter()
    forward()
    return 1000 * (time.perf_counter() - start)


class FirstOutput(nn.Module):
    """A model that takes token ids and mask by position and returns its first output: logits, or hidden states."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Run the model on `(batch, tokens)` int64, 1 = token in the mask."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask)[0]


def missing_reason(backend: str) -> str | None:
    """Return what a backend lacks on this machine and how to install it; None if it lacks nothing."""
    if backend == "compiled":
        return compiling_problem()
    if backend != "onnxruntime":
        return None
    from ..models.onnx_graphs import missing_packages  # for graphs alone

    if not (missing := missing_packages()):
        return None
    return f"{', '.join(missing)} not installed: pip install 'homodistil-hf[onnx]'"


def model_inputs(config: PreTrainedConfig, batch_size: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random tokens without padding, from a generator of their own, and their mask: `(batch, tokens)` int64.

    Raises:
        ValueError: the length is above the model's positions.
    """
    limit = max_tokens(config)
    if length > limit:
        raise ValueError(f"length={length} is above the model's positions={limit}; nearest valid: {limit}")
    generator = torch.Generator().manual_seed(0)
    input_ids_BT = torch.randint(config.vocab_size, (batch_size, length), generator=generator)
    return input_ids_BT, torch.ones_like(input_ids_BT)


def make_runner(module: nn.Module, backend: str, inputs: Sequence[torch.Tensor], folder: Path) -> Runner:
    """Prepare a module for one backend, and check on `inputs` that its outputs equal torch's.

    Args:
        module: returns one tensor; float32, in evaluation mode, on the CPU.
        backend: a name of `BACKENDS`.
        inputs: `(batch, tokens, …)` each.
        folder: for an ONNX graph; it must exist as long as the runner is used.

    Returns:
        A callable that takes tensors like `inputs`, of any batch size and length, by position.

    Raises:
        ValueError: the outputs differ by more than `TOLERANCE`.
        RuntimeError: torch can't compile here, for want of a C++ compiler for instance.
    """
    if backend == "torch":
        return module
    if backend == "compiled":
        runner: Runner = torch.compile(module, dynamic=False, fullgraph=True)
    else:
        from ..models.onnx_graphs import export_onnx, onnx_runner  # for graphs alone

        path = Path(tempfile.mkdtemp(dir=folder)) / "model.onnx"
        export_onnx(module, inputs, path)
        runner = onnx_runner(path)
    check_equal(module, runner, inputs, backend)
    return runner


@torch.no_grad()
def check_equal(module: nn.Module, runner: Runner, inputs: Sequence[torch.Tensor], backend: str) -> None:
    """Refuse a runner whose output differs from the module's own by more than `TOLERANCE`."""
    difference = relative_difference(runner(*inputs), module(*inputs))
    # not `>`: NaN is refused as well
    if not difference <= TOLERANCE:
        raise ValueError(
            f"backend={backend!r} gives other outputs than torch, by {difference:.1e} of the largest; expected "
            f"at most {TOLERANCE:.0e}; time another backend, and report this"
        )


# Teacher and students side by side


@dataclass(frozen=True)
class LatencyGrid:
    """The cells of a comparison.

    Args:
        batch_sizes: sequences a forward pass, each ≥ 1.
        lengths: tokens a sequence, each ≥ 2.
        backends: names of `BACKENDS`.
        num_rounds: timed turns of each model, ≥ 1.
    """

    batch_sizes: Sequence[int] = (1, 32)
    lengths: Sequence[int] = (16, 128)
    backends: Sequence[str] = BACKENDS
    num_rounds: int = 15

    def __post_init__(self) -> None:
        for backend in self.backends:
            if backend not in BACKENDS:
                raise ValueError(f"backend={backend!r} is unknown; {nearest_valid(backend, BACKENDS)}")
        for name, minimum in (("batch_sizes", 1), ("lengths", 2)):
            values = list(getattr(self, name))
            if not values or min(values) < minimum:
                raise ValueError(f"{name}={values} needs numbers, each at least {minimum}; for example {name}=[32]")
        if self.num_rounds < 1:
            raise ValueError(f"num_rounds={self.num_rounds} is too small; nearest valid: 1")


def compare_latencies(
    models: Mapping[str, PreTrainedModel], grid: LatencyGrid, *, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Measure embeddings and encoder of every model in every cell of a grid, in turns.

    Args:
        models: name → float32 model on the CPU; the others are compared with the first.
        grid: the cells.
        say: takes a line after each cell, with its milliseconds by model.

    Returns:
        `dict` of JSON values: `machine`, `settings` and `cells`: `backend`, `batch_size`, `length`, and either
        `skipped`, the reason, or `latency` and `speed_up`, by model as [`figures`] gives them.
    """
    modules = {name: FirstOutput(model.base_model) for name, model in models.items()}
    limits = {name: max_tokens(model.config) for name, model in models.items()}
    onnx_runners: dict[str, Runner] = {}  # made once, they serve all shapes

    def runner_of(name: str, backend: str, inputs: Inputs, folder: Path) -> Runner:
        runner = onnx_runners.get(name) if backend == "onnxruntime" else None
        runner = runner or make_runner(modules[name], backend, inputs, folder)
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
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
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
            speed_up = ("", "")
            if ratio := cell["speed_up"].get(name):
                quartiles = f"{ratio['lower_quartile']:.2f} – {ratio['upper_quartile']:.2f}"
                speed_up = (f"{ratio['ratio']:.2f}×", quartiles)
            rows.append((backend, batch_size, length, name, f"{latency['median_ms']:.2f}", spread, *speed_up))
    machine = results["machine"]
    about = (
        f"float32, {machine['num_threads']} threads on {machine['processor']}; medians over "
        f"{results['settings']['num_rounds']} rounds in turns; embeddings and encoder, no head"
    )
    return "\n".join([*aligned_lines(rows, names={0, 3}), "", *notes, *textwrap.wrap(about, _WIDTH)])


# Plans that meet a budget


@dataclass(frozen=True)
class LatencyBudget:
    """Largest milliseconds of one forward pass of a student's embeddings and encoder, and conditions of the pass.

    Args:
        limit_ms: > 0.
        batch_size: sequences a forward pass, ≥ 1.
        length: tokens a sequence, ≥ 2; default: 128, or the positions of the teacher, see [`LatencyBudget.on`].
        backend: `"torch"` or `"onnxruntime"`, float32 on the CPU; installed.
    """

    limit_ms: float
    batch_size: int = 1
    length: int | None = None
    backend: str = "torch"

    def __post_init__(self) -> None:
        for name, minimum in (("batch_size", 1), ("length", 2)):
            if (value := getattr(self, name)) is not None and value < minimum:
                raise ValueError(f"{name}={value} is too small; nearest valid: {minimum}")
        if self.backend not in _BUDGET_BACKENDS:
            raise ValueError(
                f"backend={self.backend!r} can't time plans; {nearest_valid(self.backend, _BUDGET_BACKENDS)}"
            )
        if reason := missing_reason(self.backend):
            raise ValueError(f"backend={self.backend!r} can't be used here: {reason}")

    @classmethod
    def parse(cls, text: str, *, argument: str = "student") -> "LatencyBudget":
        """Read `latency_ms=…`, then any of `batch_size=…`, `length=…`, `backend=…`, separated by commas.

        `argument` is the user's name for it.

        Raises:
            ValueError: an unknown name, or an impossible value.

        Example:
        ```python
        >>> LatencyBudget.parse("latency_ms=2.5,length=64")
        LatencyBudget(limit_ms=2.5, batch_size=1, length=64, backend='torch')

        ```
        """
        label = f"{argument}={short_repr(text)}"
        values: dict[str, Any] = {}
        for part in text.replace(" ", "").split(","):
            name, _, value = part.partition("=")
            kind = float if name == LATENCY_BUDGET else _CONDITIONS.get(name)
            if kind is None:
                raise ValueError(f"{label} has the unknown condition {name!r}; {nearest_valid(name, _CONDITIONS)}")
            try:
                values[name] = kind(value)
            except ValueError as error:
                raise ValueError(f"{label} is no latency budget; expected for example {_EXAMPLE!r}") from error
        limit_ms = values.pop(LATENCY_BUDGET, 0.0)
        if not (math.isfinite(limit_ms) and limit_ms > 0):
            raise ValueError(f"{label} is no positive time; expected for example {_EXAMPLE!r}")
        return cls(limit_ms, **values)

    def on(self, config: PreTrainedConfig) -> "LatencyBudget":
        """The budget with the length of sequences that a teacher reads; see [`fitted_length`]."""
        length = self.length or fitted_length(None, config, argument="length", owner="teacher")
        return dataclasses.replace(self, length=length)


def plan_within(
    budget: LatencyBudget, config: PreTrainedConfig, *, multiple: int = 8, plain: bool = False
) -> tuple[WidthPlan, dict[str, Any]]:
    """Find the largest plan for a teacher's configuration that stays within a budget on this machine.

    Returns:
        The plan, whose heads × head size is the hidden size; and as JSON values the budget and the milliseconds of
        student and teacher as the search found them.

    Raises:
        ValueError: a budget out of reach, the message names the range; or a length above the teacher's positions.
    """
    budget, teacher = budget.on(config), widths_of(config)

    @functools.cache
    def measure(plan: WidthPlan) -> float:
        shape = config if plan == teacher else stock_config(config, plan)
        return statistics.median(encoder_times({"plan": shape}, budget, num_rounds=11, num_warmup=1)["plan"])

    logger.info("timing some ten encoders for student='latency_ms=%g', a minute or two", budget.limit_ms)
    plan = plan_for_latency(budget.limit_ms, config, measure=measure, multiple=multiple, plain=plain)
    conditions = dataclasses.asdict(budget)
    limit_ms = conditions.pop("limit_ms")
    predicted_ms = {"student": measure(plan), "teacher": measure(teacher)}
    return plan, {"limit_ms": limit_ms, "conditions": conditions, "predicted_ms": predicted_ms}


def measure_plan(plan: WidthPlan, config: PreTrainedConfig, budget: LatencyBudget) -> dict[str, Any]:
    """Time an encoder of the plan and one of its teacher's widths in turns, both of random weights.

    Returns:
        JSON values: `latency` of `teacher` and `student` and `speed_up` of the student, see `figures`.
    """
    shapes = {"teacher": config, "student": stock_config(config, plan)}
    found = figures(encoder_times(shapes, budget))
    return {"latency": found["latency"], "speed_up": found["speed_up"]["student"]}


def encoder_times(
    shapes: Mapping[str, PreTrainedConfig], budget: LatencyBudget, **rounds: int
) -> dict[str, list[float]]:
    """Time encoders of random weights in turns; the random state stays.

    `shapes`: name → configuration of a teacher or student. All else as [`model_times`].
    """
    models = {}
    with torch.random.fork_rng(devices=[]):
        for name, shape in shapes.items():
            architecture = architecture_of(shape)
            is_student = isinstance(shape, architecture.config.student)
            encoder = architecture.encoder.student if is_student else architecture.encoder.stock
            models[name] = encoder(shape, **{"add_pooling_layer": False} if architecture.pooler else {}).eval()
        return model_times(models, budget, **rounds)


@torch.no_grad()
def model_times(models: Mapping[str, PreTrainedModel], budget: LatencyBudget, **rounds: int) -> dict[str, list[float]]:
    """Time models in turns, without their heads.

    Args:
        models: by name, float32 on the CPU, in evaluation mode.
        budget: has the conditions of every forward pass.
        rounds: settings of [`time_in_turns`].

    Returns:
        Name → milliseconds of every round.
    """
    passes = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models.items():
            inputs = model_inputs(model.config, budget.batch_size, budget.length or ROW_LENGTH)
            runner = make_runner(FirstOutput(model.base_model), budget.backend, inputs, Path(folder))
            passes[name] = functools.partial(runner, *inputs)
        return time_in_turns(passes, **rounds)
