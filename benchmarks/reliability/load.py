"""Give each command once what hardly anybody gives it: much of one thing, little memory, a disk that refuses.

    python -m benchmarks.reliability.load [NAME …]

Each try is a command in a process of its own, with at most 8 GB of data and 10 minutes. Writes time, peak memory and
last line of each into docs/results/load.json.
"""

import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from benchmarks.reliability.soak import WORDS, write_inputs
from homodistil_hf.files.checkpoints import last_checkpoint
from homodistil_hf.files.provenance import machine_facts

RESULTS = Path("docs/results/load.json")
MOST_BYTES, MOST_S = 8 << 30, 600
COMMAND = ("-m", "homodistil_hf")
LARGE, BATCH = {"vocab_size": 250_000, "hidden_size": 384}, {"per_device_train_batch_size": 32}
SHORT_RUN = {"max_steps": 4, "save_steps": 2, "eval_steps": 2, "pruning_interval_steps": 1}


def distil(folder: Path, shape: Mapping[str, int] | None = None, **settings: Any) -> list[str]:
    """The words of a short run of four steps, of a teacher of another shape than the usual one."""
    write_inputs(folder, shape, **SHORT_RUN | settings)
    return [*COMMAND, "distill", str(folder / "config.json"), "--output_dir", str(folder / "run")]


def text_of(num_words: int) -> str:
    return " ".join(random.Random(0).choices(WORDS[5:], k=num_words))


def json_lines(file: Path, rows: Iterable[Mapping[str, str]]) -> str:
    """Write rows, and return the name of the file."""
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(f"{json.dumps(row)}\n" for row in rows)
    return str(file)


def million_rows(folder: Path) -> list[str]:
    rows = [{"text": text_of(12)[shift:]} for shift in range(20)]
    return distil(folder, train_data=json_lines(folder / "rows.jsonl", rows * 50_000))


def many_files(folder: Path) -> list[str]:
    for part in range(100):
        (folder / f"texts/{part}").mkdir(parents=True)
        for number in range(1000):
            (folder / f"texts/{part}/{number}.txt").write_text(text_of(20), encoding="utf-8")
    return distil(folder, train_data=str(folder / "texts"))


def one_line(folder: Path) -> list[str]:
    megabyte = text_of(1 << 19)[: 1 << 20]
    with (folder / "line.txt").open("w", encoding="utf-8") as file:
        file.writelines(itertools.repeat(megabyte, 2048))
    return distil(folder, train_data=str(folder / "line.txt"))


def long_texts(folder: Path) -> list[str]:
    text = text_of(2_600_000)[: 10 << 20]
    return distil(folder, train_data=json_lines(folder / "long.jsonl", [{"text": text}] * 4))


def many_classes(folder: Path) -> list[str]:
    distil(folder)
    words = ["finetune", f"--model={folder}/teacher", f"--output_dir={folder}/run", "--max_train_steps=4"]
    for name, num_rows in (("train", 20_000), ("eval", 10_000)):
        rows = ({"text": text_of(6), "label": f"class {row % 10_000}"} for row in range(num_rows))
        words.append(f"--{name}_data={json_lines(folder / f'{name}.jsonl', rows)}")
    return [*COMMAND, *words, "--learning_rates=1e-3", "--max_length=16"]


def trimmed(folder: Path) -> list[str]:
    distil(folder, LARGE)
    places = [f"--text={folder}/train.txt", f"--output={folder}/trimmed"]
    return [*COMMAND, "trim", str(folder / "teacher"), "--vocabulary=keep=16384", *places]


def killed_rank(folder: Path) -> list[str]:
    words = distil(folder, max_steps=4000, save_steps=20, ddp_timeout=60)
    return ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4", *words]


def out_of_memory(folder: Path) -> list[str]:
    (folder / "long.txt").write_text(text_of(10_000_000), encoding="utf-8")
    shape = {"hidden_size": 256, "intermediate_size": 2048, "max_position_embeddings": 512}
    batch = {"per_device_train_batch_size": 4096, "max_seq_length": 512}
    return distil(folder, shape, train_data=str(folder / "long.txt"), **batch)


