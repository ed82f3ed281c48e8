"""What is shipped: the wheel's and the source archive's files, the pins, the version, and what was run."""

import ast
import configparser
import email
import functools
import importlib.metadata
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rows import each

import homodistil_hf
from homodistil_hf import version

ROOT = Path(__file__).parents[2]
BUILD_INPUTS = (
    "setup.cfg",
    "MANIFEST.in",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "MODEL_CARD_TEMPLATE.md",
    "docs",
    "homodistil_hf",
)

# Import name → distribution, where they differ.
DISTRIBUTIONS = {"sklearn": "scikit-learn", "yaml": "pyyaml"}


def run(*command: str | Path, cwd: Path) -> str:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_wheel(source: Path, folder: Path) -> Path:
    pip_wheel = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder)
    run(sys.executable, *pip_wheel, source, cwd=folder.parent)
    (wheel,) = folder.glob("homodistil_hf-*.whl")
    return wheel


@pytest.fixture(scope="module")
def source_copy(tmp_path_factory):
    """The build's inputs in a folder of their own, so that nothing is written into the checkout."""
    folder = tmp_path_factory.mktemp("source copy")
    for name in BUILD_INPUTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source_copy, tmp_path_factory):
    return build_wheel(source_copy, tmp_path_factory.mktemp("wheel") / "out")


@pytest.fixture(scope="module")
def source_archive(source_copy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", build, folder, cwd=source_copy)
    (archive,) = folder.glob("homodistil_hf-*.tar.gz")
    return archive


def files_in(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name).decode(errors="replace") for name in archive.namelist()}


