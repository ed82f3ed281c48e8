"""HomoDistil's settings: its loss, its scores and its schedule; the paper's values as a recipe.

`training_args.py` has the settings that all methods share. [`AtOnceArguments`] are for methods that prune before the
first step: `methods/baselines/one_shot.py`, `embedding/`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeVar

from .files.messages import short_repr
from .files.settings import refuse_without_part, setting
from .plans.budgets import listed_students
from .pruning.schedule import DEADLINE_FRACTION, PruningSchedule
from .training_args import DistillationArguments, refuse_reentrant_checkpointing

PAPER: Mapping[str, Any] = MappingProxyType(
    {
        **dict.fromkeys(("mlm_weight", "kl_weight", "hidden_weight", "embedding_weight", "attention_weight"), 1.0),
        **{"projection_init": "random", "rotate_heads": False, "student_dropout": None, "mlm_probability": 0.15},
        **{"pruning_start_fraction": 0.0, "pruning_end_fraction": 0.7, "pruning_interval_steps": 1},
        **{"importance_metric": "sensitivity", "num_scoring_batches": 0, "sensitivity_smoothing": 0.85},
        **{"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-6, "learning_rate_curve": "trainer"},
        **{"lr_scheduler_type": "linear", "learning_rate": 6e-4, "max_steps": 28_000},
    }
)
"""HomoDistil's own settings, section 4 and appendix, beside 4,096 rows of 128 tokens a step; HomoBERT-base: rate 3e-4.

The paper does not publish its factors of the loss and β₁ of the scores; these are 1 and 0.85 here. What differs from
the paper whatever the settings:

- A unit is a channel, a head or a neuron with all its rows and columns. The paper prunes columns of each matrix.
- The paper prunes "certain output projections" earlier. All units share one window here.
- Scores of a step are smoothed as multiples of the mean of their group, whatever the size of its loss.
- Widths on the way are multiples of `width_multiple`, and what is dropped is removed, not masked.
"""


def with_recipe(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's values and those that are given, which override them; passes over the rows override its steps."""
    has_passes = given.get("num_train_epochs") is not None
    return {name: value for name, value in recipe.items() if not (has_passes and name == "max_steps")} | {**given}


_weight = partial(setting, range="[0, inf)")
_Arguments = TypeVar("_Arguments", bound="HomoDistilTrainingArguments")


