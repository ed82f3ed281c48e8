"""Gradient-free structured pruning with unlabeled data (ICML 2023, arXiv 2303.04185): drops FFN neurons.

A filter is a neuron's column of the FFN's second matrix. A fine-tuned model loses the filters that represent other
filters least (R2) and are least active on unlabeled text (D2), in forward passes without training. `activations.py`
runs the model, `representatives.py` has kernel, masking and fit, `pruned_folder.py` reads text and writes the folder.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from ...distillation.teacher import resolve_teacher_dtype
from ...export.facts import CARD_SECTION
from ...export.method_card import MethodCard
from ...files.field_checks import check_fields, describe_settings, refuse_without_part, setting
from ...files.messages import short_repr
from ...files.strict_json import is_number
from ...models.architectures.modeling_layerwise import LayerwiseModel
from ...models.conversion import to_student
from ...models.cost import encoder_macs
from ...models.loading import load_encoder, plain_name
from ...models.units import UnitTensors, encoder_groups
from ...models.widths import WidthPlan, widths_of
from ...pruning.compaction import compact
from ...pruning.masks import full_masks
from .activations import AVERAGES, Batch, FilterStatistics, check_samples, ffn_statistics, num_tokens, second_linear
from .representatives import STOPPING_RULES, convex_masking, gaussian_kernel, least_squares_scales, output_products

logger = logging.getLogger(__name__)
METHOD = "gradient_free"
STATED, BELIEVED, OURS = "stated", "believed", "ours"
"""Origins of a default: stated in the paper; the likely reading of the paper; chosen by this project."""

CARD = MethodCard(
    student="Pruned copy",
    made="made from {teacher} by leaving out FFN neurons, chosen on unlabeled text",
    how="The student is its teacher without those FFN neurons that represent the others least and are least active on "
    "unlabeled text (R2D2); those that stayed may have been scaled by a least-squares fit of each layer's output. No "
    "gradients, no labels, no training: Gradient-Free Structured Pruning with Unlabeled Data (ICML 2023, arXiv "
    "2303.04185).",
    paper="The student was made by the method of another paper, arXiv 2303.04185; HomoDistil, which `homodistil_hf` "
    "is named after, is the method of",
    tags=("pruning",),
)

_NORMALIZATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda values_F: values_F / values_F.abs().sum(),
    "max": lambda values_F: values_F / values_F.abs().max(),
    "range": lambda values_F: (values_F - values_F.min()) / (values_F.max() - values_F.min()),
    "none": lambda values_F: values_F,
}


@dataclass(frozen=True)
@describe_settings
class GradientFreeSettings:
    """Settings of [`prune_gradient_free`]; each field has the `origin` of its default.

    Raises:
        ValueError: a value is out of range.

    Example:
    ```python
    >>> GradientFreeSettings(ranking="r2").needs_samples, GradientFreeSettings(kernel="2sigma^2").denominator
    (True, 2.0)

    ```
    """

    ranking: str = setting(
        "r2d2", "r2d2, or one of its factors: r2 (weights), d2 (data).", origin=STATED, choices=("r2d2", "r2", "d2")
    )
    sigma: float = setting(1.0, "Width σ of the Gaussian kernel, > 0.", origin=STATED, range="(0, inf)")
    kernel: str = setting(
        "sigma^2",
        "Divisor of squared distances: sigma^2 or 2sigma^2.",
        origin=BELIEVED,
        choices=("sigma^2", "2sigma^2"),
    )
    tolerance: float = setting(
        0.01, "Relative change α at which the masking stops, > 0.", origin=STATED, range="(0, inf)"
    )
    stopping: str = setting(
        "summed",
        "Which change: summed (of C's sum) or absolute (of its entries).",
        origin=BELIEVED,
        choices=STOPPING_RULES,
    )
    max_iterations: int = setting(200, "Updates of the masking at most, ≥ 1.", origin=OURS, least=1)
    r2_normalization: str = setting(
        "sum", "Of R2 within a layer: sum, max, range or none.", origin=OURS, choices=tuple(_NORMALIZATIONS)
    )
    activation: str = setting(
        "norm", "What D2 averages over tokens: mean, magnitude or norm (RMS).", origin=OURS, choices=AVERAGES
    )
    d2_normalization: str = setting(
        "sum", "Of D2 within a layer: range (0 … 1), max, sum or none.", origin=OURS, choices=tuple(_NORMALIZATIONS)
    )
    rescaling: str = setting(
        "least_squares",
        "Of the filters that stay: least_squares or none.",
        origin=BELIEVED,
        choices=("least_squares", "none"),
    )
    damping: float = setting(
        1e-3, "Pull of the factors towards 1, in mean diagonals of the fit, > 0.", origin=OURS, range="(0, inf)"
    )
    max_rescaling_tokens: int = setting(16_384, "Tokens of the fit at most, evenly spread, ≥ 1.", origin=OURS, least=1)
    dtype: str = setting(
        "auto",
        "Of the passes: bfloat16, float32, or auto: bfloat16 if the hardware has it.",
        origin=OURS,
        choices=("auto", "bfloat16", "float32"),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        of_weights = ("sigma", "kernel", "tolerance", "stopping", "max_iterations", "r2_normalization")
        for names, has_part, reason in (
            (of_weights, self.ranking != "d2", "ranking='d2' ranks by text alone"),
            (("activation", "d2_normalization"), self.ranking != "r2", "ranking='r2' ranks by weights alone"),
            (("damping", "max_rescaling_tokens"), self.rescaling != "none", "rescaling='none' fits nothing"),
            (("dtype",), self.needs_samples, "no text is read"),
        ):
            refuse_without_part(self, {} if has_part else dict.fromkeys(names, f"{reason}; leave it out"))

    @property
    def denominator(self) -> float:
        """Divisor of squared distances in the kernel's exponent."""
        return self.sigma**2 * (2 if self.kernel == "2sigma^2" else 1)

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
    statistics = filter_statistics(student, batches, settings)
    scores = filter_scores(student, statistics, settings)
    prune_filters(student, scores, macs, products=statistics.products, damping=settings.damping)
    return student


