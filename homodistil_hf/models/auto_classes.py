"""The students' classes among transformers' Auto classes, under types of their own, from `import homodistil_hf` on.

Importing transformers' models takes seconds, which who only asks for help shouldn't wait for, so nothing of
transformers or torch is imported here. Classes are registered at the moment at which the modelling file has been
imported, by whomever. Auto classes that meet a student's type before that import the modelling file themselves: their
table of configurations asks here first, from the moment at which it has been imported, before or after this package.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

STUDENT_TYPES = {"homobert": f"{__package__}.families.modeling_homobert"}
"""`model_type` of a student → the module of its classes."""

_AUTO_CONFIGS = "transformers.models.auto.configuration_auto"


class _AfterImport(MetaPathFinder):
    """Calls a function with each module that has just been imported, of those that it knows."""

    def __init__(self, actions: Mapping[str, Callable[[ModuleType], None]]) -> None:
        self.actions = actions

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in self.actions else None
        if spec and spec.loader:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                self.actions[name](module)

            setattr(spec.loader, "exec_module", exec_module)  # noqa: B010 (a loader is made for each import)
        return spec


def _register(modeling: ModuleType) -> None:
    import transformers

    from .families import FAMILIES

    for family in FAMILIES.values():
        if family.modeling == modeling.__name__:
            config_class = family.student_config
            transformers.AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
            for name, found in family.auto_classes.items():
                if name != "AutoConfig":
                    getattr(transformers, name).register(config_class, found, exist_ok=True)


def _let_it_ask(auto_configs: ModuleType) -> None:
    mapping = type(auto_configs.CONFIG_MAPPING)
    for name in ("__contains__", "__getitem__"):
        setattr(mapping, name, _asking(getattr(mapping, name)))


def _asking(lookup: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def ask(mapping: Any, model_type: Any) -> Any:
        if model_type in tuple(STUDENT_TYPES):
            import_module(STUDENT_TYPES[model_type])
        return lookup(mapping, model_type)

    return ask


sys.meta_path.insert(0, _AfterImport({_AUTO_CONFIGS: _let_it_ask, **dict.fromkeys(STUDENT_TYPES.values(), _register)}))
if _AUTO_CONFIGS in sys.modules:
    _let_it_ask(import_module(_AUTO_CONFIGS))
