"""The targets of the fuzzer: one function each, called once a case with the target's folder; it returns or raises.

The damage to input is in fuzz_mutations.py.
"""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from benchmarks.reliability.fuzz_mutations import (
    NUMBERS,
    PATHS,
    STRINGS,
    emptied,
    flipped,
    hostile_value,
    json_bytes,
    mutated,
    removed,
    safetensors_bytes,
    write_hostile,
    write_mutated,
)
from homodistil_hf import export_student, load_text, resolve_plan, tokenize_to_blocks
from homodistil_hf.cli import main
from homodistil_hf.data.blocks import TextPacker
from homodistil_hf.data.masking import MaskedLMCollator
from homodistil_hf.experiments.config import parse_run
from homodistil_hf.export.export_folder import check_target
from homodistil_hf.export.facts import FACTS_FILE, file_facts, read_facts
from homodistil_hf.export.student_in_folder import checkpoint_student
from homodistil_hf.files.checkpoints import (
    MANIFEST_NAME,
    SCORES_FILE,
    STATE_FILE,
    check_manifest,
    last_checkpoint,
    write_manifest,
)
from homodistil_hf.files.settings import checked_values, setting_types, split_config
from homodistil_hf.files.tensors import WEIGHTS_FILE
from homodistil_hf.methods.run_arguments import RunArguments
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.cost import planned_facts
from homodistil_hf.models.loading import load_encoder, load_encoder_config
from homodistil_hf.models.saved_student import save_projections
from homodistil_hf.models.tokenizers import stored_tokenizer
from homodistil_hf.models.widths import LayerWidths, WidthPlan
from homodistil_hf.plans.budgets import plan_for_budget
from homodistil_hf.plans.resolve import PRESETS
from homodistil_hf.pruning.pruner import Pruner, PruningSettings
from homodistil_hf.training.checks import own_settings
from homodistil_hf.training_args import HomoDistilTrainingArguments
from homodistil_hf.vocabulary.selection import Vocabulary, select
from homodistil_hf.vocabulary.trimming import candidates, trim_tokenizer

SHAPE = dict.fromkeys(("num_hidden_layers", "num_attention_heads"), 2)
SHAPE |= {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 32}
PLAN = {"hidden_size": 8, "num_attention_heads": 2, "head_dim": 4, "intermediate_size": 16}
LAYERS = [{name: PLAN[name] for name in PLAN if name != "hidden_size"}]
LAYERS += [{"num_attention_heads": 1, "head_dim": 3, "intermediate_size": 24}]
UNEVEN = {"hidden_size": 8, "layers": LAYERS}


@dataclass(frozen=True)
class Target:
    """One thing that reads what others wrote, its share of all cases, and its time limit."""

    case: Callable[[Path, Random], None]
    share: int
    limit_s: float = 20.0


# Settings


def run_config(folder: Path) -> dict[str, Any]:
    files = {"teacher": "teacher", "train_data": "train.txt", "eval_data": "eval.txt", "output_dir": "run"}
    return {name: str(folder / file) for name, file in files.items()} | {
        "student": PLAN,
        "max_seq_length": 16,
        "max_steps": 12,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "linear",
        "per_device_train_batch_size": 8,
        "pruning_end_fraction": 0.5,
        "importance_metric": "movement",
        "mlm_probability": 0.2,
        "report_to": "none",
        "use_cpu": True,
        "lr_scheduler_kwargs": {},
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "student_dropout": None,
    }


def config_files(folder: Path, draw: Random) -> None:
    """JSON run configs, key by key."""
    path = folder / "config.json"
    write_mutated(path, run_config(folder), draw)
    place = draw.choice((str(path),) * 19 + (*PATHS, str(folder)[:-1])[draw.randrange(5) :][:1])
    values, _, label = split_config([place])
    checked_values(values, setting_types(RunArguments, HomoDistilTrainingArguments), label)


