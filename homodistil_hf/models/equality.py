"""Whether two models are the same: a digest of weights and settings, and the difference of outputs without dropout."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel


def weights_digest(model: PreTrainedModel, *behind: nn.Module) -> str:
    """Return the SHA-256 of a model's weights and configuration, and of the weights of modules `behind` it.

    It is another one as soon as any of them changes.
    """
    ignored = ("_name_or_path", "name_or_path", "transformers_version", "auto_map", "dtype")
    config = {key: value for key, value in model.config.to_dict().items() if key not in ignored}
    return tensors_digest(model, *behind, start=repr(sorted(config.items())))


def tensors_digest(*modules: nn.Module, start: str = "") -> str:
    """Return the SHA-256 of the parameters and buffers of modules, with their names, behind a text."""
    digest = hashlib.sha256(start.encode("utf-8"))
    # names go in with the bytes, so that tensors that change places change the digest
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode("utf-8"))
            # as bytes: numpy has no bfloat16
            digest.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference, divided by the largest expected value or 1; infinite where shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    largest = max(1.0, float(expected.abs().max()))
    return float((found - expected).abs().max()) / largest


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
