"""`homodistil demo`: a real teacher, its HomoDistil student, the same widths pruned at once and from scratch.

Everything is a function of settings and seed, never of a clock. The teacher comes with the package;
`examples/make_demo_teacher.py` made it. The text is English that every Python has: docstrings, messages and comments
of its standard library. Until all is done, `training/` has checkpoints: a demo that was stopped goes on when it is
started again.
"""

import ast
import dataclasses
import hashlib
import re
import shutil
import sysconfig
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from ...data.blocks import tokenize_to_blocks
from ...distillation.teacher import multiplies_bfloat16
from ...export.facts import CARD_FILE, LATENCY, read_facts
from ...export.outcome import outcome_line
from ...export.report import write_report
from ...files.checkpoints import last_checkpoint
from ...files.folders import check_writable, remove_folder
from ...files.run_names import REPORT_FILE, RESULTS_FILE, TABLES
from ...files.strict_json import read_json_object, write_json
from ...methods.formats import verify_export
from ...models.cost import MODEL_COSTS
from ...models.loading import load_encoder_config
from ...models.tokenizers import save_tokenizer
from ...models.widths import widths_of
from ...plans.advice import depth_reason
from ...plans.budgets import FEWER_LAYERS_BELOW
from ...plans.resolve import resolve_plan
from ...tables import format_table, table_cells
from ...trainer import HomoDistilTrainer
from ...training.distillation_trainer import DistillationTrainer
from ...training.progress import ShortProgress
from ...training.run_folder import existing_files, folder_claimed
from ..kinds import trainer_named

TEACHER = Path(__file__).parent / "teacher"
MARKER_FILE = "demo.json"
_TRAINING_FOLDER = "training"
_STUDENT = "macs=0.0625"
"""Few enough that the way to prune matters: down to a quarter both end level."""
_STUDENTS = {
    "student": ("homodistil", "HomoDistil, pruned a little at a time"),
    "at_once": ("one_shot", "pruned before the first step"),
    "scratch": ("scratch", "from random weights, on masked words alone"),
}
"""Student → its method, and words for it."""
_MADE_BY = "homodistil demo"
_NUM_PREDICTIONS = 3
_LEGEND = """
teacher: comes with the package. student: HomoDistil, pruned a little at a time while it is distilled.
at_once: same widths and steps, pruned before the first step (method one_shot), so its first steps compute less.
scratch: the same from random weights and without the teacher, so a step computes less.
So small a student shows best how to prune; a quarter of the MACs keeps far more, either way (docs/results.md).
encoder MACs: multiplications a token. latency: 8 blocks of text in torch; the students are of one shape.
KL: how far predictions are from the teacher's, 0 is the same. MLM accuracy: share of masked words that are guessed.
Both are measured on text that none of the four was trained on."""
_SENTENCES = (
    "Return the [MASK] of the given string.",
    "If the file does not [MASK], an error is raised.",
    "This function is used to [MASK] the data.",
    "The default [MASK] is None.",
)
# Half of all English text consists of words like these; tables, signatures and listings do not.
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """the of to and a in is for that be this with are it as by on or from an can not if which will at when has
        have was should its must than may into used but all one you any each only there they""",
    )
)
_MIN_WORDS = 8
_MIN_FUNCTION_WORD_FRACTION = 0.2
_MIN_LETTER_FRACTION = 0.85
_SKIPPED_FOLDERS = {"test", "tests", "idlelib", "site-packages", "dist-packages"}
_HELD_OUT_EVERY = 16


@dataclass(frozen=True)
class DemoSettings:
    """Everything the demo depends on; the batch is in blocks."""

    output_dir: str = "runs/demo"
    seed: int = 0
    max_steps: int = 250
    batch_size: int = 32
    num_eval_blocks: int = 256

    def __post_init__(self) -> None:
        for name, value, least in (("max_steps", self.max_steps, 10), ("seed", self.seed, 0)):
            if value < least:
                raise ValueError(f"{name}={value} is too small; nearest valid: {least}")


