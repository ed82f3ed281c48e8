"""Valid input of every target of the fuzzer: settings, models, tokenizers, checkpoints and exports, all tiny."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel, BertTokenizer

from benchmarks.sweep.cells import Cell
from benchmarks.sweep.folder import record_head
from homodistil_hf import export_student
from homodistil_hf.export.facts import read_facts
from homodistil_hf.files.checkpoints import SCORES_FILE, STATE_FILE, write_manifest
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.saved_student import save_projections
from homodistil_hf.models.widths import LayerWidths, WidthPlan
from homodistil_hf.pruning.pruner import Pruner

SHAPE = dict.fromkeys(("num_hidden_layers", "num_attention_heads"), 2)
SHAPE |= {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 32}
PLAN = {"hidden_size": 8, "num_attention_heads": 2, "head_dim": 4, "intermediate_size": 16}
LAYERS = [{name: PLAN[name] for name in PLAN if name != "hidden_size"}]
LAYERS += [{"num_attention_heads": 1, "head_dim": 3, "intermediate_size": 24}]
UNEVEN = {"hidden_size": 8, "layers": LAYERS}


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
        "importance_metric": "sensitivity",
        "mlm_probability": 0.2,
        "report_to": "none",
        "use_cpu": True,
        "lr_scheduler_kwargs": {},
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "student_dropout": None,
    }


_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "ab", "abc")
_IDS = {piece: number for number, piece in enumerate(_PIECES)}
VOCABULARIES: dict[str, dict[str, Any]] = {
    "WordPiece": {"vocab": _IDS | {"##a": 9, "##b": 10}, "unk_token": "[UNK]", "continuing_subword_prefix": "##"},
    "BPE": {"vocab": _IDS, "merges": [["a", "b"], ["ab", "c"]], "unk_token": "[UNK]"},
    "Unigram": {"vocab": [[piece, -number] for number, piece in enumerate(_PIECES)], "unk_id": 1},
}
VOCABULARIES["WordPiece"]["max_input_chars_per_word"] = 100
_PLAIN = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
AROUND_VOCABULARY: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [{"id": n, "content": piece, **_PLAIN, "special": True} for n, piece in enumerate(_PIECES[:4])],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    "decoder": None,
}


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
def model_configs() -> list[dict[str, Any]]:
    students = tiny_student(), tiny_student(WidthPlan.from_dict(UNEVEN, 2))
    stocks = [
        architecture.config.stock(
            **{architecture.named(name): size for name, size in SHAPE.items()},
            **dict.fromkeys(_SPECIAL_IDS, 1),
            architectures=[architecture.heads[0].stock_name],
        )
        for architecture in ARCHITECTURES.values()
    ]
    return [config.to_dict() for config in (*stocks, *(student.config for student in students))]


_SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


@cache
def save_model(folder: Path, **settings: str) -> None:
    """A model and its tokenizer, with all that may stand in its settings."""
    tiny_teacher().save_pretrained(folder, **settings)
    tiny_tokenizer().save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | TOKENIZER_SETTINGS), encoding="utf-8")


@cache
def make_models(folder: Path) -> None:
    """The model in one file of weights, and in several with an index."""
    save_model(folder / "whole")
    save_model(folder / "parts", max_shard_size="8KB")


@cache
def make_run(folder: Path) -> None:
    """Two checkpoints, and the settings of their run."""
    make_checkpoint(folder / "checkpoint-4")
    shutil.copytree(folder / "checkpoint-4", folder / "checkpoint-8")
    (folder / "settings.json").write_text(json.dumps(run_config(folder)), encoding="utf-8")


@cache
def make_outputs(folder: Path) -> None:
    """What `verify`, `export`, `report` and `plan` take: exports and a run."""
    make_run(folder / "run")
    for format in ("standard", "compact"):
        make_export(folder / format, format)


@cache
def make_checkpoint(folder: Path) -> None:
    """A checkpoint in the middle of pruning, with its scores."""
    folder.mkdir(parents=True)
    student = tiny_student()
    pruner = Pruner(student, WidthPlan.from_dict(UNEVEN, 2))
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


# Methods are imported where they are needed: without one, the other targets remain.


@cache
def make_packed(folder: Path) -> None:
    """A classifier of one bit a weight."""
    from homodistil_hf.methods.binarization.binarizing import calibrate, to_binary
    from homodistil_hf.methods.binarization.folder import export_packed

    binary = to_binary(BertForSequenceClassification(BertConfig(**SHAPE)), activation_bits=1).eval()
    calibrate(binary, {"input_ids": torch.arange(5, 21)[None]})
    export_packed(binary, folder, tokenizer=tiny_tokenizer())


@cache
def make_embedding(folder: Path) -> None:
    """An embedding model that is its own teacher, with a layer behind its pooling."""
    from homodistil_hf.embedding.folder import export_embedding_model
    from homodistil_hf.embedding.model import Dense, EmbeddingModel, PoolingSettings

    settings = PoolingSettings(max_seq_length=16, prompts={"query": "w7 "}, similarity="cosine")
    layers = (Dense(nn.Linear(16, 8), "Tanh"),)
    model = EmbeddingModel(BertModel(BertConfig(**SHAPE)).eval(), tiny_tokenizer(), settings, layers, name="teacher")
    export_embedding_model(model, folder, teacher=model, facts={"settings": {"seed": 1}}, axes=torch.eye(8))


CELL = Cell("a", {"learning_rate": 1e-3, "seed": 1}, "homodistil", {"student": "macs=0.5", "learning_rate": 1e-3})
_COSTS = dict.fromkeys(("num_parameters", "num_encoder_parameters", "encoder_macs", "size_bytes"), 9)
_SCORES = {"kl": 0.5, "mlm_loss": 3.0, "mlm_accuracy": 0.3}
RECORD: dict[str, Any] = record_head(CELL) | {
    "status": "done",
    "plan": PLAN,
    "models": {"teacher": _COSTS, "student": _COSTS, "compact": _COSTS | {"plan": PLAN}},
    **dict.fromkeys(("evaluation", "teacher_evaluation"), _SCORES),
    **{"num_steps": 8, "num_tokens": 64, "seconds": 9.5, "evaluation_seconds": 1.5, "num_sessions": 1},
    "evaluations": [{"step": 4, **_SCORES}, {"step": 8, **_SCORES}],
    "kept_fractions": [{"step": 4, "kept_fraction_hidden": 0.7}],
    "evaluate": {"glue": {"settings": {"tasks": ["rte"]}, "results": {"mean": 0.5, "tasks": {"rte": {"mean": 0.5}}}}},
}
ANSWERS = {"text": ["w7 w8"], "answer_start": [3]}
QUESTIONS = [{"id": str(n), "context": "w6 w7 w8 w9", "question": "w5?", "answers": ANSWERS} for n in range(3)]
ARTICLES = [{"paragraphs": [{"context": QUESTIONS[0]["context"], "qas": [{"id": "0", "question": "w5?"}]}]}]
ARTICLES[0]["paragraphs"][0]["qas"][0]["answers"] = [{"text": "w7 w8", "answer_start": 3}]
OWN_ROWS = [{"text": f"w{n} w7", "other": "w8", "label": ("a", "b")[n % 2]} for n in range(5, 17)]
NUMBERED_ROWS = [row | {"label": n / 2} for n, row in enumerate(OWN_ROWS)]
TOKENIZER_SETTINGS: dict[str, Any] = {"model_max_length": 32, "padding_side": "right", "truncation_side": "right"}
TOKENIZER_SETTINGS |= {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"], "do_lower_case": True}
TOKENIZER_SETTINGS |= {"additional_special_tokens": ["w9"], "clean_up_tokenization_spaces": False}
TOKENIZER_SETTINGS |= {"vocab_file": "vocab.txt", "chat_template": [{"name": "default", "template": "x"}]}
