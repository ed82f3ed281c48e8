"""Deprecated calls in our own code are errors."""

import warnings

import pytest
from rows import each

DEPRECATIONS = [DeprecationWarning, PendingDeprecationWarning, FutureWarning]
# The package, a compact export's copy of its modelling file, the tests, and examples as the tests run them.
OUR_MODULES = [
    "homodistil_hf",
    "homodistil_hf.methods.baselines.one_shot",
    "transformers_modules.student.modeling",
    "test_masks",
    "conftest",
    "__main__",
    "<run_path>",
]


def caller_in(module: str):
    """A function of a module of that name, which calls what it is given."""
    namespace = {"__name__": module}
    exec("def call(function, *arguments): return function(*arguments)", namespace)
    return namespace["call"]


def deprecated(category: type[Warning]) -> str:
    """A library's function that warns its caller."""
    warnings.warn("use another", category, stacklevel=2)
    return "done"


@each("category", DEPRECATIONS)
@each("module", OUR_MODULES)
def test_a_deprecated_call_in_our_own_code_is_an_error(module, category):
    with pytest.raises(category, match="use another"):
        caller_in(module)(deprecated, category)


@pytest.mark.parametrize("category", DEPRECATIONS)
def test_a_deprecated_call_inside_a_dependency_is_none(category):
    with pytest.warns(category, match="use another"):
        assert caller_in("transformers.trainer")(deprecated, category) == "done"
