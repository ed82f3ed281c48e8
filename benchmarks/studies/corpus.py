"""How fast text becomes blocks, as a table and as a stream, and what they take on disk.

    TOKENIZERS_PARALLELISM=false python -m benchmarks.studies.corpus --tokenizer MODEL --text FILE …

Seconds are processor time of one core.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import datasets
from transformers import AutoTokenizer

from benchmarks.studies.study import Study
from homodistil_hf.data.blocks import tokenize_to_blocks
from homodistil_hf.data.corpus import load_text
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.tables import markdown_table

RECORD = Path("docs/results/corpus.json")
LENGTH, NUM_DOCUMENTS, TIMES = 128, 2000, 3
CORES = (1, 16)


def size_table(found: dict[str, Any]) -> list[str]:
    """A row a size of text: blocks, disk, hours of cores."""
    cells = []
    for size in (1e9, 1e10, 1e11):
        blocks = size / found["bytes_a_block"]
        minutes = [size / found["bytes_per_s"]["table"] / 60 / cores for cores in CORES]
        times = [f"{math.ceil(value)} min" if value < 60 else f"{value / 60:.1f} h" for value in minutes]
        disk = f"{blocks * found['disk_a_block'] / 1e9:.1f} GB"
        cells.append([f"{size / 1e9:.0f} GB", f"{blocks / 1e6:.1f} M", disk, *times])
    return markdown_table(["text", "blocks of 128", "on disk", *(f"cores: {cores}" for cores in CORES)], cells)


STUDY = Study(RECORD, Path("docs/guides/several_gpus.md"), lambda found: {"corpus": size_table(found)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--text", nargs="+", required=True)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    datasets.disable_caching()
    documents: Any = load_text(options.text).select(range(NUM_DOCUMENTS))
    num_bytes = sum(len(text.encode()) for text in documents["text"] if text)
    rates: dict[str, list[float]] = {"table": [], "stream": []}
    for _ in range(TIMES):
        since = time.process_time()
        blocks: Any = tokenize_to_blocks(documents, tokenizer, max_seq_length=LENGTH)
        rates["table"].append(num_bytes / (time.process_time() - since))
        since = time.process_time()
        sum(1 for _ in tokenize_to_blocks(documents.to_iterable_dataset(), tokenizer, max_seq_length=LENGTH))
        rates["stream"].append(num_bytes / (time.process_time() - since))
    found = {
        "bytes_per_s": {name: statistics.median(values) for name, values in rates.items()},
        "bytes_a_block": num_bytes / len(blocks),
        "disk_a_block": blocks.data.nbytes / len(blocks),
        "machine": machine_facts(),
    }
    RECORD.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
