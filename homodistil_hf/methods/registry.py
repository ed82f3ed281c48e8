"""Every method of training a student, by the name that configs, sweeps and tables use.

The classes share one signature: `Class(teacher, args, *, train_dataset=…, eval_dataset=…, processing_class=…,
**method_settings)`, and `train`, `evaluate` and `export` of [`HomoDistilTrainer`]. What a method does is told in its
own file under `methods/`; who picks one is `launch.py`.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..files.messages import nearest_name, shown
from ..models.widths import WidthPlan
from ..trainer import HomoDistilTrainer
from .conditions import other_heads
from .distilbert import DistilBertTrainer, no_number_of_layers
from .fewer_layers import no_layer_to_spare
from .minilm import MiniLMTrainer, MiniLMv2Trainer, other_last_heads
from .one_shot import OneShotTrainer, ShallowOneShotTrainer
from .pruned_first import PrunedFirstTrainer
from .scratch import ScratchTrainer
from .shallow import ShallowTrainer
from .tinybert import TinyBertTrainer

METHODS: dict[str, type[HomoDistilTrainer]] = {
    "homodistil": HomoDistilTrainer,
    "shallow": ShallowTrainer,
    "one_shot": OneShotTrainer,
    "shallow_one_shot": ShallowOneShotTrainer,
    "pruned_first": PrunedFirstTrainer,
    "scratch": ScratchTrainer,
    "distilbert": DistilBertTrainer,
    "tinybert": TinyBertTrainer,
    "minilm": MiniLMTrainer,
    "minilm_v2": MiniLMv2Trainer,
}


_CONDITIONS: dict[str, Callable[[WidthPlan, WidthPlan], str | None]] = {
    "shallow": no_layer_to_spare,
    "shallow_one_shot": no_layer_to_spare,
    "distilbert": no_number_of_layers,
    "tinybert": other_heads,
    "minilm": other_last_heads,
}


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
    >>> from homodistil_hf.models.widths import LayerWidths
    >>> plan = WidthPlan.uniform(8, 2, LayerWidths(2, 4, 16))
    >>> impossible_reason("one_shot", plan, plan) is None
    True

    ```
    """
    check_method(method)
    condition = _CONDITIONS.get(method)
    return None if condition is None else condition(plan, teacher)


def check_method_settings(method: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings that a method's class doesn't take.

    Args:
        method: a key of `METHODS`.
        settings: name → value.

    Raises:
        ValueError: an unknown name; the message names the nearest.
    """
    valid = default_settings(method)
    for name, value in settings.items():
        if name not in valid:
            nearest = f"nearest valid: {nearest_name(name, valid)!r}" if valid else "it has none of its own"
            raise ValueError(
                f"method_settings of {method!r} have the unknown key {shown(name)} ({shown(value)}); {nearest}"
            )


def default_settings(method: str) -> dict[str, Any]:
    """The settings that a method has beside those of every run.

    Args:
        method: a key of `METHODS`.

    Returns:
        `dict`: name → default.

    Raises:
        ValueError: the method is unknown.

    Example:
    ```python
    >>> default_settings("one_shot"), default_settings("homodistil")
    ({'num_scoring_batches': 16}, {})

    ```
    """
    check_method(method)
    shared = inspect.signature(HomoDistilTrainer.__init__).parameters
    own = inspect.signature(METHODS[method].__init__).parameters
    return {
        name: entry.default
        for name, entry in own.items()
        if entry.kind is inspect.Parameter.KEYWORD_ONLY and name not in shared
    }


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
