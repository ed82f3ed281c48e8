"""The command `homodistil`: reads flags, calls the package, prints. The only file besides `demo.py` that does.

What a command does stands in a file of its own: `launch.py` (distill), `run_folder.py` (export), `verify.py`,
`demo.py`, `caches.py`; texts are laid out in `report.py`. They are imported when their command runs.
"""

import argparse
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from .version import __version__

_Command = Callable[[argparse.Namespace], int]

_DISTILL_USAGE = """usage: homodistil distill CONFIG.json [--key value ...]

Distil and prune a masked-LM teacher. CONFIG.json holds settings by name; flags of the same names override it.

  homodistil distill examples/configs/smoke.json --max_steps 50
  torchrun --nproc_per_node 8 -m homodistil_hf distill CONFIG.json --resume_from_checkpoint last

The most important settings (--help_all lists every one, TrainingArguments' included):
"""
_MAIN_SETTINGS = (
    "teacher",
    "student",
    "method",
    "train_data",
    "eval_data",
    "output_dir",
    "text_column",
    "max_seq_length",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "pruning_end_fraction",
    "bf16",
    "seed",
    "resume_from_checkpoint",
)
_MAIN_HELP = {
    "output_dir": "Folder of the run: checkpoints, student/, results.json.",
    "max_steps": "Optimizer steps; else num_train_epochs counts.",
    "per_device_train_batch_size": "Blocks a device and micro-batch.",
    "gradient_accumulation_steps": "Micro-batches a step.",
    "bf16": "Train in bfloat16.",
    "seed": "Seed of masks and data order.",
    "resume_from_checkpoint": "last, a checkpoint folder, or hf://user/name on the Hub: go on with a run.",
}


class _Parser(argparse.ArgumentParser):
    """Errors are raised, so that all of them look alike."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message[:1000]}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: words after `homodistil`; default: those of this process.

    Returns:
        `int`: exit status. 0: done; 1: `verify` found problems; 2: an error, told on standard error; 130: interrupted.
            SIGTERM during training saves a checkpoint and ends the process with 143.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Read by torch once, at its first allocation: large tensors in large pages, where Linux offers them, instead of
    # thousands of page faults each (docs/performance.md).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        if words[:1] == ["distill"]:
            return _distill(words[1:])
        namespace = _parser().parse_args(words)
        return namespace.command(namespace)
    except (ValueError, OSError, FloatingPointError) as error:
        if _is_a_bug(error):
            raise
        print(f"homodistil: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("homodistil: interrupted", file=sys.stderr)
        return 130


def _is_a_bug(error: Exception) -> bool:
    """A `ValueError` that comes out of somebody else's code in the middle of training keeps its traceback."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    in_training = any(frame.f_code.co_name == "_inner_training_loop" for frame in frames)
    raised_here = str(frames[-1].f_globals.get("__name__")).startswith("homodistil_hf.") if frames else True
    return isinstance(error, ValueError) and in_training and not raised_here


def _parser() -> _Parser:
    parser = _Parser(
        prog="homodistil",
        description="Prune the width of a BERT encoder while distilling it.",
        epilog="example: homodistil plan --teacher google-bert/bert-base-uncased --student homobert-tiny",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"homodistil_hf {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    commands.add_parser("distill", help="distil and prune a teacher as a JSON file says", add_help=False)
    _add_plan(commands)
    _add_export(commands)
    _add_verify(commands)
    _add_push(commands)
    _add_evaluate(commands)
    _add_bench(commands)
    _add_sweep(commands)
    _add_demo(commands)
    _add_cache(commands)
    return parser


def _add(commands: Any, name: str, run: _Command, *, help: str, example: str) -> _Parser:
    parser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(command=run)
    return parser


# distill


def _distill(words: Sequence[str]) -> int:
    if not words or {"-h", "--help"} & set(words):
        print(_distill_help())
        return 0 if words else 2
    from .run_config import RunParser, parse_run

    if "--help_all" in words:
        print(RunParser().format_help())
        return 0
    settings = parse_run(words)
    from accelerate import PartialState

    from .launch import distill
    from .report import format_results

    _show_logs(settings.training.process_index == 0)
    results = distill(settings, print)
    if results:
        print(format_results(results, settings.training.output_dir))
    # Or threads of the process group may still be waiting when the interpreter ends, which aborts the process.
    PartialState().destroy_process_group()
    return 0


def _distill_help() -> str:
    from .run_config import RunArguments
    from .training_args import HomoDistilTrainingArguments

    known = {
        entry.name: entry for settings in (RunArguments, HomoDistilTrainingArguments) for entry in fields(settings)
    }
    width = max(map(len, _MAIN_SETTINGS))
    lines = []
    for name in _MAIN_SETTINGS:
        text = _MAIN_HELP.get(name) or known[name].metadata["help"]
        lines.append(f"  --{name.ljust(width)}  {text}")
    return _DISTILL_USAGE + "\n".join(lines)


def _show_logs(is_main_process: bool) -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # those of reading and writing weights; training and tokenizing keep theirs
    logger = logging.getLogger("homodistil_hf")
    logger.setLevel(logging.INFO if is_main_process else logging.WARNING)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("homodistil: %(message)s"))
        logger.addHandler(handler)


