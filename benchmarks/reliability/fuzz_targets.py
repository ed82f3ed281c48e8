"""The targets of the fuzzer: one function each, called once a case with the target's folder; it returns or raises.

Valid input is in fuzz_samples.py, its damage in fuzz_mutations.py.
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
from safetensors.torch import load_file, save_file
from transformers import BertConfig, TrainerState

from benchmarks.reliability import fuzz_mutations as damage
from benchmarks.reliability import fuzz_samples as samples
from homodistil_hf import export_student, load_text, resolve_plan, tokenize_to_blocks
from homodistil_hf.cli import main
from homodistil_hf.data.blocks import TextPacker, check_tokenizer
from homodistil_hf.data.masking import MaskedLMCollator
from homodistil_hf.data.samples import unlabeled_batches
from homodistil_hf.evaluation.own_task import OwnTaskSettings, rows_of
from homodistil_hf.evaluation.squad import training_windows
from homodistil_hf.evaluation.task_data import GlueTask, encode, load_squad
from homodistil_hf.experiments import family
from homodistil_hf.experiments.config import parse_run, run_of
from homodistil_hf.experiments.sweep.cells import Choice, Sweep
from homodistil_hf.experiments.sweep.folder import SweepFolder
from homodistil_hf.experiments.sweep.running import SweepRun, write_table
from homodistil_hf.experiments.sweep.training import RunClock
from homodistil_hf.export.export_folder import check_target
from homodistil_hf.export.facts import FACTS_FILE, read_facts
from homodistil_hf.export.student_in_folder import checkpoint_student
from homodistil_hf.files import checkpoints
from homodistil_hf.files.settings import checked_values, setting_types, split_config
from homodistil_hf.files.tensors import WEIGHTS_FILE
from homodistil_hf.homodistil_args import HomoDistilTrainingArguments
from homodistil_hf.methods.run_arguments import RunArguments
from homodistil_hf.models.cost import planned_facts
from homodistil_hf.models.loading import load_encoder, load_encoder_config
from homodistil_hf.models.tokenizers import load_tokenizer, stored_tokenizer
from homodistil_hf.plans.budgets import plan_for_budget
from homodistil_hf.plans.resolve import PRESETS
from homodistil_hf.training.checks import own_settings
from homodistil_hf.vocabulary.selection import Vocabulary, select
from homodistil_hf.vocabulary.trimming import candidates, trim_tokenizer


@dataclass(frozen=True)
class Target:
    """One thing that reads what others wrote, its share of all cases, and its time limit."""

    case: Callable[[Path, Random], None]
    share: int
    limit_s: float = 20.0


# Settings


def config_files(folder: Path, draw: Random) -> None:
    """JSON run configs, key by key."""
    path = folder / "config.json"
    damage.write_mutated(path, samples.run_config(folder), draw)
    place = draw.choice((str(path),) * 19 + (*damage.PATHS, str(folder)[:-1])[draw.randrange(5) :][:1])
    values, _, label = split_config([place])
    checked_values(values, setting_types(RunArguments, HomoDistilTrainingArguments), label)


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
    own = sorted(own_settings(make()).keys() - STOCK)
    make(**{name: damage.hostile_value(draw) for name in draw.sample(own, draw.choice((1, 1, 2, 3)))})


# Plans and budgets


def plans(folder: Path, draw: Random) -> None:
    """Plans as mappings, as JSON text and in files; presets; misspelt ones."""
    deeper = samples.SHAPE | {"num_hidden_layers": 5, "hidden_size": 24}
    configs = [BertConfig(**samples.SHAPE), BertConfig(), BertConfig(**deeper)]
    path = folder / "plan.json"
    values = damage.mutated(draw.choice((samples.PLAN, samples.UNEVEN)), draw)
    kind = draw.randrange(8)
    if kind < 4:
        student = values
    elif kind < 6:
        student = damage.json_bytes(values, draw).decode("utf-8", "surrogateescape")
    elif kind == 6:
        damage.write_hostile(path, damage.json_bytes(values, draw), draw)
        student = str(path)
    else:
        student = draw.choice((*PRESETS, "homobert-tny", *damage.STRINGS))
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


def weights(folder: Path, draw: Random) -> None:
    """Safetensors files of a model: headers, offsets, types, shapes."""
    content = samples.saved_model(folder)[WEIGHTS_FILE]
    damage.write_hostile(folder / WEIGHTS_FILE, damage.safetensors_bytes(content, draw), draw)
    load_encoder(str(folder))


def indexes(folder: Path, draw: Random) -> None:
    """Weights in several files, with an index that may name anything."""
    name = "model.safetensors.index.json"
    values = json.loads(samples.saved_model(folder, max_shard_size="8KB")[name])
    damaged = damage.mutated(values, draw)
    if isinstance(damaged, dict) and isinstance(damaged.get("weight_map"), dict) and draw.random() < 0.4:
        damaged["weight_map"][draw.choice(list(values["weight_map"]))] = draw.choice(damage.PATHS)
    damage.write_hostile(folder / name, damage.json_bytes(damaged, draw), draw)
    load_encoder(str(folder))


def tokenizers(folder: Path, draw: Random) -> None:
    """Tokenizer files beside a model, loaded and written to an export."""
    source = folder / "source"
    contents = {source / name: content for name, content in samples.saved_model(source).items() if "token" in name}
    for path, content in contents.items():
        damage.removed(path).write_bytes(content)
    path = draw.choice(list(contents))
    values = json.loads(contents[path])
    if path.name == "tokenizer_config.json" and draw.random() < 0.5:
        extra = draw.choice(("chat_template", "vocab_file", "tokenizer_file", "tokenizer_class", "auto_map"))
        templates = [{"name": draw.choice(damage.PATHS), "template": "x"}, {"name": "default", "template": "y"}]
        values[extra] = draw.choice((draw.choice(damage.STRINGS), {draw.choice(damage.PATHS): "x"}, templates))
    damage.write_mutated(path, values, draw)
    tokenizer = stored_tokenizer(source)
    if tokenizer is not None:
        with outside_stays(folder, damage.emptied(folder / "out")):
            export_student(samples.tiny_teacher(), folder / "out" / "student", tokenizer=tokenizer)


def tokenizer_configs(folder: Path, draw: Random) -> None:
    """`tokenizer_config.json` of a tokenizer that then reads texts for every task."""
    contents = samples.saved_model(folder)
    values = json.loads(contents["tokenizer_config.json"]) | samples.TOKENIZER_SETTINGS
    damage.write_mutated(folder / "tokenizer_config.json", values, draw)
    tokenizer, texts = load_tokenizer(folder), ["w7 w8 w9 " * 9, "w5"]
    check_tokenizer(tokenizer, BertConfig(**samples.SHAPE))
    blocks = tokenize_to_blocks(Dataset.from_dict({"text": texts * 9}), tokenizer, max_seq_length=16)
    MaskedLMCollator(tokenizer)(blocks.to_list())
    unlabeled_batches([texts], tokenizer, max_length=16)
    encode(Dataset.from_list(samples.NUMBERED_ROWS), GlueTask("own", ("text", "other"), num_labels=1), tokenizer, 16)
    training_windows(Dataset.from_list(samples.QUESTIONS), tokenizer, samples.WINDOWS)


def embedding_folders(folder: Path, draw: Random) -> None:
    """Folders of sentence-transformers, as teachers."""
    from homodistil_hf.methods.embedding.reading import default_activation, kind_of_texts, load_embedding_model

    source, target = folder / "source", folder / "target"
    samples.make_embedding(source)
    shutil.copytree(source, damage.emptied(target), dirs_exist_ok=True)
    damage.folder_damaged(target, draw)
    kind_of_texts(target)
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


def manifests(folder: Path, draw: Random) -> None:
    """`manifest.json`, and files that are not what it says."""
    good, bad = folder / "run" / "checkpoint-5", folder / "run" / "checkpoint-10"
    values = [samples.checkpoint_of_two_files(checkpoint) for checkpoint in (good, bad)][1]
    damaged = damage.mutated(values, draw)
    if isinstance(damaged, dict) and isinstance(damaged.get("sha256"), dict) and draw.random() < 0.3:
        damaged["sha256"][draw.choice(damage.PATHS)] = "0" * 64
    damage.write_hostile(bad / checkpoints.MANIFEST_NAME, damage.json_bytes(damaged, draw), draw)
    if draw.random() < 0.1:
        damage.write_hostile(bad / "config.json", draw.choice((b"{}", b"")), draw)
    checkpoints.last_checkpoint(folder / "run")
    checkpoints.check_manifest(draw.choice((bad, bad, bad, good, folder / draw.choice(damage.PATHS[4:]))))


def states(folder: Path, draw: Random) -> None:
    """What a checkpoint says about pruning: JSON, scores, weights, configuration; digests are right."""
    source, target = folder / "source", folder / "checkpoint-4"
    samples.make_checkpoint(source)
    shutil.copytree(source, damage.emptied(target), dirs_exist_ok=True)
    kind = draw.randrange(5)
    if kind == 2:
        scores = damage.damaged_tensors(load_file(source / checkpoints.SCORES_FILE), draw)
        save_file(scores, target / checkpoints.SCORES_FILE)
    elif kind == 3:
        path = target / draw.choice((checkpoints.SCORES_FILE, WEIGHTS_FILE))
        damage.write_hostile(path, damage.safetensors_bytes(path.read_bytes(), draw), draw)
    else:
        path = target / (checkpoints.STATE_FILE if kind < 2 else "config.json")
        damage.write_mutated(path, json.loads(path.read_text(encoding="utf-8")), draw)
    checkpoints.write_manifest(target)
    checkpoint_student(
        checkpoints.check_manifest(target), format=draw.choice(("standard", "compact")), allow_partial=True
    )


def facts(folder: Path, draw: Random) -> None:
    """`facts.json` of an export that is read, converted or about to be replaced."""
    source, target = folder / "source", folder / "target"
    samples.make_export(source)
    shutil.copytree(source, damage.emptied(target), dirs_exist_ok=True)
    damage.write_mutated(target / FACTS_FILE, read_facts(source), draw)
    read_facts(target)
    check_target(target, overwrite=True)


def packed_folders(folder: Path, draw: Random) -> None:
    """`homodistil verify` over folders of bits."""
    samples.make_packed(folder / "source")
    shutil.copytree(folder / "source", damage.emptied(folder / "target"), dirs_exist_ok=True)
    damage.folder_damaged(folder / "target", draw)
    run_command(["verify", str(folder / "target")])


def embedding_exports(folder: Path, draw: Random) -> None:
    """`homodistil verify | export` over exports of embedding models, and one that gets scores."""
    from homodistil_hf.methods.embedding.folder import publish_scores

    source, target, output = folder / "source", folder / "target", folder / "out"
    samples.make_embedding(source)
    for copy in target, damage.removed(output):
        shutil.copytree(source, damage.emptied(copy), dirs_exist_ok=True)
    damage.folder_damaged(target, draw)
    words = ["export", str(target), "--output", str(output), "--overwrite", "--teacher", str(source)]
    pair = [*words, "--format", "pair"]
    run_command(draw.choice((["verify", str(target)], words, pair)))
    publish_scores(target, {"models": {}, "scores": {"sts": {"spearman": {"student": 0.5}}}})


# Runs that go on


def family_states(folder: Path, draw: Random) -> None:
    """`family.json` of a family that goes on, up to where a member would be trained."""
    samples.saved_model(folder / "teacher")
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


def command_lines(folder: Path, draw: Random) -> None:
    """`homodistil verify | export | report | plan` over hostile folders, in this process."""
    for format in ("standard", "compact"):
        samples.make_export(folder / format, format)
    samples.make_checkpoint(folder / "run" / "checkpoint-4")
    (folder / "run" / "settings.json").write_text(json.dumps(samples.run_config(folder)), encoding="utf-8")
    sandbox = damage.emptied(folder / "sandbox")
    victim, output = sandbox / "victim", sandbox / "out"
    shutil.copytree(folder / draw.choice(("compact", "run", "standard")), victim)
    output.mkdir()
    damage.folder_damaged(victim, draw)
    with outside_stays(sandbox, output):
        run_command(command_line(victim, output, draw))


def command_line(victim: Path, output: Path, draw: Random) -> list[str]:
    path = str(victim) if draw.random() < 0.95 else draw.choice((*damage.PATHS, str(victim / "config.json")))
    checkpoint = victim / "checkpoint-4"
    if checkpoint.is_dir() and draw.random() < 0.5:
        path = str(checkpoint)
    command = draw.choice(("verify", "export", "export", "export", "plan", "report"))
    if command == "export":
        format = draw.choice(("standard", "compact", "compact", "x"))
        return ["export", path, "--output", str(output / "student"), "--format", format, "--allow_partial"]
    if command == "plan":
        words = "macs=0.5", json.dumps(samples.PLAN), str(victim / "config.json"), draw.choice(damage.STRINGS)
        student = draw.choice(words)
        return ["plan", "--teacher", path, "--student", student, *draw.choice(([], ["--json"]))]
    return [command, path]


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
    found = load_squad(draw.choice(("squad", "squad_v2")), data)
    training_windows(found.train, samples.tiny_tokenizer(), samples.WINDOWS)


def own_rows(folder: Path, draw: Random) -> None:
    """Labelled rows of one's own, up to the tokens that a model learns from."""
    paths = [folder / f"{split}{draw.choice(('.csv', '.json', '.jsonl', '.parquet'))}" for split in ("train", "dev")]
    rows = draw.choice((samples.OWN_ROWS, samples.NUMBERED_ROWS))
    for path in paths:
        damage.write_hostile(path, damage.table_bytes(rows, path.suffix, draw), draw)
    columns = draw.choice((("text",), ("text", "other"), (draw.choice(damage.STRINGS),)))
    files = {"train_data": str(paths[0]), "eval_data": str(paths[1]), "output_dir": "x"}
    train, dev, names = rows_of(OwnTaskSettings(model="x", text_columns=columns, **files))
    for part in train, dev:
        encode(part, GlueTask("own", columns, num_labels=len(names) or 1), samples.tiny_tokenizer(), 16)


