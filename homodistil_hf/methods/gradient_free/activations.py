"""Unlabeled batches → averages and products of the activations of FFN neurons, summed in forward passes.

`pruning.py` ranks and rescales neurons by them. Shapes: B batch, T tokens, F filters: neurons, or columns of the FFN's
second matrix.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import nn
from transformers import PreTrainedModel

from ...files.messages import short_repr
from ...models.architectures import architecture_of, has_segments, max_tokens
from ...models.architectures.modeling_layerwise import LayerwiseModel
from ...models.tokenizers import check_ids
from ...models.units import UnitTensors

logger = logging.getLogger(__name__)
Batch: TypeAlias = Mapping[str, torch.Tensor]
_MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
_SUMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda activations_TF: activations_TF.sum(0),
    "magnitude": lambda activations_TF: activations_TF.abs().sum(0),
    "norm": lambda activations_TF: activations_TF.square().sum(0),
}
AVERAGES = tuple(_SUMS)


@dataclass(frozen=True)
class FilterStatistics:
    """Activations of the filters over all tokens of all batches.

    Args:
        activations: `ffn.{l}` → float64 `(F,)` on the CPU, the average over tokens.
        products: `ffn.{l}` → float32 `(F, F)`, Σ over tokens of products of activations; may be empty.
    """

    activations: UnitTensors
    products: UnitTensors


def check_samples(unlabeled: Iterable[Batch], model: PreTrainedModel) -> list[dict[str, torch.Tensor]]:
    """Read all batches and keep the encoder's inputs, where they are, as the number of tokens is needed first.

    Memory: 8 bytes a token and input, padding included: 6 MB for 2,048 rows of 128 tokens.

    Raises:
        ValueError: no batch, no tensor of tokens, or rows that are longer than the model's positions.
    """
    if isinstance(unlabeled, str | Mapping) or not isinstance(unlabeled, Iterable):
        raise ValueError(f"unlabeled={short_repr(unlabeled)} is no sequence of batches; expected dicts with input_ids")
    config = model.config
    names = [name for name in _MODEL_INPUTS if name != "token_type_ids" or has_segments(config)]
    batches = []
    for index, batch in enumerate(unlabeled):
        label = f"unlabeled[{index}]"
        tokens_BT = batch.get("input_ids") if isinstance(batch, Mapping) else None
        if not isinstance(tokens_BT, torch.Tensor) or tokens_BT.dim() != 2:
            raise ValueError(
                f"{label} is {short_repr(batch)}; expected a dict with input_ids, a tensor (batch, tokens): set "
                "return_tensors='pt', or a collator that pads"
            )
        if (length := tokens_BT.shape[1]) > (limit := max_tokens(config)):
            raise ValueError(f"{label} has {length} tokens a row; nearest valid: {limit}, the model's positions")
        if tokens_BT.numel():
            check_ids(label, int(tokens_BT.min()), int(tokens_BT.max()), config.vocab_size)
        batches.append({name: batch[name] for name in names if batch.get(name) is not None})
    if not any(map(num_tokens, batches)):
        raise ValueError(f"unlabeled has no token in {len(batches)} batches; expected text, e.g. 2,048 samples")
    return batches


def num_tokens(batch: Batch) -> int:
    """Count the tokens of a batch, without padding."""
    return int(batch["attention_mask"].count_nonzero()) if "attention_mask" in batch else batch["input_ids"].numel()


@torch.inference_mode()
def ffn_statistics(
    student: LayerwiseModel,
    batches: Sequence[Batch],
    *,
    average: str = "mean",
    max_product_tokens: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> FilterStatistics:
    """Run the encoder over all batches once; activations are summed as they come, none is stored.

    A batch's sums are copied to the host together and added up there in float64, which Apple's devices lack. Memory: a
    forward pass of one batch, and with products 4·F² bytes a layer on the device: 453 MB for BERT-base.

    Args:
        student: in evaluation mode, on the device that computes.
        batches: of [`check_samples`].
        average: over all tokens but padding: `"mean"`, `"magnitude"` (mean of sizes) or `"norm"` (root mean square).
        max_product_tokens: most tokens that products are summed over, ≥ 1, every n-th of all; `None`: no products.
        dtype: of the model's matrix products, by autocast; sums are float32 at least.

    Raises:
        ValueError: the model feeds tokens to its FFN in several parts.
        FloatingPointError: activations are not finite.
    """
    if size := student.config.chunk_size_feed_forward:
        raise ValueError(f"chunk_size_feed_forward={size} cuts rows in front of the FFN; set it to 0 in the config")
    names = [f"ffn.{index}" for index in range(student.config.num_hidden_layers)]
    total = sum(map(num_tokens, batches))
    # every n-th token of all batches, the least n that leaves no more than `max_product_tokens`
    stride = math.ceil(total / (max_product_tokens or total))
    sizes = {name: second_linear(student, name).in_features for name in names}
    sums_A = torch.zeros(sum(sizes.values()), dtype=torch.float64)  # A: filters of all layers
    of_batch: UnitTensors = {}
    with_products = sizes if max_product_tokens else {}
    products = {name: torch.zeros(size, size, device=student.device) for name, size in with_products.items()}
    seen = 0
    kept: torch.Tensor | None = None

    def add(name: str, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # what a second matrix gets: tokens of all rows without padding
        activations_TF = inputs[0].flatten(0, 1).float()
        activations_TF = activations_TF if kept is None else activations_TF[kept]
        of_batch[name] = _SUMS[average](activations_TF)
        if products:
            # `-seen % stride` continues the stride over tokens where the last batch left it.
            chosen_SF = activations_TF[-seen % stride :: stride]
            products[name].addmm_(chosen_SF.T, chosen_SF)

    with ExitStack() as hooks:
        for name in names:
            hooks.enter_context(second_linear(student, name).register_forward_pre_hook(partial(add, name)))
        for batch in batches:
            inputs = {name: tensor.to(student.device) for name, tensor in batch.items()}
            # places of the tokens among those of all rows; None: there is no padding
            kept, mask_BT = None, batch.get("attention_mask")
            if mask_BT is not None and not bool(mask_BT.all()):
                kept = mask_BT.flatten().nonzero()[:, 0].to(student.device)
            with torch.autocast(student.device.type, dtype=dtype, enabled=dtype != torch.float32):
                student.base_model(**inputs)
            sums_A += torch.cat([of_batch[name] for name in names]).cpu()
            seen += num_tokens(batch)
    averages = dict(zip(names, (sums_A / total).split(list(sizes.values())), strict=True))
    # sums were of squares: the root comes after the mean
    if average == "norm":
        averages = {name: values.sqrt() for name, values in averages.items()}
    if broken := [name for name, values in averages.items() if not bool(values.isfinite().all())]:
        raise FloatingPointError(f"activations of {broken[0]} are not finite: the model diverged; take an earlier one")
    return FilterStatistics(averages, products)


def second_linear(student: LayerwiseModel, group: str) -> nn.Linear:
    """The second linear layer of a group's FFN; the columns of its matrix are the filters."""
    return architecture_of(student.config).filters(student, int(group.partition(".")[2]))
