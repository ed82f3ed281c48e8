import dataclasses
import sys

import pytest

from homodistil_hf.files.field_checks import limits_of
from homodistil_hf.methods.binarization.run import BinarizationSettings
from homodistil_hf.methods.registry import COMMANDS, METHODS
from homodistil_hf.methods.self_distillation.trainer import SelfDistillationArguments

assert COMMANDS  # the registry imports every method, and with it every class of settings
assert METHODS


def settings_classes():
    modules = [module for name, module in sys.modules.items() if name.startswith("homodistil_hf.")]
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    return sorted(filter(dataclasses.is_dataclass, kinds), key=lambda kind: kind.__qualname__)


def test_a_default_of_a_subclass_keeps_the_limits_of_its_field():
    num_overridden = 0
    for kind in settings_classes():
        own = {entry.name: entry for entry in dataclasses.fields(kind)}
        for parent in filter(dataclasses.is_dataclass, kind.__mro__[1:]):
            for entry in dataclasses.fields(parent):
                if own[entry.name] is not entry and limits_of(entry):
                    num_overridden += 1
                    missing = limits_of(entry).keys() - limits_of(own[entry.name]).keys()
                    assert not missing, f"{kind.__name__}.{entry.name} lost {missing}"
    assert num_overridden > 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout_fraction": 1.5}, r"^dropout_fraction=1.5 is outside \[0, 1\)"),
        ({"learning_rate": -1.0}, r"^learning_rate=-1.0 is outside \(0, inf\)"),
        ({"learning_rate": None}, r"^learning_rate=None is outside \(0, inf\)"),
        ({"learning_rates": (1e-4,)}, r"^learning_rates=.*: a chain searches no rates"),
    ],
)
def test_settings_of_a_chain_of_bits_are_checked(changes, message):
    given = {"model": "m", "train_data": "a", "eval_data": "b", "output_dir": "o"}
    with pytest.raises(ValueError, match=message):
        BinarizationSettings(**given | changes)


@pytest.mark.parametrize(
    ("name", "value"), [("learning_rate", -1.0), ("learning_rate", float("nan")), ("adam_beta2", 1)]
)
def test_settings_of_further_pre_training_are_checked(name, value):
    with pytest.raises(ValueError, match=f"^{name}=.* is outside"):
        SelfDistillationArguments(output_dir="out", **{name: value})