# plan


def _add_plan(commands: Any) -> None:
    parser = _add(
        commands,
        "plan",
        _plan,
        help="say how wide a student will be and what it costs, from the teacher's configuration alone",
        example="homodistil plan --teacher google-bert/bert-base-uncased --student macs=0.25",
    )
    parser.add_argument("--teacher", required=True, help="Hub name or folder of a BERT model")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--student", help="preset, budget (params=14M, macs=0.25), JSON file or JSON object")
    asked.add_argument("--latency_ms", type=float, help="milliseconds of a forward pass on this machine, no head")
    parser.add_argument("--batch_size", type=int, help="latency_ms: sequences a forward pass (default: 1)")
    parser.add_argument("--length", type=int, help="latency_ms: tokens a sequence (default: 128)")
    parser.add_argument("--backend", help="latency_ms: torch (default) or onnxruntime")
    parser.add_argument("--no_measurement", action="store_true", help="latency_ms: don't time the chosen plan itself")
    parser.add_argument("--teacher_revision", help="branch, tag or commit on the Hub")
    parser.add_argument(
        "--width_multiple", type=int, default=8, help="budgets: round widths to multiples (default: 8)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def _plan(flags: argparse.Namespace) -> int:
    from .conversion import load_teacher_config
    from .facts import cost_fractions, planned_facts
    from .plans import resolve_plan
    from .report import format_plan

    config = load_teacher_config(flags.teacher, revision=flags.teacher_revision)
    latency = _planned_latency(flags, config)
    plan = latency["plan"] if latency else resolve_plan(flags.student, config, multiple=flags.width_multiple)
    architecture = (config.architectures or ["BertForMaskedLM"])[0]
    costs: dict[str, dict[str, Any]] = {
        "teacher": planned_facts(config, architecture),
        "student": planned_facts(config, architecture, plan),
        "padded": planned_facts(config, architecture, plan.padded()),
    }
    costs["cost_fractions"] = cost_fractions(costs["student"], costs["teacher"])
    if not latency:
        print(json.dumps(costs, indent=2) if flags.json else format_plan(costs))
        return 0
    from .latency.layout import format_planned_latency

    if flags.json:
        print(json.dumps(costs | {"latency": latency["facts"]}, indent=2))
        return 0
    print(f"{format_plan(costs)}\n\n{format_planned_latency(latency['facts'])}")
    return 0


def _planned_latency(flags: argparse.Namespace, config: Any) -> dict[str, Any]:
    """The plan for `--latency_ms` and what is known of its latency; empty for any other student."""
    from .latency.planning import LATENCY_BUDGET, LatencyBudget, is_latency_budget, measure_plan, plan_within

    conditions = {name: getattr(flags, name) for name in ("batch_size", "length", "backend")}
    given = {name: value for name, value in conditions.items() if value is not None}
    if flags.latency_ms is None and (given or flags.no_measurement):
        name = next(iter(given), "no_measurement")
        raise ValueError(f"--{name} says how a latency is measured; give --latency_ms with it")
    student = flags.student
    if flags.latency_ms is not None:
        student = ",".join(f"{name}={value}" for name, value in {LATENCY_BUDGET: flags.latency_ms, **given}.items())
    if not is_latency_budget(student):
        return {}
    _show_logs(True)
    budget = LatencyBudget.parse(student)
    found = plan_within(budget, config, multiple=flags.width_multiple)
    facts = found.facts(budget)
    if not flags.no_measurement:
        facts["measured"] = measure_plan(found.plan, config, budget.conditions)
    return {"plan": found.plan, "facts": facts}


# export, verify


def _add_export(commands: Any) -> None:
    parser = _add(
        commands,
        "export",
        _export,
        help="write the student of a run, of a checkpoint or of another export to a folder",
        example="homodistil export runs/my-student --output my-student-compact --format compact",
    )
    parser.add_argument("folder", metavar="FOLDER", help="finished run, checkpoint-N, or export")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--format", default="standard", help="standard: stock BERT (default); compact: unpadded, with its own code"
    )
    parser.add_argument("--allow_partial", action="store_true", help="also take a student that is not at its plan yet")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in DIR (overwrite=True)")
    parser.add_argument("--teacher", help="Hub name or folder, for the card; default: as the run recorded it")