def run_demo(settings: DemoSettings, files: Mapping[str, Path] | None = None) -> list[dict[str, Any]]:
    """Run the demo, print what came out, and return the rows of `results.json`.

    Args:
        settings: the demo's.
        files: source files by name whose text is read. Default: those of the standard library.

    Raises:
        ValueError: `output_dir` holds something that is not the demo's or is in use by another process, or an export
            is not what it should be.
    """
    check_writable(settings.output_dir, f"output_dir={settings.output_dir!r}")
    with folder_claimed(settings.output_dir, is_main=True):
        return _run(settings, Path(settings.output_dir), files or source_files())


def _run(settings: DemoSettings, folder: Path, files: Mapping[str, Path]) -> list[dict[str, Any]]:
    start = time.perf_counter()
    claim_folder(settings)
    print("1/4  text: this Python's standard library, its strings and comments; one file in 16 is only measured on")
    blocks = prepare_blocks(settings, files)
    copy_teacher(folder / "teacher")
    trainers: dict[str, DistillationTrainer] = {}
    config = load_encoder_config(str(folder / "teacher"))
    plan = resolve_plan(_STUDENT, config, fewer_layers_below=FEWER_LAYERS_BELOW)
    widths = plan.to_json(of_layers=config.num_hidden_layers)  # the same of all three
    for number, (name, (_, words)) in enumerate(_STUDENTS.items(), start=2):
        print(f"{number}/4  {name}: {words}; {_STUDENT} of the teacher, {settings.max_steps} steps")
        if number == 2 and (reason := depth_reason(_STUDENT, plan, widths_of(config))):
            print(f"     {reason}")
        trainers[name] = train_student(name, widths, blocks, settings)
    print("4/4  loading the student with stock transformers in a fresh process")
    report = verify_export(folder / "student")
    if not report.ok:
        raise ValueError(f"folder={str(folder / 'student')!r} is not what it should be: {'; '.join(report.problems)}")
    rows = _rows(folder, trainers)
    write_json(folder / RESULTS_FILE, rows)
    headings, *cells = table_cells(rows)
    of_student = folder / _TRAINING_FOLDER / "student"
    write_json(of_student / RESULTS_FILE, {TABLES: [{"title": "All four", "headings": headings, "rows": cells}]})
    write_report(of_student, folder / "student", output=folder / REPORT_FILE)
    # until here a demo that is stopped goes on from its checkpoints
    remove_folder(folder / _TRAINING_FOLDER)
    _print_outcome(folder, rows)
    print(f"all in {folder}/, {time.perf_counter() - start:,.0f} s\n\n{verdict(rows)}\n{folder / REPORT_FILE}\n")
    print(next_steps(folder))
    return rows


def verdict(rows: list[dict[str, Any]]) -> str:
    """Two lines: what the student has won, and what the same size from scratch keeps."""
    teacher, student, *_ = rows
    accuracies = [{"mlm_accuracy": row["mlm_accuracy"]} for row in rows]
    latency = {"teacher_ms": teacher["latency_ms"], "student_ms": student["latency_ms"]}
    facts = {"teacher": teacher, "student": student, LATENCY: latency, "teacher_evaluation": accuracies[0]}
    from_scratch = {"teacher_evaluation": accuracies[0], "evaluation": accuracies[-1]}
    return (
        f"student: {outcome_line(facts | {'evaluation': accuracies[1]})}\n"
        f"the same size from scratch: {outcome_line(from_scratch)}"
    )


def next_steps(folder: Path) -> str:
    """Three lines: use this student, choose a size for a model of one's own, and distil that."""
    use = f"from transformers import pipeline; print(pipeline('fill-mask', '{folder}/student')('{_SENTENCES[0]}'))"
    return (
        f'use this student:   python -c "{use}"\n'
        f"size up your own:   homodistil plan --teacher YOUR_MODEL --student macs=0.25\n"
        f"distil your model:  homodistil distill --teacher YOUR_MODEL --student macs=0.25"
        " --train_data 'YOUR_TEXT/*.txt' --max_steps 1000 --output_dir runs/mine"
    )


