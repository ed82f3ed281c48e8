"""Every method of training a student, by the name that configs, sweeps and tables use.

The classes share one signature: `Class(teacher, args, *, train_dataset=…, eval_dataset=…, processing_class=…,
**method_settings)`, and `train`, `evaluate` and `export` of [`HomoDistilTrainer`]. What a method does is told in its
own file under `methods/`; who picks one is `launch.py`.
"""

from collections.abc import Callable

from .methods.baselines import OneShotTrainer, PrunedFirstTrainer
from .methods.distilbert import DistilBertTrainer, no_number_of_layers
from .methods.scratch import ScratchTrainer
from .trainer import HomoDistilTrainer
from .widths import WidthPlan, nearest_name, shown

METHODS: dict[str, type[HomoDistilTrainer]] = {
    "homodistil": HomoDistilTrainer,
    "one_shot": OneShotTrainer,
    "pruned_first": PrunedFirstTrainer,
    "scratch": ScratchTrainer,
    "distilbert": DistilBertTrainer,
}

_CONDITIONS: dict[str, Callable[[WidthPlan, WidthPlan], str | None]] = {"distilbert": no_number_of_layers}


def impossible_reason(method: str, plan: WidthPlan, teacher: WidthPlan) -> str | None:
    """Why a method can't make a student of a plan's size from a teacher; a sweep skips such a cell and names it.

    Args:
        method: a key of `METHODS`.
        plan: the widths that HomoDistil would reach.
        teacher: the teacher's widths.

    Returns:
        `str`, or None where the method can.

    Raises:
        ValueError: the method is unknown.

    Example:
    ```python
    >>> from homodistil_hf.widths import LayerWidths
    >>> plan = WidthPlan.uniform(8, 2, LayerWidths(2, 4, 16))
    >>> impossible_reason("one_shot", plan, plan) is None
    True

    ```
    """
    check_method(method)
    condition = _CONDITIONS.get(method)
    return None if condition is None else condition(plan, teacher)


def check_method(method: str) -> None:
    """Refuse a name that no method has.

    Args:
        method: what the user gave.

    Raises:
        ValueError: it is no key of `METHODS`; the message names the nearest.
    """
    if method not in METHODS:
        raise ValueError(
            f"method={shown(method)} is unknown; nearest valid: {nearest_name(method, METHODS)!r}, "
            f"of {', '.join(METHODS)}"
        )
