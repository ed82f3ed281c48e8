"""Kill a run with SIGKILL again and again, resume it each time, and compare it with one that was left alone.

    python -m benchmarks.reliability.soak --num_kills 60 --results docs/results/soak.json

The run is `homodistil distill` of a tiny teacher: gradual pruning, units sliced off at every choice of masks,
evaluations, a checkpoint every few steps, an export at the end. Half of the kills are forced into rare moments, half
come at random times. Prints kills survived, bytes lost and differences; the last two must be 0.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM, BertTokenizer
from transformers.trainer_pt_utils import safe_globals

from benchmarks.reliability.soak_worker import MOMENTS, Board, work
from homodistil_hf.export.facts import CARD_FILE
from homodistil_hf.files.checkpoints import last_checkpoint, manifest_problem, sorted_checkpoints
from homodistil_hf.files.provenance import machine_facts

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(5, 96))]
SETTINGS = {
    "student": {"hidden_size": 16, "num_attention_heads": 2, "head_dim": 8, "intermediate_size": 32},
    "max_seq_length": 16,
    "max_steps": 60,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "num_scoring_batches": 0,
    "attention_weight": 0.1,
    "student_dropout": 0.1,
    "pruning_end_fraction": 0.8,
    "pruning_interval_steps": 2,
    "width_multiple": 1,
    "logging_steps": 5,
    "eval_strategy": "steps",
    "eval_steps": 6,
    "save_steps": 3,
    "save_total_limit": 2,
    "report_to": "none",
    "teacher_dtype": "float32",
    "use_cpu": True,
    "overwrite_output_dir": True,
}
TIMES = ("runtime", "per_second", "preparation_time", "time_s")
TIMED_WORDS = (b"faster", b" ms", b"slower")
"""Lines of a card with them tell times of this machine."""
MAY_DIFFER = (*TIMES, "_ms", "output_dir", "resume_from_checkpoint", "run_name")
"""Ends of the names of values that are times and rates, or say where the run was and how it was started."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max_steps", type=int, default=SETTINGS["max_steps"], help="of the run")
    parser.add_argument("--moments", nargs="+", help="parts of the names of forced moments; default: all")
    parser.add_argument("--results", type=Path, help="JSON file to write")
    parser.add_argument("--folder", type=Path, help="keep everything here; default: a temporary folder")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    results = Soak(folder, options).run()
    print(
        f"{results['num_kills']} kills survived in {results['num_runs']} runs, {results['num_bytes_lost']} bytes "
        f"lost, {results['num_differences']} differences in {results['num_compared']:,} values"
    )
    for name, count in results["kills"].items():
        print(f"  {count:3}  {name}")
    if options.results:
        options.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if options.folder is None:
        shutil.rmtree(folder)
    return int(bool(results["num_bytes_lost"] or results["num_differences"]))


class Soak:
    """One run left alone, and as many killed ones as it takes."""

    def __init__(self, folder: Path, options: argparse.Namespace):
        self.folder, self.options = folder, options
        self.draw = random.Random(options.seed)
        self.board = Board()
        self.kills: Counter[str] = Counter()
        self.kill_steps: list[int] = []
        self.num_bytes_lost = 0

    def run(self) -> dict[str, Any]:
        """Everything; returns what goes to the JSON file."""
        start = time.perf_counter()
        os.environ["HOMODISTIL_CACHE"] = str(self.folder / "cache")
        write_inputs(self.folder, max_steps=self.options.max_steps)
        whole = self.folder / "whole"
        if self.attempt(whole) != 0:
            raise RuntimeError(f"the run that was left alone failed; see {whole}.log")
        expected = outcome(whole)
        wrong: list[str] = []
        num_runs = 0
        while self.num_kills < self.options.num_kills:
            num_runs += 1
            killed = self.folder / f"killed-{num_runs}"
            self.run_and_kill(killed)
            found = outcome(killed)
            names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            wrong += [f"{killed.name}: {name}" for name in names]
        return {
            "machine": machine_facts(),
            "seed": self.options.seed,
            "num_kills": self.num_kills,
            "num_runs": num_runs,
            "num_bytes_lost": self.num_bytes_lost,
            "num_differences": len(wrong),
            "num_compared": num_runs * len(expected),
            "differences": wrong,
            "kills": dict(sorted(self.kills.items())),
            "kill_steps": self.kill_steps,
            "settings": SETTINGS | {"max_steps": self.options.max_steps},
            "time_s": round(time.perf_counter() - start, 1),
        }

    @property
    def num_kills(self) -> int:
        """Kills so far."""
        return self.kills.total()

    def run_and_kill(self, run: Path) -> None:
        """Start a run, kill it at planned and random moments until it is done or was killed often enough."""
        for moment in self.plan():
            if self.num_kills >= self.options.num_kills:
                break
            earlier = newest_checkpoint(run)
            if self.attempt(run, moment=moment, by_chance=moment is None) == 0:
                return
            phase, step = self.board.read()
            self.kills[f"forced, {moment}" if moment else f"random, {phase}"] += 1
            self.kill_steps.append(step)
            self.num_bytes_lost += bytes_lost(run, earlier)
        if self.attempt(run) != 0:
            raise RuntimeError(f"a resumed run failed; see {run}.log")

    def plan(self) -> Iterator[str | None]:
        """Forced moments in random order, slicing while there is some, exports last; None is a random time."""
        wanted = [name for name in MOMENTS if any(part in name for part in self.options.moments or [""])]
        self.draw.shuffle(wanted)
        wanted.sort(key=lambda name: (name.startswith("export"), not name.startswith("slicing")))
        for position, name in enumerate(wanted):
            yield name
            if self.options.moments is None and position % 2 and not name.startswith("export"):
                yield None

    def attempt(self, run: Path, *, moment: str | None = None, by_chance: bool = False) -> int:
        """Start or resume the run in a forked process; returns its exit status, negative after a signal."""
        words = ["distill", str(self.folder / "config.json"), "--output_dir", str(run)]
        if sorted_checkpoints(run):
            words += ["--resume_from_checkpoint", "last"]
        call = self.draw.randint(1, MOMENTS[moment].most_calls) if moment else 0
        in_training = self.draw.random() < 0.8
        delay_s = self.draw.uniform(0, 1.5)
        self.board.write("start", 0)
        process = os.fork()
        if process == 0:
            status = 1
            try:
                status = work(words, run.with_name(f"{run.name}.log"), self.board, moment=moment, call=call)
            finally:
                sys.stderr.flush()
                os._exit(status)
        if by_chance:
            while in_training and self.board.read()[0] in ("start", "resuming") and not _has_ended(process):
                time.sleep(0.002)
            time.sleep(delay_s)
            os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, -signal.SIGKILL):
            raise RuntimeError(f"a worker ended with status {code}; see {run}.log")
        return code