_SUFFIXES = (".txt", ".txt", ".txt", ".jsonl", ".json", ".parquet", ".gz", ".zip", ".TXT", "", ".csv")


@contextlib.contextmanager
def outside_stays(sandbox: Path, output: Path) -> Iterator[None]:
    """Nothing in `sandbox` but `output` may have changed afterwards."""

    def listing() -> set[tuple[str, int, int]]:
        paths = (path for path in sandbox.rglob("*") if path != output and output not in path.parents)
        found = ((path, path.lstat()) for path in paths)
        return {(str(path), one.st_size, 0 if path.is_dir() else one.st_mtime_ns) for path, one in found}

    before = listing()
    try:
        yield
    finally:
        if (after := listing()) != before:
            raise RuntimeError(f"written outside the output folder: {sorted(before.symmetric_difference(after))[:3]}")


TARGETS = {
    "config_files": Target(config_files, 8_000),
    "flags": Target(flags, 800),
    "arguments": Target(arguments, 12_000),
    "plans": Target(plans, 36_000),
    "budgets": Target(budgets, 24_000),
    "teacher_configs": Target(teacher_configs, 8_000),
    "weights": Target(weights, 1_200),
    "indexes": Target(indexes, 500),
    "tokenizers": Target(tokenizers, 300),
    "vocabularies": Target(vocabularies, 3_000),
    "manifests": Target(manifests, 3_000),
    "states": Target(states, 600),
    "facts": Target(facts, 1_200),
    "command_lines": Target(command_lines, 40, limit_s=300),
    "tokenizer_configs": Target(tokenizer_configs, 400),
    "packed_folders": Target(packed_folders, 220, limit_s=300),
    "squad_rows": Target(squad_rows, 400),
    "embedding_folders": Target(embedding_folders, 220),
    "embedding_exports": Target(embedding_exports, 100, limit_s=300),
    "own_rows": Target(own_rows, 400),
    "family_states": Target(family_states, 100),
    "sweep_records": Target(sweep_records, 120, limit_s=60),
    "clocks": Target(clocks, 120),
    "rows": Target(rows, 18_000),
    "texts": Target(texts, 800),
    "corpora": Target(corpora, 600, limit_s=60),
}
