"""The pages of reference: commands and settings from their help texts, and every public name once."""

import re
import runpy
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
from rows import each

import homodistil_hf
import homodistil_hf.evaluation
from homodistil_hf.cli import COMMANDS, command_named
from homodistil_hf.files.settings import help_of
from homodistil_hf.runs.kinds import METHODS, run_kind_for, trainer_named

ROOT = Path(__file__).parents[2]
page = SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "settings.py")))


@pytest.fixture(scope="module")
def sections():
    """Title of a section of the page → its text."""
    return dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", page.page_text(), re.M | re.S))


def test_every_command_has_a_section_with_its_flags(sections):
    for name in COMMANDS:
        for entry in fields(command_named(name)):
            assert f"| `{entry.name}` |" in sections[name]
            assert page.text_of(entry) in sections[name]


def test_every_method_has_a_section(sections):
    assert {f"Training: {name}" for name in METHODS} <= set(sections)


@each("method", METHODS)
def test_every_setting_of_a_run_stands_in_a_section_of_it(method, sections):
    shown = "".join(sections[name] for name in ("distill", "Training: homodistil", f"Training: {method}"))
    for kind in run_kind_for(method).settings_classes(method):
        for entry in fields(kind):
            if entry.init and entry.name not in page.OF_TRAINER and entry.name not in getattr(kind, "no_part", {}):
                assert f"| `{entry.name}` |" in shown


PUBLIC = [getattr(package, name) for package in (homodistil_hf, homodistil_hf.evaluation) for name in package.__all__]
SETTINGS = {kind for kind in PUBLIC if isinstance(kind, type) and kind.__name__.endswith(("Arguments", "Settings"))}
SETTINGS |= {trainer.arguments_class for trainer in map(trainer_named, METHODS)}


@each("kind", sorted(SETTINGS, key=lambda kind: kind.__name__))
def test_docstrings_tell_what_help_tells(kind):
    told = " ".join(kind.__doc__.split())
    for entry in fields(kind):
        is_ours = entry.name not in page.OF_TRAINER or help_of(page.OF_TRAINER[entry.name]) != help_of(entry)
        if is_ours and entry.name not in getattr(kind, "no_part", {}):
            assert f" {entry.name}: {help_of(entry)}" in told


def test_the_reference_has_every_public_name_once():
    pages = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "reference").glob("*.md"))]
    names = re.findall(r"^::: homodistil_hf\.(\S+)$", "\n".join(pages), re.M)
    listed = re.findall(r"\[homodistil_hf\.(\S+)\]", (ROOT / "docs" / "reference.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(names)
    stub = (ROOT / "homodistil_hf" / "__init__.pyi").read_text(encoding="utf-8")
    public = re.findall(r"^from \.(\S+) import \(?\s*(\w+) as", stub, re.M)
    assert sorted(names) == sorted(f"{module}.{name}" for module, name in public)
    assert sorted(name.rpartition(".")[2] for name in names) == sorted(homodistil_hf.__all__)