@pytest.mark.slow
def test_wheel_holds_the_whole_package_and_nothing_else(wheel):
    shipped = {name for name in files_in(wheel) if ".dist-info/" not in name}
    files = [path for path in (ROOT / "homodistil_hf").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert shipped == {path.relative_to(ROOT).as_posix() for path in files}
    assert {
        "homodistil_hf/models/architectures/modeling_homobert.py",
        "homodistil_hf/py.typed",
        "homodistil_hf/plans/advice.json",
        "homodistil_hf/runs/demo/teacher/model.safetensors",
        "homodistil_hf/MODEL_CARD_TEMPLATE.md",
    } <= shipped


@pytest.mark.slow
def test_source_archive_builds_the_same_wheel(source_archive, wheel, tmp_path):
    rebuilt = files_in(build_wheel(source_archive, tmp_path / "out"))
    original = files_in(wheel)
    assert rebuilt.keys() == original.keys()
    assert [name for name in original if not name.endswith("/RECORD") and rebuilt[name] != original[name]] == []


@pytest.mark.slow
def test_source_archive_has_the_pages_without_the_records(source_archive):
    with tarfile.open(source_archive) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert {"docs/results.md", "docs/guides/run.md", "MODEL_CARD_TEMPLATE.md"} <= set(names)
    assert [name for name in names if name.startswith("docs/results/")] == []


@pytest.mark.slow
def test_wheel_metadata(wheel):
    files = files_in(wheel)
    (metadata,) = [email.message_from_string(files[name]) for name in files if name.endswith(".dist-info/METADATA")]
    assert metadata["Name"] == "homodistil-hf"
    assert metadata["Version"] == version.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    (entry_points,) = [text for name, text in files.items() if name.endswith(".dist-info/entry_points.txt")]
    assert "homodistil = homodistil_hf.cli:main" in entry_points
    (licence,) = [text for name, text in files.items() if name.endswith("/LICENSE")]
    assert "Apache License" in licence
    assert "Version 2.0" in licence


def test_card_template_has_one_source():
    link = ROOT / "homodistil_hf" / "MODEL_CARD_TEMPLATE.md"
    assert link.samefile(ROOT / "MODEL_CARD_TEMPLATE.md")


def test_one_version_everywhere():
    assert homodistil_hf.__version__ == version.__version__
    assert importlib.metadata.version("homodistil-hf") == version.__version__
    assert re.search(rf"^## \[?{re.escape(version.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def requirements_in(text: str) -> list[Requirement]:
    lines = (line.strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@functools.cache
def pins() -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for pin in requirements_in((ROOT / "constraints.txt").read_text(encoding="utf-8")):
        found.setdefault(canonicalize_name(pin.name), []).append(pin)
    return found


def third_party_requirements(*extras: str) -> list[Requirement]:
    """Those of the package and of some extras, by default of all."""
    options = configparser.RawConfigParser()
    options.read(ROOT / "setup.cfg", encoding="utf-8")
    of_extras = options["options.extras_require"]
    texts = [options["options"]["install_requires"], *(of_extras[extra] for extra in extras or of_extras)]
    found = [requirement for text in texts for requirement in requirements_in(text)]
    return [requirement for requirement in found if requirement.name != "homodistil-hf"]


def version_pinned(name: str, *, python_version: str) -> str:
    environment = {"python_version": python_version}
    candidates = pins()[canonicalize_name(name)]
    (pin,) = [pin for pin in candidates if pin.marker is None or pin.marker.evaluate(environment)]
    (exact,) = pin.specifier
    assert exact.operator == "=="
    return exact.version


@each("requirement", third_party_requirements())
def test_every_requirement_has_one_pin_inside_its_range(requirement):
    for python_version in ("3.10", "3.11", "3.12", "3.13"):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python_version}):
            pinned = version_pinned(requirement.name, python_version=python_version)
            assert pinned in requirement.specifier, python_version


@functools.cache
def hashed_pins() -> dict[Requirement, list[str]]:
    """Each pin of the file for `--require-hashes`, with its digests."""
    text = (ROOT / "constraints-hashes.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(" --hash=") for line in text.splitlines() if line and not line.startswith("#")]
    return {Requirement(name): [digest.strip() for digest in digests] for name, *digests in lines}


def test_every_pin_and_requirement_has_hashes_and_the_version_of_the_constraints():
    for pin, digests in hashed_pins().items():
        assert digests, pin
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", digest) for digest in digests), pin
        if known := pins().get(canonicalize_name(pin.name)):
            assert pin.specifier in [other.specifier for other in known], f"{pin}: renew constraints-hashes.txt"
    hashed = {canonicalize_name(pin.name) for pin in hashed_pins()}
    assert {canonicalize_name(requirement.name) for requirement in third_party_requirements()} - hashed == set()


@functools.cache
def oldest_pins() -> dict[str, str]:
    pins = requirements_in((ROOT / "constraints-oldest.txt").read_text(encoding="utf-8"))
    return {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}


@each("requirement", third_party_requirements("report", "test", "onnx"))
def test_the_oldest_run_takes_each_range_at_its_lower_end(requirement):
    (lowest,) = [bound.version for bound in requirement.specifier if bound.operator == ">="]
    release = [*lowest.split("."), "0", "0"][:3]
    assert oldest_pins()[canonicalize_name(requirement.name)] in {f"=={'.'.join(release[:n])}" for n in (2, 3)}


def test_the_record_is_of_passing_runs_and_of_the_oldest_pins_and_stands_on_the_page():
    compat = runpy.run_path(str(ROOT / "benchmarks" / "compat.py"))
    entries = compat["recorded"]()
    assert [entry for entry in entries if entry["failed"] or not entry["passed"]] == []
    wanted = [
        canonicalize_name(requirement.name) for requirement in third_party_requirements("report", "test", "onnx")
    ]
    for oldest in (entry for entry in entries if entry["versions"] == "oldest"):
        used = {canonicalize_name(name): version.partition("+")[0] for name, version in oldest["packages"].items()}
        assert {name: f"=={used[name]}" for name in wanted} == {name: oldest_pins()[name] for name in wanted}
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert page.count(compat["BEGIN"] + compat["table"](entries) + compat["END"]) == 1


def imported_distributions(path: Path) -> set[str]:
    roots = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            roots.add(node.module.split(".")[0])
    others = roots - sys.stdlib_module_names - {"homodistil_hf"}
    return {canonicalize_name(DISTRIBUTIONS.get(root, root)) for root in others}


@pytest.mark.slow
def test_everything_the_package_imports_is_required():
    declared = {canonicalize_name(requirement.name) for requirement in third_party_requirements()}
    for path in sorted((ROOT / "homodistil_hf").rglob("*.py")):
        assert imported_distributions(path) - declared == set(), f"{path.name} imports what setup.cfg does not name"
