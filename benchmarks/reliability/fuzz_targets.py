"""The targets of the fuzzer: a function each, called once a case with the target's folder; it returns or raises.

Most read a damaged copy of a folder ([`copies_of`]). Valid input is in fuzz_samples.py, its damage in
fuzz_mutations.py.
"""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
from datasets import Dataset
from transformers import BertConfig, TrainerState

from benchmarks.reliability import fuzz_given as given
from benchmarks.reliability import fuzz_mutations as damage
from benchmarks.reliability import fuzz_samples as samples
from benchmarks.sweep.cells import Choice, Sweep
from benchmarks.sweep.folder import SweepFolder
from benchmarks.sweep.running import SweepRun, write_table
from benchmarks.sweep.training import RunClock
from homodistil_hf import export_student, load_text, resolve_plan, tokenize_to_blocks
from homodistil_hf.cli import main
from homodistil_hf.data.blocks import TextPacker
from homodistil_hf.data.masking import MaskedLMCollator
from homodistil_hf.data.samples import unlabeled_batches
from homodistil_hf.evaluation.fine_tuning import OwnTaskSettings, encoded_rows
from homodistil_hf.evaluation.fine_tuning import own_rows as labelled_rows
from homodistil_hf.export.export_folder import check_target, checkpoint_student
from homodistil_hf.export.facts import FACTS_FILE, read_facts
from homodistil_hf.export.hub import card_for, files_to_push
from homodistil_hf.files import checkpoints
from homodistil_hf.homodistil_args import HomoDistilTrainingArguments
from homodistil_hf.models.cost import planned_facts
from homodistil_hf.models.loading import load_encoder, load_encoder_config
from homodistil_hf.models.tokenizers import check_tokenizer, load_tokenizer, stored_tokenizer
from homodistil_hf.plans.budgets import plan_for_budget
from homodistil_hf.plans.resolve import PRESETS
from homodistil_hf.runs import distill as family
from homodistil_hf.runs.config import parse_run, run_of
from homodistil_hf.tasks.columns import Columns
from homodistil_hf.tasks.glue import SQUAD_TASKS, load_task
from homodistil_hf.tasks.kinds import VALUES
from homodistil_hf.tasks.rows_task import RowsTask
from homodistil_hf.vocabulary.selection import Vocabulary, select
from homodistil_hf.vocabulary.trimming import candidates, trim_tokenizer


@dataclass(frozen=True)
class Target:
    """One thing that reads what others wrote, its share of all cases, and its time limit."""

    case: Callable[[Path, Random], None]
    share: int
    limit_s: float = 20.0


def copies_of(
    make: Callable[[Path], None],
    read: Callable[[Path, Random], object],
    *,
    files: str = "*",
    parts: Sequence[str] = ("",),
    changed: Sequence[str] = ("out",),
) -> Callable[[Path, Random], None]:
    """A target of a folder that is made once: a case damages a file in a copy, and reads the copy.

    Args:
        make: writes the folder.
        read: reads `target`, the copy; it may write into `out` beside it.
        files: pattern of the files of which one is damaged.
        parts: folders in the made one, of which one is copied.
        changed: what may have changed when the case ends.
    """

    def case(folder: Path, draw: Random) -> None:
        source, target = folder / "source", folder / "target"
        make(source)
        damage.emptied(folder / "out")
        shutil.copytree(source / draw.choice(parts), damage.emptied(target), dirs_exist_ok=True)
        damage.folder_damaged(target, draw, files)
        with outside_stays(folder, [folder / name for name in changed]):
            read(target, draw)

    return case


# Settings


def config_files(folder: Path, draw: Random) -> None:
    """JSON run configs, key by key."""
    path = folder / "config.json"
    damage.write_mutated(path, samples.run_config(folder), draw)
    place = draw.choice((str(path),) * 19 + (*damage.PATHS, str(folder)[:-1])[draw.randrange(5) :][:1])
    parse_run([place])


def flags(folder: Path, draw: Random) -> None:
    """Whole command lines of `distill`, config and flags."""
    values, path = samples.run_config(folder), folder / "config.json"
    names = [entry.name for entry in fields(HomoDistilTrainingArguments) if entry.init]
    config = damage.mutated(values, draw) if draw.random() < 0.5 else values
    damage.write_hostile(path, damage.json_bytes(config, draw), draw)
    words = [str(path)] if draw.random() < 0.9 else []
    for _ in range(draw.randrange(4)):
        name = draw.choice((*names, "teacher", "train_data", "no_such", "kl_weight", draw.choice(damage.STRINGS)))
        value = damage.hostile_value(draw)
        words += draw.choice(([f"--{name}", str(value)], [f"--{name}={value}"], [f"--{name}"], [str(value)]))
    parse_run(words)