def links(folder: Path) -> list[str]:
    (folder / "elsewhere/checkpoint-2").mkdir(parents=True)
    (folder / "elsewhere/kept.txt").write_text("of somebody else", encoding="utf-8")
    (folder / "run").mkdir()
    (folder / "run/checkpoint-2").symlink_to(folder / "elsewhere", target_is_directory=True)
    (folder / "run/results.json").hardlink_to(folder / "elsewhere/kept.txt")
    return distil(folder, overwrite_output_dir=True)


def failing_rename(folder: Path) -> list[str]:
    code = """
import errno, os, sys
from homodistil_hf.cli import main
rename = os.rename
def failing(source, target):
    if str(target).endswith("checkpoint-4"):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(source), None, str(target))
    rename(source, target)
os.rename = failing
sys.exit(main())"""
    return ["-c", code, *distil(folder)[2:]]


def parquet_bomb(folder: Path) -> list[str]:
    table = pyarrow.table({"text": pyarrow.array(["a" * (64 << 20)] * 16)})
    with pyarrow.parquet.ParquetWriter(folder / "bomb.parquet", table.schema, compression="zstd") as writer:
        for _ in range(16):
            writer.write_table(table)
    return distil(folder, train_data=str(folder / "bomb.parquet"))


TRIES: dict[str, tuple[str, Callable[[Path], list[str]]]] = {
    "million_rows": ("a million rows", million_rows),
    "many_files": ("100,000 small files", many_files),
    "one_line": ("one line of 2 GB", one_line),
    "long_texts": ("texts of 10 MB", long_texts),
    "many_classes": ("10,000 classes", many_classes),
    "large_vocabulary": ("a vocabulary of 250,000, distilled", partial(distil, shape=LARGE, **BATCH)),
    "trimmed": ("a vocabulary of 250,000, trimmed", trimmed),
    "many_layers": ("64 layers", partial(distil, shape={"num_hidden_layers": 64})),
    "killed_rank": ("4 ranks, one killed", killed_rank),
    "out_of_memory": ("a batch larger than the memory", out_of_memory),
    "links": ("symbolic and hard links in a run's folder", links),
    "failing_rename": ("a disk that refuses the rename of a second checkpoint", failing_rename),
    "parquet_bomb": ("a parquet file of 36 kB that unpacks to 16 GB", parquet_bomb),
}


def main(names: list[str]) -> None:
    found = json.loads(RESULTS.read_text(encoding="utf-8"))["tries"] if RESULTS.exists() else {}
    for name in names or TRIES:
        with tempfile.TemporaryDirectory(prefix="load-") as folder:
            found[name] = attempt(name, Path(folder))
        print(name, json.dumps(found[name], indent=1), flush=True)
        record = {"machine": machine_facts(), "tries": {name: found[name] for name in TRIES if name in found}}
        RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def attempt(name: str, folder: Path) -> dict[str, Any]:
    """Make what is given, run the command, and say how it ended."""
    what, make = TRIES[name]
    with ProcessPoolExecutor(1) as maker:  # the memory of this process would count as the command's
        words = maker.submit(make, folder).result()
    since_s = time.perf_counter()
    environment = os.environ | {"HOMODISTIL_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log, env=environment, preexec_fn=limit)
        if name == "killed_rank":
            kill_a_rank(process, folder / "run")
        _, status, usage = os.wait4(process.pid, 0)
        log.seek(0)
        lines = [line.strip() for line in log if line.startswith("homodistil: ") or "Error" in line] or ["–"]
    outcome = {"what": what, "seconds": round(time.perf_counter() - since_s), "peak_bytes": 1024 * usage.ru_maxrss}
    last = next((line for line in lines if "error: " in line), lines[-1]) if status else "done"
    return outcome | {"status": os.waitstatus_to_exitcode(status), "line": last.replace(str(folder), "…")}


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    signal.alarm(MOST_S)  # stays through exec


def kill_a_rank(launcher: subprocess.Popen[bytes], run: Path) -> None:
    """Kill the last rank once there is a checkpoint."""
    while last_checkpoint(run) is None and launcher.poll() is None:
        time.sleep(0.05)
    ranks = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text(encoding="utf-8").split()
    os.kill(int(ranks[-1]), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