@dataclass
class HomoDistilTrainingArguments(DistillationArguments):
    """Settings of a run: the student, the loss, the pruning schedule, and all that `TrainingArguments` has.

    Raises:
        ValueError: a value out of range or a setting that can't work with pruning; the message names argument, value
            and remedy.

    Example:
    ```python
    >>> args = HomoDistilTrainingArguments(output_dir="out", student="macs=0.25", max_steps=100, report_to="none")
    >>> args.pruning_end_fraction
    0.3
    >>> HomoDistilTrainingArguments.paper("out", student="homobert-tiny", report_to="none").pruning_end_fraction
    0.7

    ```
    """

    without_later_effect: ClassVar = DistillationArguments.without_later_effect | {
        *("projection_init", "rotate_heads", "importance_metric"),
    }
    recipes: ClassVar = {"paper": PAPER}
    may_prune_at_once: ClassVar = False
    """Whether the pruning may end before the first step, in a window whose end is 0; only one-shot methods do."""

    # Parameters that control the loss
    mlm_weight: float = _weight(0.01, "Factor ≥ 0 of the masked-LM loss, nats a prediction.")
    task_weight: float = _weight(1.0, "Factor ≥ 0 of a task model's own loss, the one of the labels.")
    kl_weight: float = _weight(1.0, "Factor ≥ 0 of KL(teacher ‖ student), nats a prediction.")
    hidden_weight: float = _weight(30.0, "Factor ≥ 0 of the hidden-state errors, mean square, summed over layers.")
    embedding_weight: float = _weight(1.0, "Factor ≥ 0 of the embedding error, mean square.")
    attention_weight: float = _weight(
        0.0, "Factor ≥ 0 of the attention-score errors, mean square, summed over layers."
    )
    projection_init: Literal["identity", "random"] = setting(
        "identity", "Start of the projections student → teacher: identity (loss starts at 0) or the paper's random."
    )

    # Parameters that control pruning
    pruning_start_fraction: float = setting(
        0.0, "Share in [0, 1) of all steps before the first unit is dropped.", range="[0, 1]"
    )
    pruning_end_fraction: float = setting(
        0.3, "Share in [start, 1], above 0, of all steps at which the plan is reached.", range="[0, 1]"
    )
    pruning_interval_steps: int = setting(10, "Steps ≥ 1 between two choices of masks.", least=1)
    importance_metric: Literal["sensitivity", "magnitude"] = setting(
        "sensitivity", "Score of a unit; magnitude, for the ablation, ends far behind."
    )
    num_scoring_batches: int = setting(
        16, "Batches that score the intact teacher's units before the first step, counted alike; 0: none.", least=0
    )
    rotate_heads: bool = setting(
        True, "Start with heads in bases of uncorrelated channels: same function, but easier to prune."
    )
    nested: bool = setting(
        False, "All sizes of a list student=[…] in one set of weights, each the first units of the larger one."
    )
    sensitivity_smoothing: float = setting(
        0.999, "β1 in [0, 1) of the scores' moving average over steps; 0 = the last step alone.", range="[0, 1)"
    )

    @classmethod
    def paper(cls: type[_Arguments], output_dir: str | None = None, **settings: Any) -> _Arguments:
        """Make settings of the paper's values, [`PAPER`]; `settings` override them."""
        if "paper" not in cls.recipes:
            raise ValueError(f"{cls.__name__} has no values of a paper; make it with settings of your own")
        return cls(output_dir=output_dir, **with_recipe(cls.recipes["paper"], settings))

    def __post_init__(self) -> None:
        super().__post_init__()
        start, end = self.pruning_start_fraction, self.pruning_end_fraction
        if end == 0 and not self.may_prune_at_once:
            raise ValueError(
                f"pruning_end_fraction={end} would prune before the first step, but HomoDistil prunes while it "
                "distils; leave it out, or prune at once with method='one_shot' (OneShotTrainer)"
            )
        if start > end:
            raise ValueError(
                f"pruning_start_fraction={start} is above pruning_end_fraction={end}; pruning ends after its start, "
                "e.g. 0.0 and 0.5"
            )
        if start >= DEADLINE_FRACTION:
            raise ValueError(
                f"pruning_start_fraction={start} is not below {DEADLINE_FRACTION}, the share of all steps by which "
                "the plan is reached whatever happens; start earlier, e.g. at 0.0"
            )
        if end == 0 and not self.num_scoring_batches and self.importance_metric != "magnitude":
            raise ValueError(
                "num_scoring_batches=0 leaves units unscored that go before the first step; the default is 16"
            )
        if self.importance_metric == "magnitude":
            without_part = {
                "num_scoring_batches": "magnitudes need no batch; leave it out",
                "sensitivity_smoothing": "magnitude is not smoothed; leave it out",
            }
            refuse_without_part(self, without_part)
        if self.nested:
            self._check_nested()
        if self.attention_weight:
            refuse_reentrant_checkpointing(self, f"attention_weight={self.attention_weight} needs")

    @property
    def sizes(self) -> list[str]:
        """The sizes of a nested student, from wide to narrow."""
        return listed_students(self.student) or []

    def _check_nested(self) -> None:
        if len(self.sizes) < 2:
            raise ValueError(
                f"nested=True with student={short_repr(self.student)}: several sizes share their weights; name them, "
                'such as ["macs=0.5", "macs=0.25"], from wide to narrow, or leave nested out'
            )
        remedies = {
            "attention_weight": "heads of smaller members are not compared; set it to 0",
            "torch_compile": "members are run as they are; leave it out",
        }
        refuse_without_part(self, remedies, run="a run with nested=True")

    def pruning_schedule(self, total_steps: int) -> PruningSchedule:
        """Lay out when masks are chosen in a run of so many steps."""
        window = self.pruning_start_fraction, self.pruning_end_fraction
        return PruningSchedule(window, self.pruning_interval_steps, total_steps)


@dataclass
class AtOnceArguments(HomoDistilTrainingArguments):
    """Settings of [`HomoDistilTrainingArguments`] without its schedule: all is pruned before the first step.

    Raises:
        ValueError: also where there is no batch to score the units on.
    """

    no_part: ClassVar[dict[str, str]] = {
        "pruning_start_fraction": "everything is pruned before the first step; leave it out",
        "pruning_end_fraction": "everything is pruned before the first step; leave it out",
        "pruning_interval_steps": "masks are chosen once, before the first step; leave it out",
        "sensitivity_smoothing": "the batches before the first step count alike; leave it out",
    }
    recipes: ClassVar = {}
    may_prune_at_once: ClassVar = True
    pruning_end_fraction: float = setting(0.0, "Always 0: before the first step.", range="[0, 1]")


_WITHOUT_PART_AT_KEPT_WIDTHS = {
    "recipe": "its settings are of pruning",
    "student": "the student keeps the widths of its start",
    "plain": "the student keeps the widths of its start",
    **dict.fromkeys(
        [*AtOnceArguments.no_part, "importance_metric", "num_scoring_batches", "rotate_heads", "width_multiple"],
        "nothing is pruned",
    ),
    "projection_init": "projections start with what fits the teacher best",
}


def refuse_at_kept_widths(named: Mapping[str, Any], beside: str) -> None:
    """Refuse, by a ValueError, a setting that changes nothing where a student keeps the widths of a small model.

    Args:
        named: settings of the run that were given.
        beside: names the small model.
    """
    for name, reason in _WITHOUT_PART_AT_KEPT_WIDTHS.items():
        if name in named:
            raise ValueError(f"{name}={short_repr(named[name])} beside {beside}: {reason}; leave out one of them")
