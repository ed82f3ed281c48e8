"""Smaller vocabularies of a real model: their share of held-out text, and the worth of a student of one.

    python -m benchmarks.studies.vocabulary table --model DIR --text FILE … --held_out FILE …       # minutes

The students, trained for hours, were compared by benchmarks/vocabulary.py at commit 7db6fe1: with the same tokens, on
the same blocks of text, against the same teacher; one trimmed with its teacher before it was distilled, the other
afterwards.
"""

import argparse
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from benchmarks.studies.study import Study
from homodistil_hf.data.blocks import TextPacker
from homodistil_hf.data.corpus import load_text
from homodistil_hf.experiments.trim import TrimSource, plan_trimming
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.models.cost import count_parameters
from homodistil_hf.models.widths import widths_of
from homodistil_hf.plans.resolve import resolve_plan
from homodistil_hf.tables import markdown_table
from homodistil_hf.vocabulary.selection import count_tokens
from homodistil_hf.vocabulary.trimming import trim_tokenizer

SIZES = ("keep=8192", "keep=12288", "keep=16384", "keep=20480", "keep=24576", "min_count=5")
BYTES = 4  # of a parameter in float32


def run_table(options: argparse.Namespace) -> None:
    """A row a vocabulary: tokens, share of the held-out text's tokens, growth of the text, parameters."""
    held_out: Any = load_text(options.held_out, argument="held_out")
    rows = []
    for vocabulary in options.vocabularies:
        plan = plan_trimming(TrimSource(options.model, vocabulary, options.text))
        trimmed, kept = trim_tokenizer(plan.tokenizer, plan.config, plan.kept)
        counts = count_tokens(held_out, plan.tokenizer)
        quarter = resolve_plan("macs=0.25", plan.config)
        saved = {
            name: count_parameters(widths, plan.config, head="masked_lm")
            - count_parameters(widths, plan.trimmed_config, head="masked_lm")
            for name, widths in (("teacher", widths_of(plan.config)), ("quarter", quarter))
        }
        rows.append(
            {
                "vocabulary": vocabulary,
                "num_tokens": len(kept),
                "coverage": float(counts[kept].sum() / counts.sum()),
                "growth": length(held_out, trimmed) / length(held_out, plan.tokenizer) - 1,
                "saved_parameters": saved,
                "parameters": {"quarter": count_parameters(quarter, plan.trimmed_config, head="masked_lm")},
            }
        )
        print(rows[-1], flush=True)
    STUDY.write(STUDY.read() | {"table": rows, "machine": machine_facts()})
    STUDY.show()


def length(documents: Dataset, tokenizer: PreTrainedTokenizerBase) -> int:
    """Number of tokens of all documents."""
    return sum(len(TextPacker(tokenizer, 0, "text").encode(part["text"])) for part in documents.iter(1000))


def coverage_table(rows: list[dict[str, Any]]) -> list[str]:
    """Vocabularies by size."""
    cells = [
        [f"`{row['vocabulary']}`", f"{row['num_tokens']:,}", f"{row['coverage']:.1%}", f"+{row['growth']:.1%}"]
        + [f"{row['saved_parameters'][name] * BYTES / 1e6:.1f} MB" for name in ("teacher", "quarter")]
        for row in sorted(rows, key=lambda row: row["num_tokens"])
    ]
    header = ["vocabulary", "tokens", "held-out tokens kept", "longer text", "saved, teacher", "saved, 1/4 student"]
    return markdown_table(header, cells)


def students_table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Students side by side."""
    cells = []
    for name, row in rows.items():
        metrics = {"kl": ".3f", "agreement": ".1%", "mlm_accuracy": ".1%"}
        words = [format(row[metric], shape) if metric in row else "–" for metric, shape in metrics.items()]
        glue = f"{row['glue_mean']:.3f}" if "glue_mean" in row else "–"
        cells.append([name, *words, glue, f"{row['num_parameters'] / 1e6:.1f} M", f"{row['size_bytes'] / 1e6:.1f} MB"])
    header = ["student", "KL, nats", "same word as teacher", "right word", "GLUE mean", "parameters", "float32"]
    return markdown_table(header, cells)


TABLES: dict[str, Any] = {"table": coverage_table, "students": students_table}
STUDY = Study(
    Path("docs/results/vocabulary.json"),
    Path("docs/vocabulary.md"),
    lambda record: {part: table(record[part]) for part, table in TABLES.items() if part in record},
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=["table"])
    parser.add_argument("--model", required=True, help="folder or Hub name")
    parser.add_argument("--text", nargs="+", required=True, help="text whose tokens are counted")
    parser.add_argument("--vocabularies", nargs="+", default=list(SIZES))
    parser.add_argument("--held_out", nargs="+", required=True)
    run_table(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
