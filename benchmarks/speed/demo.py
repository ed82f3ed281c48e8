"""How long `homodistil demo` takes on this machine and how much memory: a row in docs/results/demo.json.

    python -m benchmarks.speed.demo

As a user runs it, in a process of its own with an empty home folder; one row with bfloat16 and one without, the last
one of each.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from homodistil_hf.distillation.teacher import multiplies_bfloat16
from homodistil_hf.experiments.demo.run import RESULTS_FILE
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.files.strict_json import read_json_object, write_json

RECORD = Path("docs/results/demo.json")


def main() -> None:
    row = run_demo()
    rows = read_json_object(RECORD, str(RECORD))["rows"] if RECORD.is_file() else []
    write_json(RECORD, {"rows": [*(old for old in rows if old["bf16"] != row["bf16"]), row]})
    print(f"{row['time_s']:.0f} s, {row['peak_bytes'] / 1e9:.2f} GB: {RECORD}")


def run_demo() -> dict[str, Any]:
    """Seconds and bytes of one demo with the default settings, and the table that it printed."""
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "homodistil_hf", "demo", "--output_dir", f"{home}/demo"]
        start = time.perf_counter()
        subprocess.run(command, env={**os.environ, "HOME": home}, check=True)
        time_s = time.perf_counter() - start
        table = json.loads(Path(home, "demo", RESULTS_FILE).read_text(encoding="utf-8"))
    return {
        "bf16": multiplies_bfloat16(torch.device("cpu")),
        "time_s": round(time_s, 1),
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
        "table": table,
        "machine": machine_facts(),
    }


if __name__ == "__main__":
    main()