def flags(folder: Path, draw: Random) -> None:
    """Whole command lines of `distill`, config and flags."""
    values, path = run_config(folder), folder / "config.json"
    names = [entry.name for entry in fields(HomoDistilTrainingArguments) if entry.init]
    config = mutated(values, draw) if draw.random() < 0.5 else values
    write_hostile(path, json_bytes(config, draw), draw)
    words = [str(path)] if draw.random() < 0.9 else []
    for _ in range(draw.randrange(4)):
        name = draw.choice((*names, "teacher", "train_data", "no_such", "kl_weight", draw.choice(STRINGS)))
        value = hostile_value(draw)
        words += draw.choice(([f"--{name}", str(value)], [f"--{name}={value}"], [f"--{name}"], [str(value)]))
    parse_run(words)


STOCK = ("learning_rate", "adam_epsilon", "warmup_steps", "dataloader_drop_last", "ddp_find_unused_parameters")
STOCK += ("logging_nan_inf_filter",)


def arguments(folder: Path, draw: Random) -> None:
    """This package's own settings, given from Python."""
    make = partial(HomoDistilTrainingArguments, output_dir=str(folder / "run"), report_to="none", use_cpu=True)
    own = sorted(own_settings(make()).keys() - STOCK)
    make(**{name: hostile_value(draw) for name in draw.sample(own, draw.choice((1, 1, 2, 3)))})


# Plans and budgets


def plans(folder: Path, draw: Random) -> None:
    """Plans as mappings, as JSON text and in files; presets; misspelt ones."""
    configs = [BertConfig(**SHAPE), BertConfig(), BertConfig(**SHAPE | {"num_hidden_layers": 5, "hidden_size": 24})]
    path = folder / "plan.json"
    values = mutated(draw.choice((PLAN, UNEVEN)), draw)
    kind = draw.randrange(8)
    if kind < 4:
        student = values
    elif kind < 6:
        student = json_bytes(values, draw).decode("utf-8", "surrogateescape")
    elif kind == 6:
        write_hostile(path, json_bytes(values, draw), draw)
        student = str(path)
    else:
        student = draw.choice((*PRESETS, "homobert-tny", *STRINGS))
    resolve_plan(student, draw.choice(configs), multiple=draw.choice((1, 3, 8, 8, 64)))


def budgets(folder: Path, draw: Random) -> None:
    """Budget strings, and what they are rounded to."""
    configs = [BertConfig(**SHAPE), BertConfig(**SHAPE | {"hidden_size": 42, "num_attention_heads": 7})]
    number = draw.choice((str(hostile_value(draw)), f"{draw.uniform(0, 1.2):.4g}", "9" * draw.randrange(1, 20_000)))
    words = (draw.choice(("params", "macs", "macs", "ms", draw.choice(STRINGS))), draw.choice(("=", " = ", "==")))
    student = "".join(words) + number + draw.choice(("", "k", "K", "M", "B", "G", "%", "kk", "\0"))
    multiple = draw.choice((1, 3, 8, 8, 8, *(n for n in NUMBERS if isinstance(n, int))))
    plan_for_budget(student, draw.choice(configs), multiple=multiple)


# Models on disk


def teacher_configs(folder: Path, draw: Random) -> None:
    """`config.json` of stock and student models, per-layer widths included."""
    write_mutated(folder / "config.json", draw.choice(_configs()), draw)
    config = load_encoder_config(str(folder) if draw.random() < 0.95 else draw.choice(STRINGS))
    plan = resolve_plan(draw.choice(("macs=0.5", json.dumps(PLAN), "homobert-tiny")), config)
    planned_facts(config, (config.architectures or ["BertForMaskedLM"])[0], plan)


@cache
def _configs() -> list[dict[str, Any]]:
    students = tiny_student(), tiny_student(WidthPlan.from_dict(UNEVEN, 2))
    stocks = [
        architecture.stock_config(
            **{architecture.named(name): size for name, size in SHAPE.items()},
            **dict.fromkeys(_SPECIAL_IDS, 1),
            architectures=[architecture.heads[0].stock_name],
        )
        for architecture in ARCHITECTURES.values()
    ]
    return [config.to_dict() for config in (*stocks, *(student.config for student in students))]


_SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


def weights(folder: Path, draw: Random) -> None:
    """Safetensors files of a model: headers, offsets, types, shapes."""
    content = _saved(folder)[WEIGHTS_FILE]
    write_hostile(folder / WEIGHTS_FILE, safetensors_bytes(content, draw), draw)
    load_encoder(str(folder))


def indexes(folder: Path, draw: Random) -> None:
    """Weights in several files, with an index that may name anything."""
    name = "model.safetensors.index.json"
    values = json.loads(_saved(folder, max_shard_size="8KB")[name])
    damaged = mutated(values, draw)
    if isinstance(damaged, dict) and isinstance(damaged.get("weight_map"), dict) and draw.random() < 0.4:
        damaged["weight_map"][draw.choice(list(values["weight_map"]))] = draw.choice(PATHS)
    write_hostile(folder / name, json_bytes(damaged, draw), draw)
    load_encoder(str(folder))


def tokenizers(folder: Path, draw: Random) -> None:
    """Tokenizer files beside a model, loaded and written to an export."""
    source = folder / "source"
    contents = {source / name: content for name, content in _saved(source).items() if "token" in name}
    for path, content in contents.items():
        removed(path).write_bytes(content)
    path = draw.choice(list(contents))
    values = json.loads(contents[path])
    if path.name == "tokenizer_config.json" and draw.random() < 0.5:
        extra = draw.choice(("chat_template", "vocab_file", "tokenizer_file", "tokenizer_class", "auto_map"))
        templates = [{"name": draw.choice(PATHS), "template": "x"}, {"name": "default", "template": "y"}]
        values[extra] = draw.choice((draw.choice(STRINGS), {draw.choice(PATHS): "x"}, templates))
    write_mutated(path, values, draw)
    tokenizer = stored_tokenizer(source)
    if tokenizer is not None:
        with outside_stays(folder, emptied(folder / "out")):
            export_student(tiny_teacher(), folder / "out" / "student", tokenizer=tokenizer)


def vocabularies(folder: Path, draw: Random) -> None:
    """A `tokenizer.json` of each kind, and what a user wants of it."""
    kind = draw.choice(tuple(_VOCABULARIES))
    content = {**_AROUND, "model": {"type": kind, **_VOCABULARIES[kind]}}
    write_mutated(folder / "tokenizer.json", content, draw)
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    tokenizer = stored_tokenizer(folder)
    if tokenizer is None:
        return
    config = BertConfig(**SHAPE)
    ids, required, needs = candidates(tokenizer, config)
    (folder / "tokens.txt").write_text(draw.choice(("ab\n", "abc\nb\n", *STRINGS)), encoding="utf-8", errors="replace")
    text = draw.choice(("keep=8", "keep=9", "min_count=2", str(folder / "tokens.txt"), f"keep={hostile_value(draw)}"))
    counts = np.array([draw.randrange(5) for _ in range(max(ids.values(), default=0) + 1)])
    trim_tokenizer(tokenizer, config, select(Vocabulary.parse(text), ids, required, needs, counts))


_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "ab", "abc")
_IDS = {piece: number for number, piece in enumerate(_PIECES)}
_VOCABULARIES: dict[str, dict[str, Any]] = {
    "WordPiece": {"vocab": _IDS | {"##a": 9, "##b": 10}, "unk_token": "[UNK]", "continuing_subword_prefix": "##"},
    "BPE": {"vocab": _IDS, "merges": [["a", "b"], ["ab", "c"]], "unk_token": "[UNK]"},
    "Unigram": {"vocab": [[piece, -number] for number, piece in enumerate(_PIECES)], "unk_id": 1},
}
_VOCABULARIES["WordPiece"]["max_input_chars_per_word"] = 100
_PLAIN = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
_AROUND: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [{"id": n, "content": piece, **_PLAIN, "special": True} for n, piece in enumerate(_PIECES[:4])],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    "decoder": None,
}