STOCK = ("learning_rate", "adam_epsilon", "warmup_steps", "dataloader_drop_last", "ddp_find_unused_parameters")
STOCK += ("logging_nan_inf_filter",)


def arguments(folder: Path, draw: Random) -> None:
    """This package's own settings, given from Python."""
    make = partial(HomoDistilTrainingArguments, output_dir=str(folder / "run"), report_to="none", use_cpu=True)
    own = sorted(make().own_settings().keys() - STOCK)
    make(**{name: damage.hostile_value(draw) for name in draw.sample(own, draw.choice((1, 1, 2, 3)))})


# Plans and budgets


def plans(folder: Path, draw: Random) -> None:
    """Plans as mappings, as JSON text and in files; presets; misspelt ones."""
    deeper = samples.SHAPE | {"num_hidden_layers": 5, "hidden_size": 24}
    configs = [BertConfig(**samples.SHAPE), BertConfig(), BertConfig(**deeper)]
    path = folder / "plan.json"
    values = damage.mutated(draw.choice((samples.PLAN, samples.UNEVEN)), draw)
    content = damage.json_bytes(values, draw)
    damage.write_hostile(path, content, draw)
    text, name = content.decode("utf-8", "surrogateescape"), draw.choice((*PRESETS, "homobert-tny", *damage.STRINGS))
    student = draw.choice((values, values, values, values, text, text, str(path), name))
    resolve_plan(student, draw.choice(configs), multiple=draw.choice((1, 3, 8, 8, 64)))


def budgets(folder: Path, draw: Random) -> None:
    """Budget strings, and what they are rounded to."""
    odd = samples.SHAPE | {"hidden_size": 42, "num_attention_heads": 7}
    configs = [BertConfig(**samples.SHAPE), BertConfig(**odd)]
    any_number = str(damage.hostile_value(draw))
    number = draw.choice((any_number, f"{draw.uniform(0, 1.2):.4g}", "9" * draw.randrange(1, 20_000)))
    word = draw.choice(("params", "macs", "macs", "ms", draw.choice(damage.STRINGS)))
    student = (
        word + draw.choice(("=", " = ", "==")) + number + draw.choice(("", "k", "K", "M", "B", "G", "%", "kk", "\0"))
    )
    multiple = draw.choice((1, 3, 8, 8, 8, *(n for n in damage.NUMBERS if isinstance(n, int))))
    plan_for_budget(student, draw.choice(configs), multiple=multiple)


# Models on disk


def teacher_configs(folder: Path, draw: Random) -> None:
    """`config.json` of stock and student models, per-layer widths included."""
    damage.write_mutated(folder / "config.json", draw.choice(samples.model_configs()), draw)
    config = load_encoder_config(str(folder) if draw.random() < 0.95 else draw.choice(damage.STRINGS))
    plan = resolve_plan(draw.choice(("macs=0.5", json.dumps(samples.PLAN), "homobert-tiny")), config)
    planned_facts(config, (config.architectures or ["BertForMaskedLM"])[0], plan)


def read_weights(target: Path, draw: Random) -> None:
    """A model in one file or several, with an index."""
    load_encoder(str(target))


def read_tokenizer(target: Path, draw: Random) -> None:
    """A tokenizer beside a model, written to an export; then it reads texts for every task."""
    tokenizer, texts = load_tokenizer(target), ["w7 w8 w9 " * 9, "w5"]
    export_student(samples.tiny_teacher(), target.with_name("out") / "student", tokenizer=tokenizer)
    check_tokenizer(tokenizer, BertConfig(**samples.SHAPE))
    blocks = tokenize_to_blocks(Dataset.from_dict({"text": texts * 9}), tokenizer, max_seq_length=16)
    MaskedLMCollator(tokenizer)(blocks.to_list())
    unlabeled_batches([texts], tokenizer, max_length=16)
    task = RowsTask(Columns(VALUES, ("text", "other"), ("label",)))
    encoded_rows(task, Dataset.from_list(samples.NUMBERED_ROWS), tokenizer, 16)
    encoded_rows(SQUAD_TASKS["squad_v2"], Dataset.from_list(samples.QUESTIONS), tokenizer, 16)


def read_embedding(target: Path, draw: Random) -> None:
    """A folder of sentence-transformers, as a teacher."""
    from homodistil_hf.embedding.model import default_activation, load_embedding_model
    from homodistil_hf.runs.kinds import method_of_model

    method_of_model(target)
    default_activation(target)
    load_embedding_model(target).encode(["w7 w8", "", "w9 " * 40], prompt_name=draw.choice((None, "query", "x")))


