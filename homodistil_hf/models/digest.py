"""A number for what a model computes, which is another one as soon as a weight or a setting is."""

import hashlib

from torch import nn
from transformers import PreTrainedModel


def weights_digest(model: PreTrainedModel, *behind: nn.Module) -> str:
    """SHA-256 of what a model computes: weights and configuration, and the weights of what stands behind it."""
    ignored = ("_name_or_path", "name_or_path", "transformers_version", "auto_map", "dtype")
    config = {key: value for key, value in model.config.to_dict().items() if key not in ignored}
    digest = hashlib.sha256(repr(sorted(config.items())).encode("utf-8"))
    for module in (model, *behind):
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode("utf-8"))
            digest.update(memoryview(tensor.detach().contiguous().cpu().numpy()).cast("B"))
    return digest.hexdigest()
