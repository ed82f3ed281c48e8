"""Deprecated calls are errors, and what is said to be supported is what was run."""

import configparser
import runpy
import warnings
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rows import each

ROOT = Path(__file__).parents[2]
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


@pytest.fixture(scope="module")
def compat():
    return runpy.run_path(str(ROOT / "benchmarks" / "compat.py"))


def requirements(*extras: str) -> list[Requirement]:
    options = configparser.RawConfigParser()
    options.read(ROOT / "setup.cfg", encoding="utf-8")
    texts = [options["options"]["install_requires"]] + [options["options.extras_require"][extra] for extra in extras]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return [requirement for requirement in found if requirement.name != "homodistil-hf"]


@pytest.fixture(scope="module")
def oldest_pins():
    lines = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}


@each("requirement", requirements("report", "test", "onnx"))
def test_the_oldest_run_takes_each_range_at_its_lower_end(requirement, oldest_pins):
    (lowest,) = [bound.version for bound in requirement.specifier if bound.operator == ">="]
    release = [*lowest.split("."), "0", "0"][:3]
    assert oldest_pins[canonicalize_name(requirement.name)] in {f"=={'.'.join(release[:n])}" for n in (2, 3)}


def test_the_record_is_of_passing_runs_and_of_the_oldest_pins(compat, oldest_pins):
    entries = compat["recorded"]()
    assert [entry for entry in entries if entry["failed"] or not entry["passed"]] == []
    wanted = [canonicalize_name(requirement.name) for requirement in requirements("report", "test", "onnx")]
    for oldest in (entry for entry in entries if entry["versions"] == "oldest"):
        used = {canonicalize_name(name): version.partition("+")[0] for name, version in oldest["packages"].items()}
        assert {name: f"=={used[name]}" for name in wanted} == {name: oldest_pins[name] for name in wanted}


def test_the_page_shows_the_record(compat):
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = compat["table"](compat["recorded"]())
    assert page.count(compat["BEGIN"] + table + compat["END"]) == 1
