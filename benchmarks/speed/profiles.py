"""The peak of memory of one step and the share of each of its parts, read from a profiler.

Memory is the allocator's own record. Parts are ranges around the trainer's methods, put there from outside while one
step is profiled, so the trainer itself knows nothing of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import Trainer

from benchmarks.speed.interleaved import GatedRun
from benchmarks.speed.reference import PlainLoop
from homodistil_hf.distillation.teacher import FrozenTeacher
from homodistil_hf.trainer import HomoDistilTrainer
from homodistil_hf.training.distillation_trainer import DistillationTrainer

PARTS = ("data", "teacher", "student", "losses", "backward", "scores", "masks", "clipping", "optimizer", "other")
"""Parts of a step, in order. `losses` is their forward; our decoder and its gradient are computed there.
`backward` holds all other gradients, `other` the rest: checks, logs, callbacks, learning rate."""

_GRADIENT, _PART, _ALLOCATION = "gradient:", "part:", "[memory]"
Moment = tuple[int, int]  # nanoseconds, bytes
Range = tuple[str, int, int]  # name, start and end in nanoseconds


def peak_bytes(run: GatedRun) -> int:
    """The most bytes in one step above weights, optimizer state and the gradients that exist at that moment.

    The run must be past its first step, so that the optimizer's state exists.
    """
    parameters = [parameter for parameter in run.trainer.model.parameters() if parameter.requires_grad]
    with gradients_recorded(parameters):
        session, _ = _profiled_turn(run, profile_memory=True)
    return peak_above(allocations_of(session, run.trainer.args.device.type), gradients_of(session))


def allocations_of(session: profile, device_type: str) -> list[Moment]:
    """The allocator's record of a session with `profile_memory=True`; negative where memory was freed."""
    return sorted(
        (event.start_ns(), event.nbytes())
        for event in _events(session)
        if event.name() == _ALLOCATION and event.device_type().name.lower() == device_type
    )


def peak_above(allocations: Sequence[Moment], gradients: Sequence[Moment]) -> int:
    """The highest running total of allocations, less what the gradients of that moment take; ≥ 0."""
    moments = sorted([*allocations, *((moment, -size) for moment, size in gradients)])
    total = peak = 0
    for _, size in moments:
        total += size
        peak = max(peak, total)
    return peak


@contextmanager
def gradients_recorded(tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Let a profiler see when the gradients of these leaves come into being."""

    def record(tensor: torch.Tensor) -> None:
        if tensor.grad is not None:
            with record_function(f"{_GRADIENT}{tensor.grad.nbytes}"):
                pass

    handles = [tensor.register_post_accumulate_grad_hook(record) for tensor in tensors]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def gradients_of(session: profile) -> list[Moment]:
    """Read what [`gradients_recorded`] left: when each gradient began to exist, and its bytes."""
    return [
        (event.start_ns(), int(event.name().removeprefix(_GRADIENT)))
        for event in _events(session)
        if event.name().startswith(_GRADIENT) and event.device_type().name == "CPU"
    ]


def part_seconds(run: GatedRun) -> dict[str, float]:
    """Let a run, past its warm-up, do one step; exclusive seconds of every part in `PARTS`, in sum the step's."""
    device = run.trainer.args.device

    @contextmanager
    def recorded(part: str) -> Iterator[None]:
        with record_function(f"{_PART}{part}"):
            yield
            if device.type == "cuda":
                torch.cuda.synchronize(device)  # so that the range holds the kernels that it started

    with within_parts(run.trainer, recorded):
        session, seconds = _profiled_turn(run)
    parts = dict.fromkeys(PARTS, 0.0) | exclusive_seconds(_ranges(session))
    parts["other"] = seconds - sum(parts.values())
    return parts


def _ranges(session: profile) -> list[Range]:
    return [
        (event.name().removeprefix(_PART), event.start_ns(), event.start_ns() + event.duration_ns())
        for event in _events(session)
        if event.name().startswith(_PART) and event.device_type().name == "CPU"
    ]


def exclusive_seconds(ranges: Sequence[Range]) -> dict[str, float]:
    """Time inside each name's ranges that is not inside a range within them; no two ranges may overlap in part."""
    seconds: dict[str, float] = {}
    around: list[Range] = []
    for name, start, end in sorted(ranges, key=lambda entry: (entry[1], -entry[2])):
        while around and around[-1][2] <= start:
            around.pop()
        if around:
            seconds[around[-1][0]] -= (end - start) / 1e9
        seconds[name] = seconds.get(name, 0.0) + (end - start) / 1e9
        around.append((name, start, end))
    return seconds


def device_seconds(run: GatedRun) -> float:
    """Let a run on a GPU, past its warm-up, do one step; returns the seconds in which the GPU computed or copied.

    Events around the step would count the time in which the GPU waits for the host, too.
    """
    session, _ = _profiled_turn(run, activity=ProfilerActivity.CUDA)
    return busy_seconds(session)


def busy_seconds(session: profile) -> float:
    """Time in which at least one kernel or copy of a session ran on the GPU."""
    seconds, free_from = 0.0, 0
    for start, end in sorted(
        (event.start_ns(), event.start_ns() + event.duration_ns())
        for event in _events(session)
        if event.device_type().name == "CUDA" and not event.is_user_annotation()
    ):
        seconds += max(0, end - max(start, free_from)) / 1e9
        free_from = max(free_from, end)
    return seconds


def _profiled_turn(
    run: GatedRun, *, profile_memory: bool = False, activity: ProfilerActivity = ProfilerActivity.CPU
) -> tuple[profile, float]:
    session = profile(activities=[activity], profile_memory=profile_memory)
    return session, run.advance(within=session)


def _events(session: Any) -> list[Any]:
    return list(session.profiler.kineto_results.events())


@contextmanager
def within_parts(trainer: Trainer, context: Callable[[str], AbstractContextManager]) -> Iterator[None]:
    """Enter `context(part)` around the trainer's methods that are a part of a step; of `PARTS`, without `other`."""
    with ExitStack() as stack:
        for owner, name, part in _methods(trainer):
            stack.enter_context(_around(owner, name, partial(context, part)))
        yield


def _methods(trainer: Trainer) -> list[tuple[Any, str, str]]:
    """Owner, attribute and part of each range."""
    methods: list[tuple[Any, str, str]] = [
        (trainer, "get_batch_samples", "data"),
        (trainer, "compute_loss", "losses"),
        (trainer.accelerator, "backward", "backward"),
        (trainer, "_clip_grad_norm", "clipping"),
        (trainer.optimizer, "step", "optimizer"),
        (trainer.model, "zero_grad", "optimizer"),
        (trainer.model, "forward", "student"),
    ]
    if isinstance(trainer, DistillationTrainer):
        methods.append((FrozenTeacher, "__call__", "teacher"))
    if isinstance(trainer, HomoDistilTrainer):
        methods += [(trainer.pruner, "score", "scores"), (trainer.pruner, "step", "masks")]
    if isinstance(trainer, PlainLoop):
        methods += [(trainer, "teach", "teacher"), (trainer, "score", "scores"), (trainer, "prune_and_mask", "masks")]
    return methods


@contextmanager
def _around(owner: Any, name: str, context: Callable[[], AbstractContextManager]) -> Iterator[None]:
    original: Callable = getattr(owner, name)
    is_own = name in vars(owner)

    def within(*args: Any, **kwargs: Any) -> Any:
        with context():
            return original(*args, **kwargs)

    setattr(owner, name, within)
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)
