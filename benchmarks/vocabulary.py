"""Smaller vocabularies of a real model: what of held-out text they cover, and what a student of one is worth.

python -m benchmarks.vocabulary table --model DIR --text FILE … --held_out FILE …       # minutes
python -m benchmarks.vocabulary students --trimmed RUN --whole RUN --held_out FILE …    # two finished runs of distill

The second compares two students of one teacher, one trimmed with its teacher before it was distilled, the other
afterwards, with the same tokens: on the same blocks of text, against the same teacher. Both write their tables into
docs/vocabulary.md.
"""

import argparse
import itertools
import tempfile
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.marked_pages import fill_in
from homodistil_hf.data.corpus import load_text
from homodistil_hf.data.packing import TextPacker
from homodistil_hf.evaluation.held_out_text import DiscrepancySettings, evaluate_discrepancy
from homodistil_hf.experiments.trim import TRIMMED_FOLDER, TrimSource, plan_trimming, trim_to_folder
from homodistil_hf.export.student_in_folder import STUDENT_FOLDER
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.files.strict_json import read_json_object, write_json
from homodistil_hf.files.tensors import WEIGHTS_FILE, load_tensors
from homodistil_hf.models.cost import count_parameters
from homodistil_hf.models.widths import widths_of
from homodistil_hf.plans.resolve import resolve_plan
from homodistil_hf.tables import markdown_table
from homodistil_hf.vocabulary.selection import count_tokens
from homodistil_hf.vocabulary.trimming import trim_tokenizer

RESULTS, PAGE = Path("docs/results/vocabulary.json"), Path("docs/vocabulary.md")
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
    save({"table": rows})


def length(documents: Dataset, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of all documents."""
    return sum(len(TextPacker(tokenizer, 0, "text").encode(part["text"])) for part in documents.iter(1000))


def run_students(options: argparse.Namespace) -> None:
    """Two students of one trimmed teacher, measured alike."""
    teacher = options.trimmed / TRIMMED_FOLDER
    settings = DiscrepancySettings(
        tuple(options.held_out),
        max_eval_blocks=options.max_eval_blocks,
        pseudo_perplexity_blocks=0,
        max_seq_length=options.max_seq_length,
    )
    with tempfile.TemporaryDirectory() as scratch:
        tokens = Path(scratch) / "tokens.txt"
        tokens.write_text("\n".join(AutoTokenizer.from_pretrained(teacher).get_vocab()), encoding="utf-8")
        late = Path(scratch) / "late"
        source = TrimSource(str(options.whole / STUDENT_FOLDER), str(tokens), options.held_out)
        trim_to_folder(source, late, print)
        folders = {"trimmed first": options.trimmed / STUDENT_FOLDER, "trimmed afterwards": late}
        rows = {}
        for name, folder in folders.items():
            found = evaluate_discrepancy(folder, teacher=teacher, settings=settings, output_dir=Path(scratch) / name)
            rows[name] = {metric: found["discrepancy"][metric] for metric in ("kl", "agreement", "mlm_accuracy")}
            rows[name] |= size_of(folder)
    rows["not trimmed"] = size_of(options.whole / STUDENT_FOLDER)
    found = {run: glue_files(run, options.tasks, options.seeds) for run in (options.trimmed, options.whole)}
    for one, other in zip(*(itertools.chain(*tasks.values()) for tasks in found.values()), strict=True):
        ways = [each["conditions"] | {"max_train_samples": each["num_train_rows"]} for each in (one, other)]
        if ways[0] != ways[1]:
            raise ValueError(f"{one['task']} was measured in two ways: {ways[0]} and {ways[1]}; measure one again")
    for name, run in (("trimmed first", options.trimmed), ("not trimmed", options.whole)):
        scores = {task: sum(each["score"] for each in seeds) / len(seeds) for task, seeds in found[run].items()}
        rows[name] |= {"glue": scores, "glue_mean": sum(scores.values()) / len(scores)}
    print(rows)
    save({"students": rows})


def size_of(folder: Path) -> dict[str, Any]:
    """Parameters of an export, and bytes of its weights."""
    file = folder / WEIGHTS_FILE
    num_parameters = sum(tensor.numel() for tensor in load_tensors(file).values())
    return {"num_parameters": num_parameters, "size_bytes": file.stat().st_size}


def glue_files(run: Path, tasks: list[str], seeds: list[int]) -> dict[str, list[dict[str, Any]]]:
    """Task → what `homodistil evaluate` found of a run, a file a seed."""
    folder = run / "evaluations" / STUDENT_FOLDER
    folder = folder if folder.is_dir() else folder.parent  # of a sweep's cell
    files = {task: [folder / f"{task}.seed-{seed}.json" for seed in seeds] for task in tasks}
    return {task: [read_json_object(file, str(file)) for file in names] for task, names in files.items()}


def save(found: dict[str, Any]) -> None:
    """Add results to the record, and their tables to the page."""
    known = read_json_object(RESULTS, str(RESULTS)) if RESULTS.is_file() else {}
    known |= found | {"machine": machine_facts()}
    write_json(RESULTS, known)
    fill_in(PAGE, {name: TABLES[name](known[name]) for name in TABLES if name in known})


def coverage_table(rows: list[dict[str, Any]]) -> str:
    """Vocabularies by size."""
    cells = [
        [
            f"`{row['vocabulary']}`",
            f"{row['num_tokens']:,}",
            f"{row['coverage']:.1%}",
            f"+{row['growth']:.1%}",
            *(f"{row['saved_parameters'][name] * BYTES / 1e6:.1f} MB" for name in ("teacher", "quarter")),
        ]
        for row in sorted(rows, key=lambda row: row["num_tokens"])
    ]
    header = ["vocabulary", "tokens", "held-out tokens kept", "longer text", "saved, teacher", "saved, 1/4 student"]
    return "\n".join(markdown_table(header, cells))


def students_table(rows: dict[str, dict[str, Any]]) -> str:
    """Students side by side."""
    cells = []
    for name, row in rows.items():
        words = (
            [f"{row['kl']:.3f}", f"{row['agreement']:.1%}", f"{row['mlm_accuracy']:.1%}"] if "kl" in row else ["–"] * 3
        )
        glue = f"{row['glue_mean']:.3f}" if "glue_mean" in row else "–"
        cells.append([name, *words, glue, f"{row['num_parameters'] / 1e6:.1f} M", f"{row['size_bytes'] / 1e6:.1f} MB"])
    header = ["student", "KL, nats", "same word as teacher", "right word", "GLUE mean", "parameters", "float32"]
    return "\n".join(markdown_table(header, cells))


TABLES = {"table": coverage_table, "students": students_table}
RUNS = {"table": run_table, "students": run_students}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("--model", help="table: folder or Hub name")
    parser.add_argument("--text", nargs="+", help="table: text whose tokens are counted")
    parser.add_argument("--vocabularies", nargs="+", default=list(SIZES))
    parser.add_argument("--held_out", nargs="+", required=True)
    parser.add_argument("--trimmed", type=Path, help='students: folder of a run with "vocabulary"')
    parser.add_argument("--whole", type=Path, help="students: folder of the same run without it")
    parser.add_argument("--tasks", nargs="+", default=["cola", "sst2", "mrpc", "rte", "stsb"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the fine-tunings that evaluate made")
    parser.add_argument("--max_eval_blocks", type=int, default=256)
    parser.add_argument("--max_seq_length", type=int, default=128)
    options = parser.parse_args(arguments)
    RUNS[options.run](options)


if __name__ == "__main__":
    main()