def claim_folder(settings: DemoSettings) -> None:
    """Mark a folder as this demo's; a ValueError where it holds something that no earlier demo wrote."""
    folder = Path(settings.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir={str(folder)!r} is a file; name a folder")
    marker, earlier = folder / MARKER_FILE, {}
    with suppress(OSError, ValueError):
        earlier = read_json_object(marker, MARKER_FILE)
    if existing_files(str(folder)) and earlier.get("made_by") != _MADE_BY:
        raise ValueError(
            f"output_dir={str(folder)!r} is not empty and was not written by homodistil demo; name another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    marks = {"made_by": _MADE_BY, "settings": dataclasses.asdict(settings)}
    # checkpoints of other settings would be gone on with
    if earlier.get("settings") != marks["settings"]:
        remove_folder(folder / _TRAINING_FOLDER)
    write_json(marker, marks)


def prepare_blocks(settings: DemoSettings, files: Mapping[str, Path]) -> dict[str, Dataset]:
    """Read the text, and cut it into blocks of the teacher's length: to `train` on, and `held_out`."""
    tokenizer = AutoTokenizer.from_pretrained(TEACHER)
    train, held_out = (
        tokenize_to_blocks(Dataset.from_dict({"text": part}), tokenizer, max_seq_length=tokenizer.model_max_length)
        for part in read_documents(files)
    )
    num_eval_blocks = min(settings.num_eval_blocks, len(held_out))
    return {"train": train, "held_out": held_out.shuffle(seed=0).select(range(num_eval_blocks))}


def copy_teacher(folder: Path) -> None:
    """Write the package's teacher in float32, as its students will be."""
    AutoModelForMaskedLM.from_pretrained(TEACHER, dtype=torch.float32).save_pretrained(folder)
    save_tokenizer(AutoTokenizer.from_pretrained(TEACHER), folder)
    shutil.copy(TEACHER / CARD_FILE, folder)  # which has its licence


def train_student(
    name: str, widths: str, blocks: Mapping[str, Dataset], settings: DemoSettings
) -> DistillationTrainer:
    """Train and evaluate a student of `_STUDENTS`, and export it to the folder of its name."""
    folder = Path(settings.output_dir)
    place = folder / _TRAINING_FOLDER / name
    checkpoint = last_checkpoint(place)
    kind = trainer_named(_STUDENTS[name][0])
    # Students of this small teacher end so near to it that the default would drown out the KL.
    weights: dict[str, Any] = {"hidden_weight": 10.0} if issubclass(kind, HomoDistilTrainer) else {}
    arguments = kind.arguments_class(
        output_dir=str(place),
        student=widths,
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=64,
        bf16=multiplies_bfloat16(torch.device("cpu")),
        use_cpu=True,
        seed=settings.seed,
        eval_strategy="steps",
        eval_steps=max(1, settings.max_steps // 10),
        eval_on_start=checkpoint is None,  # Trainer would evaluate wherever a run goes on
        logging_strategy="no",
        save_strategy="steps",
        save_steps=settings.max_steps,
        overwrite_output_dir=True,
        report_to="none",
        **weights,
    )
    trainer = kind(
        str(folder / "teacher"),
        arguments,
        train_dataset=blocks["train"],
        eval_dataset=blocks["held_out"],
        processing_class=AutoTokenizer.from_pretrained(folder / "teacher"),
    )
    trainer.run_folder.how_to_resume = "the same command"
    trainer.train(checkpoint)
    trainer.remove_callback(ShortProgress)  # the outcome is told below, of the folder that stays
    trainer.evaluate()
    trainer.evaluate_teacher()
    trainer.export(folder / name)
    return trainer


def _rows(folder: Path, trainers: dict[str, DistillationTrainer]) -> list[dict[str, Any]]:
    facts = {name: read_facts(folder / name) for name in trainers}
    costs = {"teacher": facts["student"]["teacher"]} | {name: facts[name]["student"] for name in trainers}
    latency = facts["student"][LATENCY]  # as the report has it; the students are of one shape
    measured = {name: trainer.held_out_metrics for name, trainer in trainers.items()}
    measured["teacher"] = dict(trainers["student"].teacher_evaluation)
    return [
        {
            "name": name,
            **{cost: found[cost] for cost in MODEL_COSTS},
            "latency_ms": latency["teacher_ms" if name == "teacher" else "student_ms"],
            **{metric: measured[name][metric] for metric in ("kl", "mlm_accuracy")},
        }
        for name, found in costs.items()
    ]


def _print_outcome(folder: Path, rows: list[dict[str, Any]]) -> None:
    print(f"\n{format_table(rows)}\n{_LEGEND}\n")
    fills = {}
    for name in ("teacher", "student"):
        fills[name] = pipeline("fill-mask", model=str(folder / name), tokenizer=str(folder / name), device="cpu")
    for sentence in _SENTENCES:
        print(sentence)
        for name, fill in fills.items():
            words = [guess["token_str"] for guess in fill(sentence, top_k=_NUM_PREDICTIONS)]
            print(f"  {name.ljust(8)} {', '.join(words)}")


# The text: source files are parsed, never imported, so nothing in them runs. A file's name alone decides whether it is
# training text or held-out text. So no machine trains a student on text that the teacher's machine held out.


def source_files() -> dict[str, Path]:
    """Name and path of the Python files of the standard library, without its tests, by name."""
    return python_files(Path(sysconfig.get_path("stdlib")))


def python_files(root: Path) -> dict[str, Path]:
    """Name and path of the Python files under a folder, without tests and installed packages, by name."""
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    return {name: root / name for name in names if not _SKIPPED_FOLDERS & set(name.split("/"))}


def is_held_out(name: str) -> bool:
    """Whether a source file's text is for measuring: one in 16, by its name."""
    return hashlib.sha256(name.encode()).digest()[0] % _HELD_OUT_EVERY == 0


def read_documents(files: Mapping[str, Path]) -> tuple[list[str], list[str]]:
    """Training documents and held-out ones, no paragraph twice.

    Args:
        files: path of each file by its name.

    Returns:
        `tuple[list[str], list[str]]`: one document a source file that has any text, paragraphs separated by a newline.

    Raises:
        ValueError: there is no text.
    """
    documents: tuple[list[str], list[str]] = ([], [])
    seen: set[str] = set()
    # training files come first, so held-out text has no paragraph of theirs
    for name in tqdm(sorted(files, key=is_held_out), desc="Reading the standard library", unit=" files"):
        new = {text.casefold(): text for text in english_paragraphs(files[name]) if text.casefold() not in seen}
        seen.update(new)
        if new:
            documents[is_held_out(name)].append("\n".join(new.values()))
    if not all(documents):
        raise ValueError(f"num_files={len(files)}: this Python's standard library has no source text; use another")
    return documents


def english_paragraphs(path: Path) -> list[str]:
    """The English paragraphs in one source file's strings and comments, without line breaks.

    A file that this Python can't parse has none.
    """
    try:
        source = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    strings = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    # lines of comments that follow each other are one text, without their marks
    comments = [re.sub(r"(?m)^\s*#+", "", lines) for lines in re.findall(r"(?m)(?:^[ \t]*#.*\n)+", source)]
    blocks = (block for text in strings + comments for block in re.split(r"\n\s*\n", text))
    # examples of the interpreter are no prose
    paragraphs = (" ".join(block.split()) for block in blocks if ">>>" not in block)
    return [paragraph for paragraph in paragraphs if is_english(paragraph)]


def is_english(paragraph: str) -> bool:
    """Whether a paragraph without line breaks is plain prose rather than a table, a signature or code.

    Example:
    ```python
    >>> is_english("Return the number of bytes that are left in the buffer.")
    True
    >>> is_english("x : array_like, shape (n, m), dtype=float64, default=None, y : int")
    False

    ```
    """
    words = paragraph.split()
    if len(words) < _MIN_WORDS or not paragraph.isascii():
        return False
    num_function_words = sum(word.lower().strip(".,;:()") in _FUNCTION_WORDS for word in words)
    num_letters = sum(character.isalpha() or character == " " for character in paragraph)
    return num_function_words >= _MIN_FUNCTION_WORD_FRACTION * len(
        words
    ) and num_letters >= _MIN_LETTER_FRACTION * len(paragraph)
