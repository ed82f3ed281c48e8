"""The students' classes among transformers' Auto classes, under types of their own, from `import homodistil_hf` on.

Importing transformers' models takes seconds, too long for `homodistil --help`, so this file imports neither
transformers nor torch. An import hook does the rest. After the import of a modelling file it registers the file's
classes. After the import of transformers' table of configurations, the table imports a student's modelling file on
first use of its type. transformers may be imported before this package or after it.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_STUDENTS = "homo"  # beginning of their types
_MODELING = f"{__package__}.architectures.modeling_{_STUDENTS}"
_AUTO_CONFIGS = "transformers.models.auto.configuration_auto"


class _AfterImport(MetaPathFinder):
    """Import hook: calls a function with the table of configurations or a modelling file after its import."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        action = _ask_here_first if name == _AUTO_CONFIGS else _register if name.startswith(_MODELING) else None
        # the usual finder finds the module; its loader is made to act after the import
        spec = PathFinder.find_spec(name, path, target) if action else None
        if action and spec and spec.loader:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                action(module)

            setattr(spec.loader, "exec_module", exec_module)  # noqa: B010 (a loader is made for each import)
        return spec


def _register(modeling: ModuleType) -> None:
    import transformers

    for architecture in _architectures():
        if architecture.modeling == modeling.__name__:
            config_class = architecture.config.student
            transformers.AutoConfig.register(architecture.student_type, config_class, exist_ok=True)
            for name, model_class in architecture.auto_classes.items():
                if name != "AutoConfig":
                    getattr(transformers, name).register(config_class, model_class, exist_ok=True)


def _ask_here_first(auto_configs: ModuleType) -> None:
    """Wrap the look-ups of transformers' table of configurations: a student's type imports its modelling file."""
    mapping = type(auto_configs.CONFIG_MAPPING)
    for method in ("__contains__", "__getitem__"):
        look_up = getattr(mapping, method)

        # a default binds this method's look_up: the loop's variable moves on
        def ask(self: Any, model_type: Any, *, look_up: Callable[..., Any] = look_up) -> Any:
            if isinstance(model_type, str) and model_type.startswith(_STUDENTS):
                # the import registers the type in the table that is asked next
                for architecture in _architectures():
                    if architecture.student_type == model_type:
                        import_module(architecture.modeling)
            return look_up(self, model_type)

        setattr(mapping, method, ask)


def _architectures() -> Any:
    from .architectures import ARCHITECTURES

    return ARCHITECTURES.values()


# in front, or the usual finders would answer first
sys.meta_path.insert(0, _AfterImport())
# transformers came first: its table is there already
if _AUTO_CONFIGS in sys.modules:
    _ask_here_first(import_module(_AUTO_CONFIGS))