def export_facts(settings: GradientFreeSettings, unlabeled: Iterable[Batch]) -> dict[str, Any]:
    """Facts of the pruning for [`export_student`]: settings, samples, texts of the card."""
    batches = list(unlabeled)
    samples = {
        "num_samples": sum(len(batch["input_ids"]) for batch in batches),
        "num_tokens": sum(num_tokens(batch) for batch in batches),
    }
    return {"settings": asdict(settings), "training": {"method": METHOD, **samples}, CARD_SECTION: asdict(CARD)}


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


def filter_statistics(
    student: LayerwiseModel, batches: Sequence[Batch], settings: GradientFreeSettings
) -> FilterStatistics:
    """Run the encoder over all batches once, see [`ffn_statistics`]; empty without batches."""
    if not batches:
        return FilterStatistics({}, {})
    most = settings.max_rescaling_tokens if settings.rescaling != "none" else None
    dtype = resolve_teacher_dtype(settings.dtype, student.device)
    return ffn_statistics(student, batches, average=settings.activation, max_product_tokens=most, dtype=dtype)


def filter_scores(
    student: LayerwiseModel, statistics: FilterStatistics, settings: GradientFreeSettings
) -> UnitTensors:
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
            kernel_FF = gaussian_kernel(filters_FH, denominator=settings.denominator)
            masking = convex_masking(
                kernel_FF,
                tolerance=settings.tolerance,
                max_iterations=settings.max_iterations,
                stopping=settings.stopping,
            )
            end = "" if masking.is_converged else ", where they were stopped"
            logger.debug("%s: %d updates of the masking%s", name, masking.num_iterations, end)
            score_F *= _normalized(masking.coefficients_FF.diagonal().cpu().double(), settings.r2_normalization)
        if "d2" in settings.ranking:
            score_F *= _normalized(statistics.activations[name], settings.d2_normalization)
        scores[name] = score_F.float()
    return scores


def _normalized(values_F: torch.Tensor, normalization: str) -> torch.Tensor:
    """Normalize a layer's values; equal ones rank no filter and become 1."""
    return (
        _NORMALIZATIONS[normalization](values_F)
        if float(values_F.max() - values_F.min())
        else torch.ones_like(values_F)
    )


def prune_filters(
    student: LayerwiseModel,
    scores: UnitTensors,
    macs: float,
    *,
    products: Mapping[str, torch.Tensor] | None = None,
    damping: float = 1e-3,
) -> None:
    """Keep the highest scores of all layers within a budget, rescale them, and compact the student in place.

    Args:
        student: changed in place.
        scores: `ffn.{l}` → one number a filter, comparable across layers; ties go to the lower layer and index.
        macs: share of the student's encoder MACs, see [`num_kept_filters`].
        products: of [`FilterStatistics`]; without them, filters are not rescaled.
        damping: see [`least_squares_scales`].
    """
    plan = widths_of(student.config)
    kept = kept_filters(scores, num_kept_filters(plan, macs))
    for name, mask_F in kept.items():
        # before the others are cut off: the columns that stay are scaled to make up for them
        if products and not bool(mask_F.all()):
            weight_HF = second_linear(student, name).weight
            products_FF = output_products(products[name].cpu(), weight_HF.detach().cpu().T)
            scales_F = least_squares_scales(products_FF, mask_F, damping=damping)
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