def vocabularies(folder: Path, draw: Random) -> None:
    """A `tokenizer.json` of each kind, and what a user wants of it."""
    kind = draw.choice(tuple(samples.VOCABULARIES))
    content = {**samples.AROUND_VOCABULARY, "model": {"type": kind, **samples.VOCABULARIES[kind]}}
    damage.write_mutated(folder / "tokenizer.json", content, draw)
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    tokenizer = stored_tokenizer(folder)
    if tokenizer is None:
        return
    config = BertConfig(**samples.SHAPE)
    ids, required, needs = candidates(tokenizer, config)
    file, tokens = folder / "tokens.txt", draw.choice(("ab\n", "abc\nb\n", *damage.STRINGS))
    file.write_text(tokens, encoding="utf-8", errors="replace")
    text = draw.choice(("keep=8", "keep=9", "min_count=2", str(file), f"keep={damage.hostile_value(draw)}"))
    counts = np.array([draw.randrange(5) for _ in range(max(ids.values(), default=0) + 1)])
    trim_tokenizer(tokenizer, config, select(Vocabulary.parse(text), ids, required, needs, counts))


# Checkpoints and exports


def read_checkpoint(run: Path, draw: Random) -> None:
    """A student in the middle of pruning."""
    checkpoints.last_checkpoint(run)
    name = draw.choice((*["checkpoint-8"] * 12, "checkpoint-4", *damage.PATHS[4:]))
    checkpoint, format = checkpoints.check_manifest(run / name), draw.choice(("standard", "compact"))
    checkpoint_student(checkpoint, format=format, allow_partial=True)


def replace_export(target: Path, draw: Random) -> None:
    """An export that is read, converted or about to be replaced."""
    read_facts(target)
    check_target(target, overwrite=True)


def verify(target: Path, draw: Random) -> None:
    """`homodistil verify`."""
    run_command(["verify", str(target)])


def export_embedding(target: Path, draw: Random) -> None:
    """`homodistil verify | export` over exports of embedding models, and one that gets scores."""
    from homodistil_hf.embedding.folder import publish_scores

    source, output = target.with_name("source"), target.with_name("out")
    shutil.copytree(source, output, dirs_exist_ok=True)
    words = ["export", str(target), "--output", str(output), "--overwrite", "--teacher", str(source)]
    run_command(draw.choice((["verify", str(target)], words, [*words, "--format", "pair"])))
    publish_scores(target, {"models": {}, "scores": {"sts": {"spearman": {"student": 0.5}}}})


# Runs that go on


def family_states(folder: Path, draw: Random) -> None:
    """`family.json` of a family that goes on, up to where a member would be trained."""
    samples.save_model(folder / "teacher")
    values = samples.run_config(folder) | {"student": ["macs=0.5", samples.PLAN], "resume_from_checkpoint": "last"}
    plans = [{"hidden_size": 12, "num_attention_heads": 2, "head_dim": 6, "intermediate_size": 24}, samples.PLAN]
    settings = run_of(values, "family")
    state = {"teacher": values["teacher"], "students": settings.given["student"], "plans": plans}
    state["finished"] = [Path(settings.members[0].training.output_dir).name]
    damage.emptied(folder / "run")
    damage.write_mutated(folder / "run" / family.FAMILY_FILE, state, draw)
    damage.write_mutated(folder / "run" / "settings.json", values, draw)
    with patch.object(family, "_train_member", side_effect=OwnExit), contextlib.suppress(OwnExit):
        family.distill_family(settings, str)


def sweep_records(folder: Path, draw: Random) -> None:
    """The record and the marker of a sweep's cell: its state, and the table."""
    place = SweepFolder(damage.emptied(folder / "sweep"))
    files = [place.record(samples.CELL), place.run(samples.CELL) / "cell.json"]
    for file in draw.choice((files, files[:1], files[1:])):
        file.parent.mkdir(parents=True)
        damage.write_mutated(file, samples.RECORD, draw)
    choose = draw.choice((None, Choice("learning_rate", "kl", ("variant", "student"))))
    sweep = Sweep("sweep", "", "sweep", (samples.CELL,), choose, {"glue": {"tasks": ["rte"]}})
    run = SweepRun(sweep, sweep.cells, place, {})
    run.state(samples.CELL)
    write_table(run)


def clocks(folder: Path, draw: Random) -> None:
    """The clock of a sweep's run that goes on."""
    damage.write_mutated(folder / "clock.json", {"num_sessions": 2, "seconds": {"4": 10.5, "8": 21.0}}, draw)
    clock = RunClock(folder / "clock.json")
    for event in clock.on_train_begin, clock.on_save, clock.on_train_end:
        event(None, TrainerState(global_step=8), None)


