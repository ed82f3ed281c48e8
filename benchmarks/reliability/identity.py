"""Train twelve steps of every kind of run on tiny models, and record weights and losses, to compare two commits.

    python -m benchmarks.reliability.identity before.json
    python -m benchmarks.reliability.identity after.json --compare before.json

Run it on two commits on one machine: a change of the package's insides leaves the record as it was, to the last bit.
Only the command line is called, so the same file runs before and after. `identity_runs.py` has the commands, and makes
their models and rows; nothing is downloaded.
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}

import numpy as np
import torch

from benchmarks.reliability.identity_runs import runs, write_inputs
from homodistil_hf.cli import main as homodistil

UNEQUAL = re.compile(
    r"time|(^|_)m?s$|second|speed|latency|memory|version|date|flos|settings|conditions|machine|throughput"
)
"""Keys whose numbers differ from one run to the next, and settings: a new one with its default changes nothing."""
RESUMED = ("words", "task, classes", "distill --start, classes", "embedding", "reranker", "tinybert")
"""Runs that are also stopped after 8 of the 12 steps, and resumed."""
STARTS = ("task, tags", *RESUMED)
"""Runs whose folders others read."""
OF_STUDENT = ("model.safetensors", "projections.safetensors")
"""What is compared of the last checkpoint."""


def words_of(name: str, words: list[Any]) -> list[str]:
    """Words of a run's command, whose output goes to `runs/NAME`; a mapping becomes a config in a file."""
    output = f"runs/{name}"
    if not isinstance(words[1], dict):
        return [*words, output] if words[-1] == "--output" else [*words, "--output_dir", output]
    config = Path(f"configs/{name}.json")
    config.write_text(json.dumps(words[1] | {"output_dir": output}), encoding="utf-8")
    return [words[0], str(config)]


def stopped(name: str) -> list[str]:
    """Copy a run as it was after its second of three checkpoints; return the words that go on with it."""
    shutil.copytree(f"runs/{name}", f"runs/{name}, resumed")
    for what in ("checkpoint-12", "student"):
        shutil.rmtree(f"runs/{name}, resumed/{what}")
    Path(f"runs/{name}, resumed/results.json").unlink()
    return [
        "distill",
        f"configs/{name}.json",
        "--output_dir",
        f"runs/{name}, resumed",
        "--resume_from_checkpoint",
        "last",
    ]


def weights_digest(file: Path) -> str:
    """SHA-256 of the names, types, shapes and bytes of a safetensors file's tensors, in the order of their names."""
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    digest = hashlib.sha256()
    for name, entry in sorted(json.loads(content[8:start]).items()):
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            digest.update(
                f"{name} {entry['dtype']} {entry['shape']} ".encode() + content[start + first : start + last]
            )
    return digest.hexdigest()


def numbers_in(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every finite number in JSON values by its path, but those that differ from one run to the next."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            if not UNEQUAL.search(str(key)):
                yield from numbers_in(part, f"{path}/{key}")
    elif isinstance(value, int | float) and math.isfinite(value):
        yield path, value


def record_of(folder: Path) -> dict[str, Any]:
    """Digests, losses and results in a run's folder, each by its path there."""
    found: dict[str, Any] = {"weights": {}, "losses": {}, "results": {}}
    last = {
        path.parent: max(path.parent.glob("checkpoint-*"), key=lambda one: int(one.name.rpartition("-")[2]))
        for path in folder.rglob("checkpoint-*")
    }
    for file in sorted(folder.rglob("*")):
        of_checkpoint = [parent for parent in file.parents if parent.name.startswith("checkpoint-")]
        if of_checkpoint and last[of_checkpoint[0].parent] != of_checkpoint[0]:
            continue
        path = str(file.relative_to(folder))
        if file.suffix == ".safetensors" and (file.name in OF_STUDENT or not of_checkpoint):
            found["weights"][path] = weights_digest(file)
        elif file.name == "trainer_state.json" and not of_checkpoint:
            found["losses"][path] = dict(numbers_in(json.loads(file.read_text(encoding="utf-8"))["log_history"]))
        elif file.name == "results.json" or folder.name.startswith("evaluate"):
            found["results"][path] = dict(numbers_in(json.loads(file.read_text(encoding="utf-8"))))
    return found


def train_all(chosen: Callable[[str], Any], log: Callable[[str], None]) -> dict[str, Any]:
    """Run every command whose name is chosen, in the working folder, each from the same random state."""
    write_inputs()
    Path("configs").mkdir()
    # as functions, because a run that is resumed is copied only once it has ended
    commands = {name: partial(words_of, name, words) for name, words in runs().items()}
    commands |= {f"{name}, resumed": partial(stopped, name) for name in RESUMED}
    found = {}
    for name, words in commands.items():
        if not chosen(name):
            continue
        start = time.perf_counter()
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        print(f"\n===== {name}", flush=True)
        try:
            status: Any = homodistil(words())
        except (OSError, SystemExit) as error:  # the other runs are still worth their record
            if isinstance(error, SystemExit) and error.code != 2:  # anything but refused words: SIGTERM
                raise
            traceback.print_exc()
            status = repr(error)
        found[name] = {"status": status, **record_of(Path("runs", name))}
        log(f"{name}: {time.perf_counter() - start:.1f} s{f', status {status}' if status else ''}")
    return found


def differences(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Paths of what two records have not alike, with both values."""
    for key in [*before, *(key for key in after if key not in before)]:
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{path} {key}")
        elif old != new:
            yield f"{path} {key}: {old} -> {new}"


def main() -> int:
    """Train, write the record, compare it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("output", type=Path, help="the record, as JSON")
    parser.add_argument(
        "--compare", type=Path, help="an earlier record: print what differs, exit with 1 if anything does"
    )
    parser.add_argument("--only", default="", help="a pattern of names of runs; those that they start from as well")
    parser.add_argument(
        "--keep", type=Path, help="a new folder to work in, which stays; log.txt is what the runs print"
    )
    given = parser.parse_args()
    output, compared = given.output.resolve(), given.compare and given.compare.resolve()
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        folder = (given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["HOMODISTIL_CACHE"] = str(folder / "cache")  # rows that were read before must not stand in
        os.environ.pop("HF_DATASETS_CACHE", None)
        os.chdir(folder)
        log, shown = stack.enter_context(open("log.txt", "w", encoding="utf-8")), sys.stdout
        stack.enter_context(contextlib.redirect_stdout(log))
        stack.enter_context(contextlib.redirect_stderr(log))
        found = train_all(
            lambda name: re.search(given.only, name) or name in STARTS,
            lambda line: print(line, file=shown, flush=True),
        )
    output.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    failed = [name for name, record in found.items() if record["status"]]
    if compared is None:
        return 0
    before = json.loads(compared.read_text(encoding="utf-8"))
    after = json.loads(output.read_text(encoding="utf-8"))
    unequal = 0
    for name in before if not given.only else after:
        if lines := list(differences(before.get(name, {}), after.get(name, {}))):
            unequal += 1
            print(f"{name}: {len(lines)} differ", *lines[:5], sep="\n   ")
    print(f"{unequal} of {len(after)} runs differ from {compared}; {len(failed)} failed")
    return int(unequal > 0)


if __name__ == "__main__":
    sys.exit(main())
