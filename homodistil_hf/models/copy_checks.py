"""Checks that a student made by `conversion.py` is its model: the same parameters, and the same answers to a batch.

A model may bear the name of a stock class and compute something else: a class of one's own, adapters inside, another
head, fewer layers. Without these checks, its student would compute the stock function, and no error would follow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..files.messages import first_line, join_some
from .architectures import architecture_of, max_tokens
from .modes import evaluation_mode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ANSWERS = ("logits", "prediction_logits", "start_logits", "end_logits", "last_hidden_state")
_EXACT, _HALF = (1e-3, math.inf), (0.1, 0.0)
"""The largest difference, and what one counts that is NaN or infinite: half precision overflows."""
_LARGEST = 1e19
"""Squares of larger weights, as in the norm of their gradients, are beyond float32."""
_MERGE = "merge adapters first: model = model.merge_and_unload()"
WRAPPERS = {
    "OptimizedModule": "it is compiled: pass the model that torch.compile was given, model._orig_mod",
    "DistributedDataParallel": "pass the model inside, model.module, and launch with torchrun or accelerate",
    "DataParallel": "pass the model inside, model.module",
    "FullyShardedDataParallel": "pass the model before it was sharded",
    "SentenceTransformer": "an embedding model: use EmbeddingDistilTrainer",
    "CrossEncoder": "a reranker: use RerankerDistilTrainer",
}
"""Class that holds a model → the remedy."""


def refuse_nonfinite(model: nn.Module, label: str) -> None:
    """Refuse, by a ValueError that begins with `label`, a parameter with NaN, Inf, or a square beyond float32."""
    for name, parameter in model.named_parameters():
        largest = max(map(abs, map(float, parameter.detach().aminmax()))) if parameter.numel() else 0.0
        if not largest < _LARGEST:
            counts = {"NaN": int(parameter.isnan().sum()), "Inf": int(parameter.isinf().sum())}
            found = " and ".join(f"{count:,} × {word}" for word, count in counts.items() if count)
            raise ValueError(
                f"{label} has {found or f'{largest:.3g}'} among the {parameter.numel():,} values of {name}, which "
                "makes gradients or logits that are not finite as well; take another copy of it, or export an earlier "
                "checkpoint"
            )


def wrapper_remedy(model: nn.Module) -> str:
    """Return the remedy for a class that holds a model, or is none of transformers; empty for others."""
    # by names along the class tree, so that none of these packages is imported
    kinds = type(model).__mro__
    if any(kind.__module__.partition(".")[0] == "peft" for kind in kinds):
        return _MERGE
    return next((WRAPPERS[kind.__name__] for kind in kinds if kind.__name__ in WRAPPERS), "")


def refuse_other_parameters(
    model: nn.Module, state: Mapping[str, Any], student: PreTrainedModel, *, argument: str
) -> None:
    """Refuse a model whose parameters are not those of its stock class.

    `state` holds the model's parameters and buffers, without its architecture's `surplus`.

    Raises:
        ValueError: names the parameters and the likely reason.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in student.state_dict().items()}
    shapes = {name: tuple(getattr(tensor, "shape", ())) for name, tensor in state.items()}
    if shapes == wanted:
        return
    surplus, missing = shapes.keys() - wanted.keys(), wanted.keys() - shapes.keys()
    common = shapes.keys() & wanted.keys()
    reshaped = [f"{name} {shapes[name]} for {wanted[name]}" for name in common if shapes[name] != wanted[name]]
    kinds = (("further parameters", surplus), ("no", missing), ("other shapes:", reshaped))
    differences = "; ".join(f"{kind} {join_some(names)}" for kind, names in kinds if names)
    raise ValueError(
        f"{argument}={type(model).__name__} is not as its config describes it: it has {differences}. "
        f"{_likely_remedy(model, student, [*surplus, *missing])}"
    )