def foreign_names(folder: Path, draw: Random) -> None:
    """Records with names that lead out of their folder, and links: nothing else is opened, changed or given away."""
    source, target, output = folder / "source", folder / "target", damage.emptied(folder / "out")
    samples.make_outputs(source)
    samples.make_embedding(source / "embedding")
    shutil.copytree(source / draw.choice((*_ANY_PART, "embedding")), damage.emptied(target), dirs_exist_ok=True)
    elsewhere, path = given.forge(target, draw), str(target)
    words = [["verify", path], ["export", path, "--output", str(output / "student"), "--allow_partial"]]
    words += [["report", path, "--output", str(output / "report.html")], ["plan", "--teacher", path]]
    words += [[*words[1][:2], "--output", path, "--overwrite"]]
    words += [["deploy", path, "--to", "onnx", "--num_rounds", "0"]] if draw.random() < 0.1 else []
    with outside_stays(folder, [output, target]), given.opening_nothing_of(elsewhere, target, output):
        if draw.random() < 0.3:
            files_to_push(target)
            card_for(target, "me/mine")
        else:
            run_command(draw.choice(words))


def some_command(target: Path, draw: Random) -> None:
    """`homodistil verify | export | report | plan`, in this process."""
    output = target.with_name("out")
    path = str(target) if draw.random() < 0.95 else draw.choice((*damage.PATHS, str(target / "config.json")))
    students = "macs=0.5", json.dumps(samples.PLAN), str(target / "config.json"), draw.choice(damage.STRINGS)
    format = draw.choice(("standard", "compact", "compact", "x"))
    export = ["export", path, "--output", str(output / "student"), "--format", format, "--allow_partial"]
    report = ["report", path, "--output", str(output / "report.html")]
    plan = ["plan", "--teacher", path, "--student", draw.choice(students), *draw.choice(([], ["--json"]))]
    run_command(draw.choice((["verify", path], export, export, export, plan, report)))


def run_command(words: Sequence[str]) -> None:
    """Run the command line; anything but its exit codes, or a traceback on its lines, is an error."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
    if code == 2 and "homodistil: error: " in printed.getvalue():
        raise OwnExit
    if code not in (0, 1):
        raise RuntimeError(f"exit code {code!r} of {words}: {printed.getvalue()[-500:]}")
    if "Traceback (most recent call last)" in printed.getvalue():
        raise RuntimeError(f"a traceback was printed by {words}: {printed.getvalue()[-500:]}")


class OwnExit(Exception):
    """The command line printed an error message of its own and ended with 2."""


# Text


def rows(folder: Path, draw: Random) -> None:
    """Rows that reach the collator."""
    valid = [{"input_ids": [2, 7, 8, 9, 3], "example_id": 5, "attention_mask": [1] * 5, "token_type_ids": [0] * 5}] * 2
    MaskedLMCollator(samples.tiny_tokenizer())(damage.mutated(valid, draw))


def texts(folder: Path, draw: Random) -> None:
    """Texts that reach the tokenizer."""
    packer = TextPacker(samples.tiny_tokenizer(), 8, "text")
    text, value = damage.hostile_text, damage.hostile_value
    packer([draw.choice((text(draw), text(draw), None, value(draw))) for _ in range(3)])


def corpora(folder: Path, draw: Random) -> None:
    """Files, folders, globs, archives and links that are named as training text."""
    data = damage.emptied(folder / "data")
    for index in range(draw.choice((1, 1, 2))):
        name = draw.choice(("a", "train-0", "test", "ä b", "x[1]*")) + str(index)
        content = draw.choice((damage.file_content(draw), damage.file_content(draw), b"w7 w8 w9 " * 120))
        damage.write_hostile(data / f"{name}{draw.choice(_SUFFIXES)}", content, draw)
    if draw.random() < 0.2:
        for loop in "loop", "again", "third":
            (data / loop).symlink_to(draw.choice((data, folder, data / loop)))
    pattern = draw.choice(("", "*", "**/*.txt", "*.txt", "**", "[", "a0.txt", "../*/*.txt", draw.choice(damage.PATHS)))
    source: Any = os.path.join(data, pattern) if draw.random() < 0.95 else damage.hostile_value(draw)
    column = draw.choice((None, None, "text", "x"))
    documents = load_text(source, streaming=draw.random() < 0.5, text_column=column)
    list(tokenize_to_blocks(documents, samples.tiny_tokenizer(), max_seq_length=16).take(3))


def squad_rows(folder: Path, draw: Random) -> None:
    """Questions in every form, up to the windows that a model learns from."""
    data, suffix = damage.emptied(folder / "data"), draw.choice((".json", ".json", ".jsonl", ".parquet"))
    rows = draw.choice((samples.QUESTIONS, samples.ARTICLES)) if suffix == ".json" else samples.QUESTIONS
    damage.write_hostile(data / f"train{suffix}", damage.table_bytes(rows, suffix, draw), draw)
    (data / "dev.json").write_text(json.dumps({"data": samples.ARTICLES}), encoding="utf-8")
    found = load_task(draw.choice(("squad", "squad_v2")), data)
    encoded_rows(SQUAD_TASKS["squad_v2"], found.train, samples.tiny_tokenizer(), 16)


def own_rows(folder: Path, draw: Random) -> None:
    """Labelled rows of one's own, up to the tokens that a model learns from."""
    paths = [folder / f"{split}{draw.choice(('.csv', '.json', '.jsonl', '.parquet'))}" for split in ("train", "dev")]
    rows = draw.choice((samples.OWN_ROWS, samples.NUMBERED_ROWS))
    for path in paths:
        damage.write_hostile(path, damage.table_bytes(rows, path.suffix, draw), draw)
    columns = draw.choice((("text",), ("text", "other"), (draw.choice(damage.STRINGS),)))
    files = {"train_data": str(paths[0]), "eval_data": str(paths[1]), "output_dir": "x"}
    task, train, dev = labelled_rows(OwnTaskSettings(model="x", text_columns=columns, **files), str)
    for part in train, dev:
        encoded_rows(task, part, samples.tiny_tokenizer(), 16)


