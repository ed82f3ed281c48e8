"""How long threads should wait for others before they sleep: on a quiet machine, and beside another process.

    python -m benchmarks.speed.waiting

Each figure is of a fresh process with two threads, as OpenMP reads the policy where it is loaded. Policies take turns,
in an order drawn for each round. Writes docs/results/waiting.json; 8 minutes on 2 quiet cores.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import product
from pathlib import Path

from homodistil_hf.cli import keep_memory
from homodistil_hf.files.provenance import machine_facts

RECORD = Path("docs/results/waiting.json")
SMALL = '{"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}'
SHAPES = {"2 x 128": (SMALL, 8, 20), "teacher6x384": ("teacher6x384", 16, 8)}
"""Shape of the teacher, sequences a batch, timed steps."""
CELLS = [("2 x 128", "quiet"), ("teacher6x384", "quiet"), ("2 x 128", "busy"), ("teacher6x384", "busy")]
POLICIES = {"default": {}, "PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"}, "1000 spins": {"GOMP_SPINCOUNT": "1000"}}

VARIABLES = {name for given in POLICIES.values() for name in given}


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(steps(sys.argv[1])))
        return
    found: dict[str, dict[str, list[float]]] = {}
    for turn in range(3):
        for (shape, load), policy in product(CELLS, random.Random(turn).sample(list(POLICIES), len(POLICIES))):
            with busy() if load == "busy" else nullcontext():
                environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
                environment |= POLICIES[policy]
                command = [sys.executable, "-m", "benchmarks.speed.waiting", shape]
                given = {"env": environment, "capture_output": True, "text": True, "check": True}
                answer = subprocess.run(command, **given).stdout.splitlines()[-1]
            found.setdefault(f"{shape}, {load}", {}).setdefault(policy, []).append(json.loads(answer))
            print(turn, shape, load, policy, answer, flush=True)
    RECORD.write_text(json.dumps({"machine": machine_facts(), "median_step_s": found}, indent=1) + "\n", "utf-8")


@contextmanager
def busy() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            yield
        finally:
            other.kill()


def steps(name: str) -> float:
    """The median seconds of a step at the start of a run."""
    keep_memory()
    import statistics

    import torch

    from benchmarks.speed import variants
    from benchmarks.speed.interleaved import GatedRun
    from benchmarks.speed.settings import BenchSettings, make_workload
    from benchmarks.speed.whole_run import START, way_of

    torch.set_num_threads(2)
    shape, batch_size, num_steps = SHAPES[name]
    settings = BenchSettings(shape=shape, batch_size=batch_size, mlm_probability=0.3)
    work = make_workload(settings, num_steps=num_steps + 5)
    with tempfile.TemporaryDirectory() as folder:
        run = GatedRun(name, variants.our_trainer(settings, work, way_of(settings).places[START], Path(folder)))
        seconds = [run.advance() for _ in range(num_steps + 3)][3:]
        run.close()
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
