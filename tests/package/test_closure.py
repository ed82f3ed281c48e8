"""How much code of the package a use of it loads: `HomoDistilTrainer`, and a run of `homodistil distill`.

A part that only some runs need is imported where it is called. docs/features.py measures the features alike.
"""

import sys
from pathlib import Path

import pytest
from forked_python import ForkedPython
from tiny_files import write_config

CLOSURE = {"HomoDistilTrainer": 15_000, "distill": 22_000}
"""Lines of the package at most."""
TRAINER = "from homodistil_hf import HomoDistilTrainer"
DISTILL = "from homodistil_hf.cli import main; assert main(['distill', {config!r}]) == 0"
MEASURE = """
import sys
from pathlib import Path
import homodistil_hf
root = Path(homodistil_hf.__file__).parent
files = {Path(module.__file__) for module in sys.modules.values() if getattr(module, "__file__", None)}
for file in sorted(file for file in files if root in file.parents):
    print("LOADED", file.relative_to(root), len(file.read_text(encoding="utf-8").splitlines()))
"""


def loaded_by(code: str, forked_python: ForkedPython) -> dict[str, int]:
    """File of the package → its lines, of all that a process without this package has loaded after this code."""
    command = [sys.executable, "-c", f"{code}\n{MEASURE}"]
    output = forked_python.run(command, cwd=Path.cwd(), check=True).stdout
    words = [line.split() for line in output.splitlines() if line.startswith("LOADED ")]
    return {file: int(num_lines) for _, file, num_lines in words}


@pytest.mark.slow
@pytest.mark.parametrize("use", CLOSURE)
def test_a_use_loads_no_more_than_it_needs(use, tmp_path, forked_python):
    config = write_config(tmp_path, student="macs=0.25", max_steps=2)
    files = loaded_by(TRAINER if use == "HomoDistilTrainer" else DISTILL.format(config=str(config)), forked_python)
    listed = "\n".join(f"{num_lines:6} {file}" for file, num_lines in files.items())
    assert sum(files.values()) <= CLOSURE[use], f"{sum(files.values())} lines in {len(files)} files:\n{listed}"


@pytest.mark.slow
def test_a_command_imports_no_other_command(forked_python):
    with_help = "from homodistil_hf.cli import main\ntry: main(['report', '--help'])\nexcept SystemExit: pass"
    files = {file for file in loaded_by(with_help, forked_python) if file.startswith("cli/")}
    assert files == {"cli/__init__.py", "cli/command.py", "cli/report.py"}
