"""Gradient-free structured pruning with unlabeled data (ICML 2023, arXiv 2303.04185): drops FFN neurons.

A filter is a neuron's column of the FFN's second matrix. A fine-tuned model loses the filters that represent other
filters least (R2) and are least active on unlabeled text (D2), in forward passes without training.
`representatives.py` has kernel, masking and fit of a layer, `pruned_folder.py` reads text and writes the folder.

Shapes: B batch, T tokens, F filters, H hidden channels.
"""

import dataclasses
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn
from transformers import PreTrainedModel

from ...distillation.teacher import resolve_teacher_dtype
from ...export.facts import CARD_SECTION, MethodCard
from ...files.messages import short_repr
from ...files.settings import check_fields, describe_settings, refuse_without_part, setting
from ...files.strict_json import is_number
from ...models.architectures import architecture_of, has_segments, max_tokens
from ...models.architectures.modeling_layerwise import LayerwiseModel
from ...models.conversion import to_student
from ...models.cost import encoder_macs
from ...models.loading import load_encoder, plain_name
from ...models.tokenizers import check_ids
from ...models.units import UnitTensors, encoder_groups
from ...models.widths import WidthPlan, widths_of
from ...pruning.compaction import compact
from ...pruning.masks import full_masks
from .representatives import convex_masking, gaussian_kernel, least_squares_scales, output_products

logger = logging.getLogger(__name__)
METHOD = "gradient_free"
Batch: TypeAlias = Mapping[str, torch.Tensor]
_MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
MAX_FITTED_TOKENS = 16_384
"""Tokens of the least-squares fit at most, evenly spread over the text."""


