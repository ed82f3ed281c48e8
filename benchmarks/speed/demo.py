"""How long `homodistil demo` takes on this machine and how much memory: a row in docs/results/demo.json.

    python -m benchmarks.speed.demo
    python -m benchmarks.speed.demo --without_bf16

As a user runs it, in a process of its own with an empty home folder; one row with bfloat16 and one without, the last
one of each. `--without_bf16` holds a newer processor to the instructions of one that has only AVX2, and to float32.
"""

import argparse
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
_COMMAND = "from homodistil_hf.cli import main; raise SystemExit(main())"
_WITHOUT_BF16 = "import torch; torch.cpu._is_avx512_bf16_supported = lambda: False; "
_AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without_bf16", action="store_true", help="AVX2 and float32, whatever the processor can do")
    row = run_demo(**vars(parser.parse_args()))
    rows = read_json_object(RECORD, str(RECORD))["rows"] if RECORD.is_file() else []
    write_json(RECORD, {"rows": [*(old for old in rows if old["bf16"] != row["bf16"]), row]})
    print(f"{row['time_s']:.0f} s, {row['peak_bytes'] / 1e9:.2f} GB: {RECORD}")


def run_demo(*, without_bf16: bool = False) -> dict[str, Any]:
    """Seconds and bytes of one demo with the default settings, and the table that it printed."""
    is_held = without_bf16 and multiplies_bfloat16(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as home:
        code = _WITHOUT_BF16 * is_held + _COMMAND
        command = [sys.executable, "-c", code, "demo", "--output_dir", f"{home}/demo"]
        start = time.perf_counter()
        subprocess.run(command, env={**os.environ, "HOME": home} | (_AVX2 if is_held else {}), check=True)
        time_s = time.perf_counter() - start
        table = json.loads(Path(home, "demo", RESULTS_FILE).read_text(encoding="utf-8"))
    return {
        "bf16": multiplies_bfloat16(torch.device("cpu")) and not is_held,
        "held_to_avx2": is_held,
        "time_s": round(time_s, 1),
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
        "table": table,
        "machine": machine_facts(),
    }


if __name__ == "__main__":
    main()