@cache
def _saved(folder: Path, **settings: str) -> dict[str, bytes]:
    """A model and its tokenizer, written once; name → content of each file."""
    tiny_teacher().save_pretrained(folder, **settings)
    tiny_tokenizer().save_pretrained(folder)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# Checkpoints and exports


def manifests(folder: Path, draw: Random) -> None:
    """`manifest.json`, and files that are not what it says."""
    good, bad = folder / "run" / "checkpoint-5", folder / "run" / "checkpoint-10"
    values = [_checkpoint_of_two_files(checkpoint) for checkpoint in (good, bad)][1]
    damaged = mutated(values, draw)
    if isinstance(damaged, dict) and isinstance(damaged.get("sha256"), dict) and draw.random() < 0.3:
        damaged["sha256"][draw.choice(PATHS)] = "0" * 64
    write_hostile(bad / MANIFEST_NAME, json_bytes(damaged, draw), draw)
    if draw.random() < 0.1:
        write_hostile(bad / "config.json", draw.choice((b"{}", b"")), draw)
    last_checkpoint(folder / "run")
    check_manifest(draw.choice((bad, bad, bad, good, folder / draw.choice(PATHS[4:]))))


@cache
def _checkpoint_of_two_files(folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "optimizer.pt").write_bytes(b"moments")
    write_manifest(folder)
    return json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))


def states(folder: Path, draw: Random) -> None:
    """What a checkpoint says about pruning: JSON, scores, weights, configuration; digests are right."""
    source, target = folder / "source", folder / "checkpoint-4"
    make_checkpoint(source)
    shutil.copytree(source, emptied(target), dirs_exist_ok=True)
    kind = draw.randrange(5)
    if kind == 2:
        save_file(damaged_tensors(load_file(source / SCORES_FILE), draw), target / SCORES_FILE)
    elif kind == 3:
        path = target / draw.choice((SCORES_FILE, WEIGHTS_FILE))
        write_hostile(path, safetensors_bytes(path.read_bytes(), draw), draw)
    else:
        path = target / (STATE_FILE if kind < 2 else "config.json")
        write_mutated(path, json.loads(path.read_text(encoding="utf-8")), draw)
    write_manifest(target)
    checkpoint_student(check_manifest(target), format=draw.choice(("standard", "compact")), allow_partial=True)


def damaged_tensors(tensors: dict[str, torch.Tensor], draw: Random) -> dict[str, torch.Tensor]:
    """Scores of wrong groups, types, sizes and values."""
    name = draw.choice(sorted(tensors))
    tensor = tensors.pop(name)
    kind = draw.randrange(9)
    if kind == 0:
        return tensors
    if kind == 1:
        name = draw.choice((name + "9", "hidden.0", name.replace("0", "7"), "x"))
    elif kind < 5:
        tensor = draw.choice((tensor.double(), tensor.long(), tensor.bool(), tensor.half(), tensor.to(torch.int8)))
    elif kind == 5:
        tensor = draw.choice((tensor[:-1], tensor[None], torch.cat([tensor, tensor]), tensor[:0])).contiguous()
    elif kind == 6:
        tensor = torch.zeros_like(tensor)
    elif kind == 7 and tensor.is_floating_point():
        tensor.flatten()[0] = draw.choice((float("nan"), float("inf"), -1e30))
    elif not tensor.is_floating_point():
        tensor = ~tensor if tensor.dtype is torch.bool else tensor + draw.choice((1, 10**9, -5))
    return tensors | {name: tensor}


def facts(folder: Path, draw: Random) -> None:
    """`facts.json` of an export that is read, converted or about to be replaced."""
    source, target = folder / "source", folder / "target"
    make_export(source)
    shutil.copytree(source, emptied(target), dirs_exist_ok=True)
    write_mutated(target / FACTS_FILE, read_facts(source), draw)
    read_facts(target)
    check_target(target, overwrite=True)


