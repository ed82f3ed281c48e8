"""Ways to run a model: torch as it is, torch compiled, ONNX Runtime. Outputs are compared before anything is timed.

Everything is float32, in evaluation mode and without gradients. onnx_graph.py makes ONNX graphs, timing.py times
passes.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ...files.messages import nearest_name
from ...models.architectures import max_tokens
from ...models.compiling import compiling_problem
from ...models.equality import relative_difference
from .onnx_graph import export_onnx, missing_packages, onnx_runner

BACKENDS = ("torch", "compiled", "onnxruntime")
TOLERANCE = 1e-4
"""Largest difference between the outputs of two backends, as a share of the largest output (or of 1)."""

Runner = Callable[..., torch.Tensor]


class FirstOutput(nn.Module):
    """A model that takes token ids and mask by position and returns its first output: logits, or hidden states."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Run the model on `(batch, tokens)` int64, 1 = token in the mask."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask)[0]


def check_backend(backend: str) -> None:
    """Refuse an unknown backend."""
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is unknown; nearest valid: {nearest_name(backend, BACKENDS)!r}")


def missing_reason(backend: str) -> str | None:
    """Return what a backend lacks on this machine and how to install it; None if it lacks nothing."""
    if backend == "compiled":
        return compiling_problem()
    if backend != "onnxruntime" or not (missing := missing_packages()):
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
        path = Path(tempfile.mkdtemp(dir=folder)) / "model.onnx"
        export_onnx(module, inputs, path)
        runner = onnx_runner(path)
    check_equal(module, runner, inputs, backend)
    return runner


@torch.no_grad()
def check_equal(module: nn.Module, runner: Runner, inputs: Sequence[torch.Tensor], backend: str) -> None:
    """Refuse a runner whose output differs from the module's own by more than `TOLERANCE`."""
    difference = relative_difference(runner(*inputs), module(*inputs))
    if not difference <= TOLERANCE:
        raise ValueError(
            f"backend={backend!r} gives other outputs than torch, by {difference:.1e} of the largest; expected "
            f"at most {TOLERANCE:.0e}; time another backend, and report this"
        )


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every part of a model into evaluation mode, and restore each part's mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        # One by one: a frozen part inside a model that trains stays in evaluation mode.
        for module, training in modes.items():
            module.training = training
