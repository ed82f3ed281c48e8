"""What of a run follows from its settings alone: the order of its data, its masks of words, how it prunes.

What takes a model to make, `preparation.py` makes.
"""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from .collator import MaskedLMCollator
from .guard import DiscrepancyGuard
from .pruning import PruningSettings
from .training_args import HomoDistilTrainingArguments


def check_arguments(args: HomoDistilTrainingArguments, kwargs: Mapping[str, Any]) -> None:
    """Refuse what only shows once settings and arguments of the trainer meet.

    Args:
        args: the run's settings.
        kwargs: as in `transformers.Trainer`.

    Raises:
        ValueError: a loss of the user's own, or an evaluation that rounds the student.
    """
    if kwargs.get("compute_loss_func") is not None:
        raise ValueError(
            f"compute_loss_func={kwargs['compute_loss_func']!r} would replace the distillation loss; leave it out, "
            "and weight the loss's terms with mlm_weight, kl_weight, …"
        )
    for name in ("fp16_full_eval", "bf16_full_eval"):
        if getattr(args, name):
            raise ValueError(f"{name}=True would round the student's weights for good; evaluation is in float32")


def pin_data_order(args: HomoDistilTrainingArguments) -> None:
    """Make which rows a step sees a function of the settings alone, on any number of ranks.

    Args:
        args: the run's settings; those of data loading are changed in place.

    Raises:
        ValueError: a setting that would draw rows from a global state.
    """
    loading = args.accelerator_config
    if args.train_sampling_strategy not in ("random", "sequential"):
        raise ValueError(
            f"train_sampling_strategy={args.train_sampling_strategy!r} draws from the global random state, so a "
            "resumed run would see other batches; use 'random' or 'sequential'"
        )
    if not loading.use_seedable_sampler or loading.dispatch_batches:
        raise ValueError(
            f"accelerator_config has use_seedable_sampler={loading.use_seedable_sampler} and dispatch_batches="
            f"{loading.dispatch_batches}; every rank must make its own batches in a seeded order: leave both out"
        )
    loading.dispatch_batches = False
    # From pinned memory a transfer need not hold up the host; elsewhere there is nothing to wait for.
    loading.non_blocking = loading.non_blocking or (args.dataloader_pin_memory and args.device.type == "cuda")
    if args.data_seed is None:
        args.data_seed = args.seed


def masking_collator(tokenizer: Any, args: HomoDistilTrainingArguments) -> MaskedLMCollator:
    """Make what masks words.

    Args:
        tokenizer: the teacher's.
        args: the run's settings.

    Returns:
        [`MaskedLMCollator`].

    Raises:
        ValueError: no tokenizer.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(
            f"processing_class={tokenizer!r} is no tokenizer, so words can't be masked; pass the teacher's tokenizer, "
            "or a data_collator that gives labels"
        )
    return MaskedLMCollator(tokenizer, mlm_probability=args.mlm_probability, seed=args.seed)


def pruning_settings(args: HomoDistilTrainingArguments) -> PruningSettings:
    """Pick the settings of pruning out of all of them.

    Args:
        args: the run's settings.

    Returns:
        [`PruningSettings`].
    """
    return PruningSettings(
        metric=args.importance_metric,
        width_allocation=args.width_allocation,
        multiple=args.width_multiple,
        compaction_threshold=args.compaction_threshold,
        sensitivity_smoothing=args.sensitivity_smoothing,
        uncertainty_smoothing=args.uncertainty_smoothing,
    )


def discrepancy_guard(args: HomoDistilTrainingArguments) -> DiscrepancyGuard | None:
    """Make what may hold pruning back.

    Args:
        args: the run's settings.

    Returns:
        [`DiscrepancyGuard`], or None where it is off.
    """
    if not args.discrepancy_guard:
        return None
    return DiscrepancyGuard(
        ratio=args.guard_ratio,
        floor_nats=args.guard_floor_nats,
        patience_steps=args.guard_patience_steps,
        smoothing=args.guard_smoothing,
    )