def command_lines(folder: Path, draw: Random) -> None:
    """`homodistil verify | export | report | plan` over hostile folders, in this process."""
    for format in ("standard", "compact"):
        make_export(folder / format, format)
    make_checkpoint(folder / "run" / "checkpoint-4")
    (folder / "run" / "settings.json").write_text(json.dumps(run_config(folder)), encoding="utf-8")
    sandbox = emptied(folder / "sandbox")
    victim, output = sandbox / "victim", sandbox / "out"
    shutil.copytree(folder / draw.choice(("compact", "run", "standard")), victim)
    output.mkdir()
    damage_folder(victim, draw)
    with outside_stays(sandbox, output):
        run_command(command_line(victim, output, draw))


def command_line(victim: Path, output: Path, draw: Random) -> list[str]:
    path = str(victim) if draw.random() < 0.95 else draw.choice((*PATHS, str(victim / "config.json")))
    checkpoint = victim / "checkpoint-4"
    if checkpoint.is_dir() and draw.random() < 0.5:
        path = str(checkpoint)
    command = draw.choice(("verify", "export", "export", "export", "plan", "report"))
    if command == "export":
        format = draw.choice(("standard", "compact", "compact", "x"))
        return ["export", path, "--output", str(output / "student"), "--format", format, "--allow_partial"]
    if command == "plan":
        student = draw.choice(("macs=0.5", json.dumps(PLAN), str(victim / "config.json"), draw.choice(STRINGS)))
        return ["plan", "--teacher", path, "--student", student, *draw.choice(([], ["--json"]))]
    return [command, path]