def _has_ended(process: int) -> bool:
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def write_inputs(folder: Path, shape: Mapping[str, int] | None = None, **settings: Any) -> None:
    """A teacher, of the usual shape or another, two texts of random words, and the config."""
    folder.mkdir(parents=True, exist_ok=True)
    write_teacher(folder, **shape or {})
    draw = random.Random(0)
    for name in ("train", "eval"):
        documents = (" ".join(draw.choices(WORDS[5:], k=20)) for _ in range(240))
        (folder / f"{name}.txt").write_text("\n\n".join(documents), encoding="utf-8")
    texts = {f"{name}_data": str(folder / f"{name}.txt") for name in ("train", "eval")}
    config = SETTINGS | {"teacher": str(folder / "teacher"), "max_eval_blocks": 32} | texts
    (folder / "config.json").write_text(json.dumps(config | settings), encoding="utf-8")


def write_teacher(folder: Path, **shape: int) -> None:
    """A masked-LM model of 2 layers × 32 unless told otherwise, with noise on every parameter, and its tokenizer."""
    torch.manual_seed(1)
    usual = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(**{"max_position_embeddings": 32, "vocab_size": len(WORDS)} | usual | shape)
    teacher = BertForMaskedLM(config)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    teacher.save_pretrained(folder / "teacher")
    words = [*WORDS, *(f"w{i}" for i in range(len(WORDS), config.vocab_size))]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder / "teacher")


def newest_checkpoint(run: Path) -> tuple[int, int]:
    """Step and bytes of the newest whole checkpoint."""
    checkpoint = last_checkpoint(run)
    return (-1, 0) if checkpoint is None else (int(checkpoint.name.rpartition("-")[2]), size_bytes(checkpoint))


def bytes_lost(run: Path, earlier: tuple[int, int]) -> int:
    """Bytes of checkpoints that are there but not whole, and of the newest whole one if it has vanished."""
    broken = sum(size_bytes(folder) for folder in sorted_checkpoints(run) if manifest_problem(folder))
    step, size = earlier
    return broken + (size if newest_checkpoint(run)[0] < step else 0)


def size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def outcome(run: Path) -> dict[str, Any]:
    """Everything that a finished run left, flat; tensors by the digest of their bytes."""
    # half of a text beside its place stays of a killed process
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.suffix != ".aside")
    values: dict[str, Any] = {"files": [path.relative_to(run).as_posix() for path in files]}
    for path in files:
        name = path.relative_to(run).as_posix()
        if path.name in ("manifest.json", "training_args.bin"):
            continue  # digests of the files compared here; settings, with the folder's name
        if path.suffix in (".pt", ".pth"):
            with safe_globals():
                values |= flat(name, torch.load(path, weights_only=True))
        elif path.suffix == ".safetensors":
            values |= flat(name, load_file(path))
        if path.suffix == ".json":
            values |= flat(name, json.loads(path.read_text(encoding="utf-8")))
        elif "student/" in name:
            content = path.read_bytes()
            if path.name == CARD_FILE:
                lines = content.splitlines()
                content = b"\n".join(line for line in lines if not any(word in line for word in TIMED_WORDS))
            values[name] = hashlib.sha256(content).hexdigest()
    return {name: str(value).replace(str(run), "RUN") for name, value in values.items()}


def flat(name: str, value: Any) -> dict[str, Any]:
    if name.endswith(MAY_DIFFER):
        return {}
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value.astype(np.int64))
    if torch.is_tensor(value):
        content = value.contiguous().view(torch.uint8) if value.dim() else value
        digest = hashlib.sha256(content.numpy().tobytes()).hexdigest()
        return {name: f"{value.dtype} {tuple(value.shape)} {digest}"}
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in flat(f"{name}/{key}", inner).items()}
    if isinstance(value, list | tuple):
        return {k: v for i, inner in enumerate(value) for k, v in flat(f"{name}/{i}", inner).items()}
    return {name: value}


if __name__ == "__main__":
    sys.exit(main())