@dataclass(frozen=True)
@describe_settings
class GradientFreeSettings:
    """Settings of [`prune_gradient_free`].

    Raises:
        ValueError: a value is out of range.

    Example:
    ```python
    >>> GradientFreeSettings(ranking="r2").needs_samples
    True

    ```
    """

    ranking: str = setting(
        "r2d2", "r2d2, or one of its factors: r2 (weights), d2 (data).", choices=("r2d2", "r2", "d2")
    )
    sigma: float = setting(1.0, "Width σ of the Gaussian kernel, > 0.", range="(0, inf)")
    tolerance: float = setting(0.01, "Relative change α at which the masking stops, > 0.", range="(0, inf)")
    activation: str = setting(
        "norm",
        "What D2 averages over tokens: norm (RMS; a share of the layer's sum), mean (its place in the layer's range).",
        choices=("norm", "mean"),
    )
    rescaling: str = setting(
        "least_squares", "Of the filters that stay: least_squares or none.", choices=("least_squares", "none")
    )
    dtype: str = setting(
        "auto",
        "Of the passes: bfloat16, float32, or auto: bfloat16 if the hardware has it.",
        choices=("auto", "bfloat16", "float32"),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        for names, has_part, reason in (
            (("sigma", "tolerance"), self.ranking != "d2", "ranking='d2' ranks by text alone"),
            (("activation",), self.ranking != "r2", "ranking='r2' ranks by weights alone"),
            (("dtype",), self.needs_samples, "no text is read"),
        ):
            refuse_without_part(self, {} if has_part else dict.fromkeys(names, f"{reason}; leave it out"))

    @property
    def needs_samples(self) -> bool:
        """Whether ranking or rescaling needs text."""
        return self.ranking != "r2" or self.rescaling != "none"


def prune_gradient_free(
    model: str | PreTrainedModel,
    unlabeled: Iterable[Batch],
    macs: float = 0.6,
    *,
    settings: GradientFreeSettings | None = None,
) -> LayerwiseModel:
    """Drop FFN neurons of a fine-tuned model down to a budget, in forward passes on unlabeled text alone.

    FFN neurons of all layers compete, so layers keep different numbers. Heads and hidden size
    stay. The result stays within the budget of encoder MACs, and misses it by less than one neuron's MACs.

    Args:
        model: a model of any supported architecture with any of its heads, or a student of this package, whose layers
            may have different widths; or its folder or Hub name. It is not changed.
        unlabeled: batches of model inputs, such as a `DataLoader`'s: `input_ids` `(B, T)` int64, `attention_mask` of
            padded rows, `token_type_ids` of pairs. Other inputs, labels included, are ignored.
        macs: share of the model's encoder MACs to keep, in (0, 1].
        settings: default: [`GradientFreeSettings`].

    Returns:
        A student without the dropped neurons, in float32 and evaluation mode, ready for [`export_student`].

    Raises:
        ValueError: an unsupported model, a share that FFN pruning can't reach, or batches that can't be used.
        FloatingPointError: activations are not finite.

    Example:
    ```python
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> config = BertConfig(
    ...     vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    ... )
    >>> batches = [{"input_ids": torch.arange(24).view(2, 12)}]
    >>> student = prune_gradient_free(BertForSequenceClassification(config), batches, macs=0.9)
    >>> encoder_macs(widths_of(student.config)) / encoder_macs(widths_of(config)) <= 0.9
    True

    ```
    """
    settings = settings or GradientFreeSettings()
    named = plain_name(model)
    teacher = load_encoder(named, argument="model") if isinstance(named, str) else model
    student = to_student(teacher, argument="model").eval()
    num_kept_filters(widths_of(student.config), macs)
    batches = check_samples(unlabeled, student) if settings.needs_samples else []
    activations, products = filter_statistics(student, batches, settings)
    scores = filter_scores(student, activations, settings)
    prune_filters(student, scores, macs, products=products)
    return student


def export_facts(settings: GradientFreeSettings, unlabeled: Iterable[Batch]) -> dict[str, Any]:
    """Facts of the pruning for [`export_student`]: settings, samples, texts of the card."""
    batches = list(unlabeled)
    samples = {
        "num_samples": sum(len(batch["input_ids"]) for batch in batches),
        "num_tokens": sum(num_tokens(batch) for batch in batches),
    }
    card = _card(settings)
    return {"settings": asdict(settings), "training": {"method": METHOD, **samples}, CARD_SECTION: asdict(card)}


def _card(settings: GradientFreeSettings) -> MethodCard:
    text = "represent the others least", "are least active on unlabeled text"
    least = {"r2d2": f"{text[0]} and {text[1]} (R2D2)", "r2": f"{text[0]} (R2)", "d2": f"{text[1]} (D2)"}
    is_scaled = settings.rescaling == "least_squares"
    chosen = "their weights" if settings.ranking == "r2" else "unlabeled text"
    return MethodCard(
        student="Pruned copy",
        made=f"made from {{teacher}} by leaving out FFN neurons, chosen by {chosen}",
        how=f"The student is its teacher without those FFN neurons that {least[settings.ranking]}. "
        + "Those that stayed were scaled by a least-squares fit of each layer's output on unlabeled text. " * is_scaled
        + "No gradients, no labels, no training: Gradient-Free Structured Pruning with Unlabeled Data (ICML 2023, "
        "arXiv 2303.04185).",
        paper="The student was made by the method of another paper, arXiv 2303.04185; HomoDistil, which "
        "`homodistil_hf` is named after, is the method of",
        tags=("pruning",),
    )


def num_kept_filters(plan: WidthPlan, macs: float) -> int:
    """Count the filters of all layers that a budget leaves.

    Args:
        plan: widths of the model.
        macs: share of its encoder MACs, in (0, 1].

    Returns:
        `int`: as many as fit, at least one a layer. Less than one filter's MACs of the budget are left.

    Raises:
        ValueError: `macs` is no share, or dropping FFN neurons alone doesn't reach it.

    Example:
    ```python
    >>> from homodistil_hf.models.widths import LayerWidths
    >>> num_kept_filters(WidthPlan.uniform(768, 12, LayerWidths(12, 64, 3072)), 0.6)
    14131

    ```
    """
    if not is_number(macs) or not 0 < macs <= 1:
        raise ValueError(
            f"macs={short_repr(macs)} is no share of the model's encoder MACs; expected a number in (0, 1]"
        )
    num_filters = sum(layer.intermediate_size for layer in plan.layers)
    full, filter_macs = encoder_macs(plan), plan.traits.ffn_matrices * plan.hidden_size
    # Rounded first: a share such as 0.6 of the MACs is a float a little above or below a whole number.
    num_dropped = math.ceil(round(full * (1 - macs), 6) / filter_macs)
    # each layer keeps a filter at least
    most = num_filters - len(plan.layers)
    if num_dropped > most:
        # rounded up, so that the named share can be reached
        least = math.ceil((full - most * filter_macs) / full * 10_000) / 10_000
        raise ValueError(
            f"macs={macs:g} is out of reach: attention alone takes more, and only FFN neurons are dropped; nearest "
            f"valid: {least:g}"
        )
    return num_filters - num_dropped


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
        others = {name: batch[name] for name in names if batch.get(name) is not None}
        for name, values in others.items():
            is_tensor = isinstance(values, torch.Tensor)
            if not is_tensor or (name != "attention_mask" and values.is_floating_point()):
                raise ValueError(
                    f"{label} has {name}={short_repr(values)}; expected a tensor of whole numbers: set "
                    "return_tensors='pt'"
                )
        if (length := tokens_BT.shape[1]) > (limit := max_tokens(config)):
            raise ValueError(f"{label} has {length} tokens a row; nearest valid: {limit}, the model's positions")
        if tokens_BT.numel():
            check_ids(label, int(tokens_BT.min()), int(tokens_BT.max()), config.vocab_size)
        batches.append(others)
    if not any(map(num_tokens, batches)):
        raise ValueError(f"unlabeled has no token in {len(batches)} batches; expected text, e.g. 2,048 samples")
    return batches


def num_tokens(batch: Batch) -> int:
    """Count the tokens of a batch, without padding."""
    return int(batch["attention_mask"].count_nonzero()) if "attention_mask" in batch else batch["input_ids"].numel()


@torch.inference_mode()
def filter_statistics(
    student: LayerwiseModel, batches: Sequence[Batch], settings: GradientFreeSettings
) -> tuple[UnitTensors, UnitTensors]:
    """Run the encoder over all batches once; activations are summed as they come, none is stored.

    A batch's sums are copied to the host together and added up there in float64, which Apple's devices lack. Memory: a
    forward pass of one batch, and with products 4·F² bytes a layer on the device: 453 MB for BERT-base.

    Args:
        student: in evaluation mode, on the device that computes.
        batches: of [`check_samples`].
        settings: the average over all tokens but padding; the tokens of the products, every n-th of all; and the type
            of the model's matrix products, by autocast. Sums are float32 at least.

    Returns:
        `(activations, products)`: `ffn.{l}` → float64 `(F,)` on the CPU, the average over tokens; `ffn.{l}` → float32
        `(F, F)`, Σ over tokens of products of activations, empty where nothing is rescaled. Both are empty without
        batches.

    Raises:
        ValueError: the model feeds tokens to its FFN in several parts.
        FloatingPointError: activations are not finite.
    """
    if not batches:
        return {}, {}
    if size := student.config.chunk_size_feed_forward:
        raise ValueError(f"chunk_size_feed_forward={size} cuts rows in front of the FFN; set it to 0 in the config")
    dtype = resolve_teacher_dtype(settings.dtype, student.device)
    names = [f"ffn.{index}" for index in range(student.config.num_hidden_layers)]
    total = sum(map(num_tokens, batches))
    # every n-th token of all batches, the least n that leaves no more than are asked for
    stride = math.ceil(total / MAX_FITTED_TOKENS)
    sizes = {name: second_linear(student, name).in_features for name in names}
    sums_A = torch.zeros(sum(sizes.values()), dtype=torch.float64)  # A: filters of all layers
    of_batch: UnitTensors = {}
    with_products = sizes if settings.rescaling != "none" else {}
    products = {
        name: torch.zeros(size, size, dtype=torch.float32, device=student.device)
        for name, size in with_products.items()
    }
    seen = 0
    kept: torch.Tensor | None = None

    def add(name: str, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # what a second matrix gets: tokens of all rows without padding
        activations_TF = inputs[0].flatten(0, 1).float()
        activations_TF = activations_TF if kept is None else activations_TF[kept]
        # of squares, the root comes after the mean
        of_batch[name] = (activations_TF.square() if settings.activation == "norm" else activations_TF).sum(0)
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
            if (mask_BT := batch.get("attention_mask")) is not None:
                mask_BT = mask_BT.flatten().nonzero()[:, 0].to(student.device)
            kept = mask_BT
            with torch.autocast(student.device.type, dtype=dtype, enabled=dtype != torch.float32):
                student.base_model(**inputs)
            sums_A += torch.cat([of_batch[name] for name in names]).cpu()
            seen += num_tokens(batch)
    averages = dict(zip(names, (sums_A / total).split(list(sizes.values())), strict=True))
    if settings.activation == "norm":
        averages = {name: values.sqrt() for name, values in averages.items()}
    if broken := [name for name, values in averages.items() if not bool(values.isfinite().all())]:
        raise FloatingPointError(f"activations of {broken[0]} are not finite: the model diverged; take an earlier one")
    return averages, products


def filter_scores(student: LayerwiseModel, activations: UnitTensors, settings: GradientFreeSettings) -> UnitTensors:
    """Rank filters: algorithm 2 of arXiv 2303.04185.

    Returns:
        `ffn.{l}` → float32 `(F,)` on the CPU: R2 (the diagonal of the masking's coefficients), D2 (how active a filter
        is), or their product.
    """
    scores: UnitTensors = {}
    for name in (f"ffn.{index}" for index in range(student.config.num_hidden_layers)):
        filters_FH = second_linear(student, name).weight.detach().T
        # R2 · D2, or the one of them that `ranking` names
        score_F = torch.ones(len(filters_FH), dtype=torch.float64)
        if "r2" in settings.ranking:
            kernel_FF = gaussian_kernel(filters_FH, sigma=settings.sigma)
            coefficients_FF = convex_masking(kernel_FF, tolerance=settings.tolerance)
            score_F *= _normalized(coefficients_FF.diagonal().cpu().double())
        if "d2" in settings.ranking:
            score_F *= _normalized(activations[name], by_range=settings.activation == "mean")
        scores[name] = score_F.float()
    return scores


def _normalized(values_F: torch.Tensor, *, by_range: bool = False) -> torch.Tensor:
    """Divide a layer's values by their sum, or by their range above the least; equal ones rank no filter: 1."""
    least, most = values_F.aminmax()
    if least == most:
        return torch.ones_like(values_F)
    return (values_F - least) / (most - least) if by_range else values_F / values_F.sum()


def prune_filters(
    student: LayerwiseModel,
    scores: UnitTensors,
    macs: float,
    *,
    products: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Keep the highest scores of all layers within a budget, rescale them, and compact the student in place.

    Args:
        student: changed in place.
        scores: `ffn.{l}` → one number a filter, comparable across layers; ties go to the lower layer and index.
        macs: share of the student's encoder MACs, see [`num_kept_filters`].
        products: of [`filter_statistics`]; without them, filters are not rescaled.
    """
    plan = widths_of(student.config)
    kept = kept_filters(scores, num_kept_filters(plan, macs))
    for name, mask_F in kept.items():
        # before the others are cut off: the columns that stay are scaled to make up for them
        if products and not bool(mask_F.all()):
            weight_HF = second_linear(student, name).weight
            products_FF = output_products(products[name].cpu(), weight_HF.detach().cpu().T)
            scales_F = least_squares_scales(products_FF, mask_F)
            weight_HF.data.mul_(scales_F.to(weight_HF))
    # of all groups only the FFNs' lose units
    groups = encoder_groups(student)
    layers = (
        replace(layer, intermediate_size=int(kept[f"ffn.{index}"].sum())) for index, layer in enumerate(plan.layers)
    )
    compact(student, groups, full_masks(groups) | kept, plan=dataclasses.replace(plan, layers=tuple(layers)))
    sizes = [layer.intermediate_size for layer in widths_of(student.config).layers]
    logger.info("FFN neurons that are left, layer by layer: %s", " ".join(map(str, sizes)))


def kept_filters(scores: UnitTensors, num_kept: int) -> UnitTensors:
    """Masks on the CPU; the best filter of each layer stays, as no layer can be empty."""
    ranked = {name: values.detach().float().cpu().clone() for name, values in scores.items()}
    for values in ranked.values():
        values[values.argmax()] = math.inf
    # One ranking over the filters of all layers; stable, so ties go to the lower layer and index.
    order = torch.cat(list(ranked.values())).sort(descending=True, stable=True).indices[:num_kept]
    # the mask over all filters, cut into layers again
    mask = torch.zeros(sum(map(len, ranked.values())), dtype=torch.bool)
    mask[order] = True
    return dict(zip(ranked, mask.split([len(values) for values in ranked.values()]), strict=True))


def second_linear(student: LayerwiseModel, group: str) -> nn.Linear:
    """The second linear layer of a group's FFN; the columns of its matrix are the filters."""
    return architecture_of(student.config).filters(student, int(group.partition(".")[2]))
