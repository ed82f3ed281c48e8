"""Every method of training a student, by the name that configs, sweeps and tables use; nothing else.

A new one: a class in a file of its own, a line here, and a line in the contract that papers don't import each other.

The classes share one signature: `Class(teacher, args, *, train_dataset=…, eval_dataset=…, processing_class=…,
**method_settings)`, and `train`, `evaluate` and `export` of [`HomoDistilTrainer`].
"""

from ..files.messages import nearest_name, shown
from ..trainer import HomoDistilTrainer
from .distilbert import DistilBertTrainer
from .fewer_layers import ShallowTrainer
from .minilm import MiniLMTrainer, MiniLMv2Trainer
from .one_shot import OneShotTrainer, ShallowOneShotTrainer
from .pruned_first import PrunedFirstTrainer
from .scratch import ScratchTrainer
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


def method_named(name: str) -> type[HomoDistilTrainer]:
    """The class of a method.

    Args:
        name: what the user gave.

    Returns:
        The class.

    Raises:
        ValueError: it is no key of `METHODS`; the message names the nearest.

    Example:
    ```python
    >>> method_named("one_shot").default_settings(), method_named("homodistil").default_settings()
    ({'num_scoring_batches': 16}, {})

    ```
    """
    if name not in METHODS:
        raise ValueError(
            f"method={shown(name)} is unknown; nearest valid: {nearest_name(name, METHODS)!r}, of {', '.join(METHODS)}"
        )
    return METHODS[name]