def damage_folder(folder: Path, draw: Random) -> None:
    """Damage one file; half of the time, digests are made to agree with it afterwards, as a careful forger would."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".json", ".safetensors", ".py", ".md")]
    path = draw.choice(files)
    content = path.read_bytes()
    if path.suffix == ".json":
        damaged = json_bytes(mutated(json.loads(content), draw), draw)
    elif path.suffix == ".safetensors":
        damaged = safetensors_bytes(content, draw)
    else:
        damaged = flipped(content, draw)
    write_hostile(path, damaged, draw)
    if draw.random() < 0.5:
        return
    if (path.parent / MANIFEST_NAME).is_file() and path.name != MANIFEST_NAME:
        write_manifest(path.parent)
    facts_file = folder / FACTS_FILE
    if facts_file.is_file() and path != facts_file:
        values = json.loads(facts_file.read_text(encoding="utf-8"))
        facts_file.write_text(json.dumps(values | {"files": file_facts(folder)}), encoding="utf-8")


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
    MaskedLMCollator(tiny_tokenizer())(mutated(valid, draw))


def texts(folder: Path, draw: Random) -> None:
    """Texts that reach the tokenizer."""
    packer = TextPacker(tiny_tokenizer(), 8, "text")
    packer([draw.choice((hostile_text(draw), hostile_text(draw), None, hostile_value(draw))) for _ in range(3)])


def hostile_text(draw: Random) -> str:
    """Text of every unpleasant kind, up to a hundred thousand characters."""
    word = draw.choice(
        ("w7", "w8 ", "unknown", " ", "\n\n", "\0", "\ud800", "\r\n", "\u2028", "[MASK]", "🙂", "e\u0301", "\ufeff")
    )
    return word * draw.choice((0, 1, 30, 1000, 40_000)) + draw.choice(STRINGS)


def corpora(folder: Path, draw: Random) -> None:
    """Files, folders, globs, archives and links that are named as training text."""
    data = emptied(folder / "data")
    for index in range(draw.choice((1, 1, 2))):
        name = draw.choice(("a", "train-0", "test", "ä b", "x[1]*")) + str(index)
        content = draw.choice((file_content(draw), file_content(draw), b"w7 w8 w9 " * 120))
        write_hostile(data / f"{name}{draw.choice(_SUFFIXES)}", content, draw)
    if draw.random() < 0.2:
        for loop in "loop", "again", "third":
            (data / loop).symlink_to(draw.choice((data, folder, data / loop)))
    pattern = draw.choice(("", "*", "**/*.txt", "*.txt", "**", "[", "a0.txt", "../*/*.txt", draw.choice(PATHS)))
    source: Any = os.path.join(data, pattern) if draw.random() < 0.95 else hostile_value(draw)
    column = draw.choice((None, None, "text", "x"))
    documents = load_text(source, streaming=draw.random() < 0.5, text_column=column)
    list(tokenize_to_blocks(documents, tiny_tokenizer(), max_seq_length=16).take(3))


_SUFFIXES = (".txt", ".txt", ".txt", ".jsonl", ".json", ".parquet", ".gz", ".zip", ".TXT", "", ".csv")
_MAGIC = (b"\x1f\x8b\x08\0", b"PK\x03\x04", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"PAR1")
_BYTES = (b"", b" ", b"\n\n\n\n", b"\0" * 5000, b"\xff\xfe" * 50, b"\r\n" * 100, b"\xed\xa0\x80")


def file_content(draw: Random) -> bytes:
    """Bytes of a file that calls itself text."""
    kind = draw.randrange(7)
    if kind == 0:
        return draw.randbytes(draw.choice((1, 100, 5000)))
    if kind == 1:
        return draw.choice(_MAGIC) + draw.randbytes(200)
    if kind == 2:
        return draw.choice(_BYTES)
    if kind == 3:
        row = {"text": "w7 w8 " * 30, "n": [1, {"a": 2}]}
        return b"\n".join(json_bytes(mutated(row, draw), draw) for _ in range(4))
    if kind == 4:
        buffer, columns = io.BytesIO(), {"text": ["w7 w8 " * 20] * 5, "n": [1] * 5}
        names = draw.choice((("text",), ("n",), ("text", "n")))
        Dataset.from_dict({name: columns[name] for name in names}).to_parquet(buffer)
        return flipped(buffer.getvalue(), draw)
    return hostile_text(draw).encode("utf-8", "surrogatepass")


# Valid input to start from


def tiny_teacher() -> BertForMaskedLM:
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(**SHAPE)).eval()


def tiny_student(plan: WidthPlan | None = None) -> Any:
    student = to_student(tiny_teacher())
    if plan is None:
        return student
    Pruner(student, plan).prune_to(plan)
    return student


@cache
def tiny_tokenizer() -> BertTokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"w{i}" for i in range(5, SHAPE["vocab_size"])]
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)})


@cache
def make_checkpoint(folder: Path) -> None:
    """A checkpoint in the middle of pruning, with its scores."""
    folder.mkdir(parents=True)
    student = tiny_student()
    pruner = Pruner(student, WidthPlan.from_dict(UNEVEN, 2), settings=PruningSettings(metric="movement"))
    student.train()(input_ids=torch.arange(5, 21)[None], labels=torch.arange(5, 21)[None]).loss.backward()
    pruner.score()
    pruner.prune_to(WidthPlan.uniform(12, 2, LayerWidths(2, 6, 24)))
    student.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    save_projections(folder, student)
    save_file(pruner.state_tensors(), folder / SCORES_FILE)
    state = {"method": "homodistil", "student": "macs=0.5", "is_finished": False, "pruner": pruner.state_dict()}
    state |= {"full": pruner.full.to_dict(), "plan": pruner.target.to_dict(), "kept_heads": [[0, 1], [0, 1]]}
    state |= {"card": {}, "settings": {}, "logs": {}}
    (folder / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
    write_manifest(folder)


@cache
def make_export(folder: Path, format: str = "standard") -> dict[str, Any]:
    """An uneven student with all that facts may hold; returns its facts."""
    export_student(
        tiny_student(WidthPlan.from_dict(UNEVEN, 2)),
        folder,
        format,
        tokenizer=tiny_tokenizer(),
        teacher=tiny_teacher(),
        facts={"settings": {"seed": 1}, "training": {"num_steps": 3}, "evaluation": {"kl": 0.5}},
    )
    return read_facts(folder)


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
    "rows": Target(rows, 18_000),
    "texts": Target(texts, 800),
    "corpora": Target(corpora, 600, limit_s=60),
}
