"""Modules as ONNX graphs, by `torch.onnx.export`, and their sessions in ONNX Runtime, which optimises them.

onnx and onnxruntime are the `[onnx]` extra, imported on use.
"""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

_REQUIRED = ("onnx", "onnxscript", "onnxruntime")
_EXAMPLE_SIZE = 2  # sizes 0 and 1 would be taken for constants
_EXAMPLE_TOKENS = 16

# ONNX Runtime's SkipLayerNormalization is no vector code on CPUs: 0.12 ms at 128 × 224, where an addition and its
# LayerNormalization take 0.03 ms (version 1.31, one thread of a Zen 5). The other fusions of its highest level gain.
# onnxruntime.transformers' optimizer adds nothing: it finds the same fusions, and no attention in torch 2.13's graphs.
_SLOW_FUSIONS = ["SkipLayerNormFusion"]


def missing_packages() -> list[str]:
    """Names of the packages of the `[onnx]` extra that are not installed."""
    return [name for name in _REQUIRED if importlib.util.find_spec(name) is None]


def export_onnx(
    module: nn.Module,
    inputs: Sequence[torch.Tensor],
    path: Path,
    *,
    input_names: Sequence[str] = (),
    output_names: Sequence[str] = ("output",),
    num_tokens: int = _EXAMPLE_TOKENS,
) -> None:
    """Write a module as an ONNX graph of any batch size and length.

    Args:
        module: takes `inputs` by position and returns one tensor, or a tuple.
        inputs: tensors of shape `(batch, tokens, …)`, at least two tokens.
        path: file to write.
        input_names: of the graph; default: `input_0` and so on.
        output_names: of the graph.
        num_tokens: tokens of the example that is traced, at most those of `inputs`.

    Raises:
        ValueError: a package of the `[onnx]` extra is missing.
    """
    if missing := missing_packages():
        raise ValueError(f"{', '.join(missing)} not installed; install with pip install 'homodistil-hf[onnx]'")
    short = [tensor[:1, :num_tokens] for tensor in inputs]
    examples = tuple(tensor.expand(_EXAMPLE_SIZE, *tensor.shape[1:]).contiguous() for tensor in short)
    with torch.no_grad(), _as_traced(module):
        program: Any = torch.onnx.export(
            module,
            examples,
            dynamo=True,
            # batch and tokens of every input may vary
            dynamic_shapes=tuple(dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC) for _ in examples),
            input_names=list(input_names) or [f"input_{index}" for index in range(len(examples))],
            output_names=list(output_names),
            verbose=False,
        )
    program.save(path)


def onnx_runner(path: Path, *, num_threads: int | None = None) -> Callable[..., torch.Tensor]:
    """Load a graph as a callable that takes the graph's input tensors by position and returns its output tensor."""
    session = onnx_session(path, num_threads=num_threads)
    names = [entry.name for entry in session.get_inputs()]

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        arrays = [tensor.numpy() for tensor in inputs]
        return torch.from_numpy(session.run(None, dict(zip(names, arrays, strict=True)))[0])

    return run


def onnx_session(path: Path, *, num_threads: int | None = None) -> Any:
    """Load a graph that [`export_onnx`] wrote, on the CPU, with all graph optimisations that gain.

    Args:
        path: of the graph.
        num_threads: by default torch's.

    Returns:
        `onnxruntime.InferenceSession`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = num_threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOW_FUSIONS
    )


@contextlib.contextmanager
def _as_traced(module: nn.Module) -> Iterator[None]:
    """Export attention as two products and a softmax: torch's fused one would add checks for NaN.

    torch is silent meanwhile: it warns of its own deprecations and of torchvision's absence at every export.
    """
    models = [part for part in module.modules() if isinstance(part, PreTrainedModel)]
    before, logger = [model.config._attn_implementation for model in models], logging.getLogger("torch.onnx")
    level = logger.level
    try:
        for model in models:
            model.set_attn_implementation("eager")
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        for model, implementation in zip(models, before, strict=True):
            model.set_attn_implementation(implementation)
