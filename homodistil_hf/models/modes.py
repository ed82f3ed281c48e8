"""Models in evaluation mode for a while."""

import contextlib
from collections.abc import Iterator

from torch import nn


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
