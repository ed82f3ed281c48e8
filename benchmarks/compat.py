"""Run the test suite in an environment of its own, and record which versions passed.

    python3 benchmarks/compat.py pinned --pythons python3.12    with constraints.txt
    python3 benchmarks/compat.py oldest --pythons python3.10    with constraints-oldest.txt: the bounds in setup.cfg
    python3 benchmarks/compat.py newest --pythons python3.13    with whatever pip finds within those bounds

Each run has its environment in .venv-compat/, installs into it, and replaces its own entry of docs/results/compat.json
and the table in CONTRIBUTING.md. `make compat`, `make compat-oldest` and `make compat-newest` start it. Any
interpreter may, so nothing but Python's standard library is imported.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ENVIRONMENTS = Path(".venv-compat")
RECORD = Path("docs/results/compat.json")
PAGE = Path("CONTRIBUTING.md")
BEGIN, END = "<!-- written by benchmarks/compat.py from docs/results/compat.json -->\n", "<!-- end -->\n"

# Judges the record that a run is about to change.
JUDGE = "tests/package/test_compatibility.py::test_the_record_is_of_passing_runs_and_of_the_oldest_pins"

CONSTRAINTS = {"oldest": "constraints-oldest.txt", "pinned": "constraints.txt", "newest": None}
COLUMNS = ("torch", "transformers", "datasets", "accelerate", "huggingface_hub", "numpy")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", choices=CONSTRAINTS, help="which versions of the packages")
    parser.add_argument("--pythons", nargs="+", default=[sys.executable], help="interpreters; missing ones are named")
    parser.add_argument("--num_workers", default="2", help="test processes")
    arguments = parser.parse_args(words)
    found = {python: version for python in arguments.pythons if (version := version_of(python))}
    entries = [run(arguments.versions, python, found[python], arguments.num_workers) for python in found]
    for entry in entries:
        print(f"Python {entry['python']}, {entry['versions']} versions: {outcome(entry)}")
    for python in arguments.pythons:
        if python not in found:
            print(f"{python} cannot be started on this machine: not run")
    sys.exit(not entries or any(entry["failed"] for entry in entries))


def version_of(python: str) -> str:
    """Full version of an interpreter; empty where it cannot be started."""
    try:
        return printed(python, "-c", "import platform; print(platform.python_version())")
    except (OSError, subprocess.CalledProcessError):
        return ""


def printed(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run(versions: str, python: str, python_version: str, num_workers: str) -> dict[str, Any]:
    """Install, run the suite and record what came out, failures too."""
    folder = ENVIRONMENTS / f"{versions}-{minor(python_version)}"
    binary, report = folder / "bin" / "python", folder / "junit.xml"
    if not binary.exists():
        subprocess.run([python, "-m", "venv", folder], check=True)
    install(binary, CONSTRAINTS[versions])
    report.unlink(missing_ok=True)
    pytest = [binary, "-m", "pytest", f"--numprocesses={num_workers}", "--dist=loadfile"]
    pytest += [f"--junitxml={report}", f"--deselect={JUDGE}"]
    subprocess.run(pytest, env={"OMP_NUM_THREADS": "1", **os.environ}, check=False)
    entry = {
        "versions": versions,
        "python": python_version,
        "date": datetime.date.today().isoformat(),
        "commit": printed("git", "describe", "--always", "--dirty"),
        **counts(report),
        "packages": installed(binary),
    }
    entries = [other for other in recorded() if key(other) != key(entry)] + [entry]
    write(sorted(entries, key=key))
    return entry


def install(binary: Path, constraints: str | None) -> None:
    """Install the checkout with the pinned packages, or with the newest ones that its ranges allow."""
    print(f"installing {constraints or 'the newest versions'} into {binary.parent.parent}", flush=True)
    chosen = ["--constraint", constraints] if constraints else ["--upgrade", "--upgrade-strategy", "eager"]
    pip = [binary, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, *chosen, "--editable", ".[test,onnx]"], check=True)


def counts(report: Path) -> dict[str, Any]:
    """Numbers of tests that passed, were skipped and failed (errors among them), and why how many were skipped."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    skips = [skip for case in cases if (skip := case.find("skipped")) is not None]
    failed = sum(any(case.find(kind) is not None for kind in ("failure", "error")) for case in cases)
    return {
        "passed": len(cases) - len(skips) - failed,
        "skipped": len(skips),
        "failed": failed,
        "skip_reasons": dict(sorted(Counter(skip.get("message", "") for skip in skips).items())),
    }


def installed(binary: Path) -> dict[str, str]:
    """Versions of everything in an environment but the tools that make environments and this package."""
    code = (
        "import importlib.metadata as m, json; found = {d.name: d.version for d in m.distributions()}; "
        "print(json.dumps({n: found[n] for n in sorted(found, key=str.lower) if n not in ('pip', 'homodistil-hf')}))"
    )
    return json.loads(printed(binary, "-c", code))


def minor(python_version: str) -> str:
    return ".".join(python_version.split(".")[:2])


def key(entry: dict[str, Any]) -> tuple[int, int]:
    return list(CONSTRAINTS).index(entry["versions"]), int(minor(entry["python"]).split(".")[1])


def outcome(entry: dict[str, Any]) -> str:
    return ", ".join(f"{entry[name]:,} {name}" for name in ("passed", "skipped", "failed"))


def recorded() -> list[dict[str, Any]]:
    return json.loads(RECORD.read_text(encoding="utf-8"))["compat"] if RECORD.exists() else []


def write(entries: list[dict[str, Any]]) -> None:
    """Write the record, and the page's table that stands for it."""
    RECORD.write_text(json.dumps({"compat": entries}, indent=1) + "\n", encoding="utf-8")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table(entries) + END + rest.partition(END)[2], encoding="utf-8")


def table(entries: list[dict[str, Any]]) -> str:
    """One row a run."""
    head = ["versions", "Python", *COLUMNS, "passed", "skipped", "failed", "commit"]
    rows = [head, ["---"] * len(head)]
    for entry in entries:
        packages = {name.replace("-", "_"): version.partition("+")[0] for name, version in entry["packages"].items()}
        tests = [f"{entry[name]:,}" for name in ("passed", "skipped", "failed")]
        shown = [packages[name] for name in COLUMNS]
        rows.append([entry["versions"], entry["python"], *shown, *tests, entry["commit"]])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    main()