def _export(flags: argparse.Namespace) -> int:
    from .run_folder import export_folder

    _show_logs(True)
    folder = export_folder(
        flags.folder,
        flags.output,
        format=flags.format,
        allow_partial=flags.allow_partial,
        teacher=flags.teacher,
        overwrite=flags.overwrite,
    )
    print(f"{flags.format} export written to {folder}")
    return 0


def _add_verify(commands: Any) -> None:
    parser = _add(
        commands,
        "verify",
        _verify,
        help="load an export in a fresh process without this package and check it against its facts.json",
        example="homodistil verify runs/my-student/student",
    )
    parser.add_argument("folder", metavar="FOLDER", help="export")


def _verify(flags: argparse.Namespace) -> int:
    from .verify import verify_export

    report = verify_export(flags.folder)
    if report.ok:
        print(
            f"{flags.folder}: all is well; largest relative difference of logits {report.max_relative_difference:.1e}"
        )
        if report.code_sha256:
            print(f"{flags.folder}: its code is this package's own modelling file, sha256 {report.code_sha256}")
        return 0
    for problem in report.problems:
        print(f"{flags.folder}: {problem}", file=sys.stderr)
    return 1


# push


def _add_push(commands: Any) -> None:
    parser = _add(
        commands,
        "push",
        _push,
        help="upload an export to the Hub in one commit; log in with `hf auth login` or set HF_TOKEN first",
        example="homodistil push runs/my-student me/my-student --private --tag v1.0",
    )
    parser.add_argument("folder", metavar="FOLDER", help="export, or finished run")
    parser.add_argument("repo_id", metavar="NAME", help="user/name on the Hub; created if need be")
    parser.add_argument("--private", action="store_true", help="a new repository is private")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to commit to (default: main)")
    parser.add_argument("--tag", help="name of this commit that stays, e.g. v1.0")
    parser.add_argument("--card_tags", nargs="+", default=(), metavar="WORD", help="tags for the card, beside its own")
    parser.add_argument("--message", default="Upload a HomoDistil student", help="first line of the commit")


def _push(flags: argparse.Namespace) -> int:
    from .hub import push_export, tag_commit
    from .run_folder import exported_student

    commit = push_export(
        exported_student(flags.folder),
        flags.repo_id,
        private=flags.private or None,
        revision=flags.revision,
        commit_message=flags.message,
        tags=flags.card_tags,
    )
    if flags.tag:
        tag_commit(commit.repo_url.repo_id, flags.tag, revision=commit.oid)
    print(commit.commit_url)
    return 0


# evaluate


def _add_evaluate(commands: Any) -> None:
    from .evaluation.command import add_flags

    add_flags(
        _add(
            commands,
            "evaluate",
            _evaluate,
            help="measure a model: discrepancy to its teacher, GLUE, SQuAD; or compare what was measured",
            example="homodistil evaluate runs/my-student --task rte mrpc --seeds 0 1 2",
        )
    )


