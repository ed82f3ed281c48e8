import dataclasses
import sys

from homodistil_hf.files.field_checks import limits_of
from homodistil_hf.runs.kinds import KINDS, METHODS, run_kind_named, trainer_named

assert [*map(trainer_named, METHODS), *map(run_kind_named, KINDS)]  # imports every class of settings


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
    assert num_overridden > 1
