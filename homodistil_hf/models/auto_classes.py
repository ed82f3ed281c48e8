"""The students' classes among transformers' Auto classes, under types of their own, from `import homodistil_hf` on.

Importing transformers' models takes seconds, which who only asks for help shouldn't wait for, so nothing of
transformers or torch is imported here. Classes are registered at the moment at which the modelling file has been
imported, by whomever. Auto classes that meet a student's type before that import the modelling file themselves: their
table of configurations asks here first, from the moment at which it has been imported, before or after this package.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

STUDENT_TYPES = {
    student_type: f"{__package__}.families.modeling_{file}"
    for file, student_types in {
        "homobert": ("homobert",),
        "homoroberta": ("homoroberta", "homoxlm-roberta", "homocamembert"),
        "homodistilbert": ("homodistilbert",),
        "homoelectra": ("homoelectra",),
        "homompnet": ("homompnet",),
        "homomodernbert": ("homomodernbert",),
        "homodebertav2": ("homodeberta-v2",),
    }.items()
    for student_type in student_types
}
"""`model_type` of a student → the module of its classes."""

_AUTO_CONFIGS = "transformers.models.auto.configuration_auto"


class _AfterImport(MetaPathFinder):
    """Calls a function with each module that has just been imported, of those in `_ACTIONS`."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in _ACTIONS else None
        if spec and spec.loader:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                _ACTIONS[name](module)

            setattr(spec.loader, "exec_module", exec_module)  # noqa: B010 (a loader is made for each import)
        return spec


def _register(modeling: ModuleType) -> None:
    import transformers

    from .families import FAMILIES

    for family in FAMILIES.values():
        if family.modeling == modeling.__name__:
            config_class = family.student_config
            transformers.AutoConfig.register(family.student_type, config_class, exist_ok=True)
            for name, found in family.auto_classes.items():
                if name != "AutoConfig":
                    getattr(transformers, name).register(config_class, found, exist_ok=True)


def _ask_here_first(auto_configs: ModuleType) -> None:
    mapping = type(auto_configs.CONFIG_MAPPING)
    for method in ("__contains__", "__getitem__"):
        look_up = getattr(mapping, method)

        def ask(self: Any, model_type: Any, *, look_up: Callable[..., Any] = look_up) -> Any:
            if model_type in tuple(STUDENT_TYPES):
                import_module(STUDENT_TYPES[model_type])
            return look_up(self, model_type)

        setattr(mapping, method, ask)


_ACTIONS = {_AUTO_CONFIGS: _ask_here_first, **dict.fromkeys(STUDENT_TYPES.values(), _register)}
sys.meta_path.insert(0, _AfterImport())
if _AUTO_CONFIGS in sys.modules:
    _ask_here_first(import_module(_AUTO_CONFIGS))