def _evaluate(flags: argparse.Namespace) -> int:
    from .evaluation.command import run

    _show_logs(True)
    print(run(flags, _tell))
    return 0


# bench


def _add_bench(commands: Any) -> None:
    parser = _add(
        commands,
        "bench",
        _bench,
        help="measure how fast training is on this machine, beside what a careful Trainer subclass would reach",
        example="homodistil bench --shape bert-base --student homobert-tiny --dtype float32 --output speed.json",
    )
    for name, (kind, text) in _BENCH_FLAGS.items():
        parser.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS, help=text)
    parser.add_argument("--compiled", action="store_true", help="run our arms under torch.compile")
    parser.add_argument("--without_reference", action="store_true", help="measure our trainer only")
    parser.add_argument(
        "--growth", action="store_true", help="instead: batches of 16 and 128, vocabularies to 250,000"
    )
    parser.add_argument("--output", metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--chart", metavar="FILE", help="draw the parts of a step (needs matplotlib)")
    latency = parser.add_argument_group("latency of models, instead of training")
    latency.add_argument("--latency", nargs="+", metavar="FOLDER", help="exports whose forward passes are compared")
    latency.add_argument("--teacher", help="Hub name or folder to compare them with (default: the first FOLDER)")
    for name, (kind, text) in _LATENCY_FLAGS.items():
        latency.add_argument(f"--{name}", nargs="+", type=kind, default=argparse.SUPPRESS, help=text)
    latency.add_argument("--with_head", action="store_true", help="time whole models; default: without their heads")


_LATENCY_FLAGS: dict[str, tuple[Callable[[str], Any], str]] = {
    "batch_sizes": (int, "sequences a forward pass (default: 1 32)"),
    "lengths": (int, "tokens a sequence (default: 16 128 512)"),
    "backends": (str, "ways to run them (default: torch compiled onnxruntime)"),
}


_BENCH_FLAGS: dict[str, tuple[Callable[[str], Any], str]] = {
    "shape": (str, "teacher: bert-base, teacher6x384 (default), or BertConfig values as a JSON object"),
    "student": (str, "preset, budget or plan (default: macs=0.25)"),
    "batch_size": (int, "sequences a batch (default: 32)"),
    "length": (int, "tokens a sequence (default: 128)"),
    "accumulation_steps": (int, "batches a step (default: 1)"),
    "dtype": (str, "matrix products of all arms: bfloat16 (default) or float32"),
    "device": (str, "cpu (default) or cuda"),
    "attention_weight": (float, "factor of the attention term in all arms (default: 0, off)"),
    "importance_metric": (str, "how our arms score units (default: that of distill)"),
    "rounds": (int, "timed steps of every arm (default: 7)"),
    "warmup_rounds": (int, "steps of every arm before those (default: 2)"),
    "points": (int, "places of the schedule that are measured (default: 5)"),
    "max_steps": (int, "steps of the run that is summed up (default: 28000)"),
    "pruning_end_fraction": (float, "share of its steps at which the plan is reached (default: that of distill)"),
    "pruning_interval_steps": (int, "steps between two choices of masks (default: that of distill)"),
    "compaction_threshold": (float, "share of MACs that must be masked to compact (default: that of distill)"),
    "multiple": (int, "widths in between are rounded up to this (default: that of distill)"),
    "seed": (int, "of weights, token ids and masks (default: 0)"),
}


def _bench_latency(flags: argparse.Namespace) -> int:
    from .conversion import load_teacher
    from .latency.comparison import LatencyGrid, compare_latencies
    from .latency.layout import format_latencies

    _show_logs(True)
    given = {name: getattr(flags, name) for name in _LATENCY_FLAGS if name in flags}
    if "rounds" in flags:
        given["num_rounds"] = flags.rounds
    grid = LatencyGrid(**given, with_head=flags.with_head)
    names = [*([flags.teacher] if flags.teacher else []), *flags.latency]
    results = compare_latencies({name: load_teacher(name) for name in names}, grid, say=_tell)
    print(format_latencies(results))
    if flags.output:
        Path(flags.output).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def _tell(line: str) -> None:
    print(f"homodistil: {line}", file=sys.stderr)


def _bench(flags: argparse.Namespace) -> int:
    if flags.latency:
        return _bench_latency(flags)
    from .bench.chart import draw_parts
    from .bench.growth import format_growth, run_growth
    from .bench.settings import BenchSettings
    from .bench.speed import run_bench
    from .bench.tables import format_bench

    given = {name: getattr(flags, name) for name in _BENCH_FLAGS if name in flags}
    settings = BenchSettings(**given, compiled=flags.compiled, with_reference=not flags.without_reference)
    results = run_growth(settings) if flags.growth else run_bench(settings)
    print(format_growth(results) if flags.growth else format_bench(results))
    if flags.output:
        Path(flags.output).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if flags.chart and not flags.growth:
        draw_parts(results, Path(flags.chart))
    return 0


# sweep


def _add_sweep(commands: Any) -> None:
    parser = _add(
        commands,
        "sweep",
        _sweep,
        help="train every cell of a sweep's JSON file, each where it stopped, and write one table and plots",
        example="homodistil sweep examples/sweeps/smoke.json --only homodistil",
    )
    parser.add_argument("file", metavar="FILE.json", help="sweep: base settings, cells by name, axes")
    parser.add_argument("--only", nargs="+", default=(), metavar="CELL", help="cells, arms or patterns with * and ?")
    parser.add_argument("--list", action="store_true", help="say how far each cell has come, and train nothing")
    parser.add_argument("--output", metavar="DIR", help="folder of the sweep (default: the file's output_dir)")
    parser.add_argument("--results", metavar="FILE", help="table to write, plots beside it (default: DIR/results.md)")
    parser.add_argument("--train_only", action="store_true", help="leave the file's evaluations for another call")
    parser.add_argument("--overwrite", action="store_true", help="train cells anew that were run with other settings")


def _sweep(flags: argparse.Namespace) -> int:
    from .sweep.running import prepare_sweep, run_sweep, write_table

    run = prepare_sweep(flags.file, only=flags.only, output=flags.output, train_only=flags.train_only)
    if flags.list:
        for cell in run.cells:
            print(f"{run.state(cell):<10}  {cell.name}")
        return 0
    num_failed = run_sweep(run, lambda line: print(line, flush=True), overwrite=flags.overwrite)
    print("\n".join(map(str, write_table(run, flags.results))))
    return 1 if num_failed else 0


# demo, cache


def _add_demo(commands: Any) -> None:
    parser = _add(
        commands,
        "demo",
        _demo,
        help="train a small teacher on docstrings, distil it to a quarter of its cost, and print what came out",
        example="homodistil demo --output_dir runs/demo",
    )
    parser.add_argument("--output_dir", default="runs/demo", help="folder to write (default: runs/demo)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same student (default: 0)")
    parser.add_argument("--max_steps", type=int, help="steps of each student (default: what fits in eight minutes)")
    parser.add_argument("--teacher_steps", type=int, help="steps of the teacher")
    parser.add_argument("--quick", action="store_true", help="a few steps with tiny models: does it work at all?")


def _demo(flags: argparse.Namespace) -> int:
    from .demo import demo_settings, run_demo

    _show_logs(True)
    run_demo(
        demo_settings(
            output_dir=flags.output_dir,
            seed=flags.seed,
            max_steps=flags.max_steps,
            teacher_steps=flags.teacher_steps,
            quick=flags.quick,
        )
    )
    return 0


def _add_cache(commands: Any) -> None:
    parser = _add(
        commands,
        "cache",
        _cache,
        help="say where caches are and how large, or remove them",
        example="homodistil cache --clear",
    )
    parser.add_argument(
        "--clear", action="store_true", help="remove the demo's teacher, tokenized texts and latency tables"
    )


def _cache(flags: argparse.Namespace) -> int:
    from .caches import cache_folder, cache_sizes, clear_caches

    if flags.clear:
        print(f"freed {clear_caches():,} bytes in {cache_folder()}")
        return 0
    for kind, size_bytes in cache_sizes().items():
        print(f"{cache_folder() / kind}: {size_bytes:,} bytes")
    return 0