_SUFFIXES = (".txt", ".txt", ".txt", ".jsonl", ".json", ".parquet", ".gz", ".zip", ".TXT", "", ".csv")


@contextlib.contextmanager
def outside_stays(sandbox: Path, outputs: Sequence[Path]) -> Iterator[None]:
    """Nothing in `sandbox` but the outputs may have changed afterwards."""

    def listing() -> set[tuple[str, int, int]]:
        paths = (path for path in sandbox.rglob("*") if not any(path.is_relative_to(output) for output in outputs))
        found = ((path, path.lstat()) for path in paths)
        return {(str(path), one.st_size, 0 if path.is_dir() else one.st_mtime_ns) for path, one in found}

    before = listing()
    try:
        yield
    finally:
        if (after := listing()) != before:
            raise RuntimeError(f"written outside the output folder: {sorted(before.symmetric_difference(after))[:3]}")


_ANY_PART = ("standard", "compact", "run", "run/checkpoint-4")

TARGETS = {
    "config_files": Target(config_files, 8_000),
    "flags": Target(flags, 800),
    "arguments": Target(arguments, 12_000),
    "plans": Target(plans, 36_000),
    "budgets": Target(budgets, 24_000),
    "teacher_configs": Target(teacher_configs, 8_000),
    "weights": Target(copies_of(samples.make_models, read_weights, parts=("whole", "parts"), files="model*"), 1_700),
    "tokenizers": Target(copies_of(samples.save_model, read_tokenizer, files="token*"), 700),
    "vocabularies": Target(vocabularies, 3_000),
    "checkpoints": Target(copies_of(samples.make_run, read_checkpoint, files="checkpoint-8/*"), 3_000),
    "facts": Target(copies_of(samples.make_export, replace_export, files=FACTS_FILE), 1_200),
    "command_lines": Target(copies_of(samples.make_outputs, some_command, parts=_ANY_PART), 40, limit_s=300),
    "packed_folders": Target(copies_of(samples.make_packed, verify), 220, limit_s=300),
    "embedding_folders": Target(copies_of(samples.make_embedding, read_embedding), 220),
    "embedding_exports": Target(
        copies_of(samples.make_embedding, export_embedding, changed=("out", "target")), 100, limit_s=300
    ),
    "family_states": Target(family_states, 100),
    "sweep_records": Target(sweep_records, 120, limit_s=60),
    "clocks": Target(clocks, 120),
    "rows": Target(rows, 18_000),
    "texts": Target(texts, 800),
    "corpora": Target(corpora, 600, limit_s=60),
    "tables": Target(given.tables, 600),
    "word_lines": Target(given.word_lines, 600),
    "spans": Target(given.spans, 2_000),
    "label_cells": Target(given.label_cells, 400),
    "foreign_names": Target(foreign_names, 200, limit_s=300),
    "squad_rows": Target(squad_rows, 400),
    "own_rows": Target(own_rows, 400),
}