def _likely_remedy(model: nn.Module, student: PreTrainedModel, names: list[str]) -> str:
    if any("lora_" in name or ".base_layer." in name or "modules_to_save" in name for name in names):
        return f"It has adapters inside; {_MERGE}"
    packages = {type(module).__module__ for module in model.modules()}
    # torchao, bitsandbytes, and modules of torch and transformers such as torch.ao.nn.quantized
    if foreign := {one for one in packages if "quant" in one or one.startswith(("bitsandbytes", "torchao"))}:
        return f"It has quantized modules ({join_some(foreign)}); load it without quantization"
    layers = f"{architecture_of(student.config).layers}."
    if names and all(layers in name for name in names):
        return "Set config.num_hidden_layers to the number of its layers, as keep_layers and from_pretrained do"
    return "Load it with the stock class's from_pretrained, and give the class its own head and its own config"


@torch.no_grad()
def refuse_other_function(model: PreTrainedModel, student: PreTrainedModel, *, argument: str) -> None:
    """Refuse a model that answers a small batch otherwise than its student, which has the same parameters.

    Models with another attention than `eager` or `sdpa` are taken unseen. Such kernels may want half precision or one
    kind of device, and the student is in float32 where the model is.

    Raises:
        ValueError: the answers differ by more than rounding, or the model can't read the batch.
    """
    if model.config._attn_implementation not in ("eager", "sdpa"):
        return
    # two rows of at most 8 tokens, one padded; a stride spreads the tokens over any vocabulary
    config, length = student.config, min(8, max_tokens(student.config))
    tokens_BT = (torch.arange(2 * length, device=student.device) * 7919 + 1).remainder(config.vocab_size)
    mask_BT = torch.ones(2, length, dtype=torch.long, device=student.device)
    mask_BT[1, length - length // 4 :] = 0
    inputs = {"input_ids": tokens_BT.view(2, length), "attention_mask": mask_BT}
    remedy = (
        f"A student computes what transformers' own {type(student).__name__.removeprefix('Homo')} does; give a model "
        "of that class, or train one to it first"
    )
    try:
        expected = _answers(model, inputs)
    except Exception as error:  # the user's code may raise anything
        raise ValueError(
            f"{argument}={type(model).__qualname__} can't read a batch of token ids ({type(error).__name__}: "
            f"{first_line(error)}). {remedy}"
        ) from error
    found = _answers(student, inputs)
    if [answer.shape for answer in expected] != [answer.shape for answer in found]:
        own, usual = ([tuple(answer.shape) for answer in answers] for answers in (expected, found))
        raise ValueError(
            f"{argument}={type(model).__qualname__} has outputs of shapes {own}, its stock class {usual}. {remedy}"
        )
    if model.dtype == torch.float32 and not all(bool(answer.isfinite().all()) for answer in found):
        raise ValueError(
            f"{argument}={type(model).__qualname__}{f', {name!r},' if (name := model.name_or_path) else ''} gives "
            "answers to a small batch that are not finite: its weights are too large; take another copy of it, or an "
            "earlier checkpoint"
        )
    tolerance, overflow = _EXACT if model.dtype in (torch.float32, torch.float64) else _HALF
    # values that overflow in a half type count as equal; rounding is relative to the largest of the others
    for one, other in zip(expected, found, strict=True):
        largest = float(one.float().abs().nan_to_num(posinf=0.0).max())
        # infinities less themselves are NaN, though they are equal
        is_equal = torch.isclose(one.float(), other.float(), rtol=0, atol=0, equal_nan=True)
        off = (one.float() - other.float()).abs().masked_fill(is_equal, 0.0).nan_to_num(overflow, posinf=overflow)
        if float(off.max()) > tolerance * max(1.0, largest):
            raise ValueError(
                f"{argument}={type(model).__module__}.{type(model).__qualname__} is not the function that its name "
                f"and config describe: with the same parameters, answers differ by {float(off.max()):.3g} "
                f"(the largest is {largest:.3g}). {remedy}"
            )


def _answers(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    # accelerate puts autocast around `forward` and keeps the model's own.
    forward = vars(model).get("_original_forward") or model.forward
    with evaluation_mode(model):
        outputs = forward(**inputs, return_dict=True)
    is_token_BT = inputs["attention_mask"] != 0
    answers = [outputs[name] for name in _ANSWERS if name in outputs]
    # attention kernels differ in what they give padded tokens
    return [answer[is_token_BT] if answer.shape[:2] == is_token_BT.shape else answer for answer in answers]
