"""Record the processor time until a command of the package answers: docs/results/start.json.

    python -m benchmarks.speed.start --before CHECKOUT

Each round starts every command once, so that all have the same neighbours; user and system time of the process and its
children, in seconds.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from homodistil_hf.files.provenance import machine_facts

RESULTS = Path("docs/results/start.json")
TEACHER = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--before", type=Path, help="checkout of an earlier version, measured in the same rounds")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    checkouts = {"now": Path.cwd()} | ({"before": options.before.resolve()} if options.before else {})
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(TEACHER), encoding="utf-8")
        cases = all_cases(Path(folder), checkouts)
        for case in cases.values():  # files are in memory from here on, and compiled
            cpu_s(*case)
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(options.rounds):
            for name, case in cases.items():
                seconds[name].append(cpu_s(*case))
    found = {name: summary(values) for name, values in seconds.items()}
    about = {"date": f"{datetime.now(timezone.utc):%Y-%m-%d}", "rounds": options.rounds, "machine": machine_facts()}
    options.results.write_text(json.dumps(about | {"cpu_s": found}, indent=1) + "\n", encoding="utf-8")
    for name, figures in found.items():
        print(f"{name:28} {figures['median']:5.2f} s  ({figures['lowest']:.2f} – {figures['highest']:.2f})")


def all_cases(folder: Path, checkouts: dict[str, Path]) -> dict[str, tuple[list[str], Path, Path]]:
    """Name → words for the interpreter, working folder, and the checkout that it imports."""
    plan = ["plan", "--teacher", str(folder), "--student", "homobert-tiny"]
    imports = ("import torch", "import transformers", "from transformers import BertConfig")
    commands = {"homodistil --help": ["--help"], "homodistil plan": plan}
    cases = {code.replace("from transformers ", ""): (["-c", code], folder, checkouts["now"]) for code in imports}
    for version, checkout in checkouts.items():
        for name, words in commands.items():
            cases[f"{name}, {version}"] = (["-m", "homodistil_hf", *words], folder, checkout)
    return cases


def cpu_s(words: list[str], folder: Path, checkout: Path) -> float:
    """User and system time of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def summary(values: list[float]) -> dict[str, float]:
    """Median and range."""
    found = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


if __name__ == "__main__":
    main()
