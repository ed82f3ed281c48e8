"""The demo's teacher: a WordPiece vocabulary and a small BERT, both trained on the docstrings of this machine.

Everything is kept in a cache under a digest of text and settings, so the second demo starts with its students, of
which nothing is here.
"""

import dataclasses
import hashlib
import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)
from transformers.modeling_outputs import MaskedLMOutput

from ...data.blocks import tokenize_to_blocks
from ...data.masking import IGNORED_LABEL, MaskedLMCollator
from ...distillation.teacher import multiplies_bfloat16
from ...files.caches import cached
from ...models.conversion import to_stock, to_student
from ...models.families.modeling_homobert import HomoBertForMaskedLM
from .text import collect_text, fingerprint, source_files

_SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_HELD_OUT_EVERY = 20
_NUM_EVAL_BLOCKS = 256


@dataclass(frozen=True)
class TeacherSettings:
    """Text (in characters), vocabulary, shape and training of the teacher; its positions are `max_seq_length`."""

    num_characters: int = 12_000_000
    vocab_size: int = 4096
    max_seq_length: int = 64
    num_hidden_layers: int = 4
    hidden_size: int = 256
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    num_steps: int = 2400
    batch_size: int = 16
    learning_rate: float = 1e-3
    mlm_probability: float = 0.25
    seed: int = 0


@dataclass(frozen=True)
class Lesson:
    """What the students need: the teacher as stock BERT with its tokenizer, and text that it has and has not read."""

    folder: Path
    train_blocks: Dataset
    eval_blocks: Dataset


def prepare_lesson(settings: TeacherSettings) -> Lesson:
    """Gather the text and train the teacher, or take both from the cache."""
    files = source_files()
    text_key = f"text-{fingerprint(files, settings.num_characters)}"
    text_folder = cached("demo", text_key, lambda aside: _write_text(aside, files, settings))
    text = (text_folder / "documents.json").read_bytes()
    digest = hashlib.sha256(text + json.dumps(dataclasses.asdict(settings), sort_keys=True).encode()).hexdigest()[:16]
    folder = cached("demo", f"teacher-{digest}", lambda aside: _write_teacher(aside, json.loads(text), settings))
    return Lesson(folder / "teacher", load_from_disk(folder / "train"), load_from_disk(folder / "held_out"))


def train_tokenizer(documents: list[str], vocab_size: int, max_seq_length: int) -> PreTrainedTokenizerBase:
    """Train an uncased WordPiece vocabulary on ASCII text, the same one for the same text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # The trainer numbers continuation characters in the order of a hash table, and ties between merges go by number:
    # named beforehand, they get the same numbers each time.
    characters = sorted(set(tokenizer.normalizer.normalize_str(" ".join(documents))) - {" "})
    reserved = _SPECIAL_TOKENS + [f"##{character}" for character in characters]
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=reserved)
    tokenizer.train_from_iterator(documents, trainer, length=len(documents))
    return BertTokenizer(vocab=tokenizer.get_vocab(), model_max_length=max_seq_length)


def _write_text(folder: Path, files: list[tuple[str, Path]], settings: TeacherSettings) -> None:
    documents = collect_text(files, settings.num_characters)
    if len(documents) < _HELD_OUT_EVERY:
        raise ValueError(f"only {len(documents)} source files with English docstrings were found; install the package")
    (folder / "documents.json").write_text(json.dumps(documents), encoding="utf-8")


def _write_teacher(folder: Path, documents: list[str], settings: TeacherSettings) -> None:
    held_out = documents[::_HELD_OUT_EVERY]
    train = [text for index, text in enumerate(documents) if index % _HELD_OUT_EVERY]
    tokenizer = train_tokenizer(train, settings.vocab_size, settings.max_seq_length)
    blocks = {name: _blocks(part, tokenizer) for name, part in (("train", train), ("held_out", held_out))}
    blocks["held_out"] = blocks["held_out"].select(range(min(_NUM_EVAL_BLOCKS, len(blocks["held_out"]))))
    for name, part in blocks.items():
        part.save_to_disk(folder / name)
    model = _train(_new_model(tokenizer, blocks["train"], settings), tokenizer, blocks["train"], settings)
    to_stock(model.eval()).save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")


def _blocks(documents: list[str], tokenizer: PreTrainedTokenizerBase) -> Dataset:
    table = Dataset.from_dict({"text": documents})
    return tokenize_to_blocks(table, tokenizer, max_seq_length=tokenizer.model_max_length)


def _new_model(tokenizer: PreTrainedTokenizerBase, blocks: Dataset, settings: TeacherSettings) -> HomoBertForMaskedLM:
    """A BERT that starts with word frequencies and sine-shaped positions, which saves it its slowest steps."""
    torch.manual_seed(settings.seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.num_hidden_layers,
        num_attention_heads=settings.num_attention_heads,
        intermediate_size=settings.intermediate_size,
        max_position_embeddings=settings.max_seq_length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForMaskedLM(config)
    counts = np.bincount(np.concatenate(blocks.with_format("numpy")["input_ids"][:]), minlength=len(tokenizer)) + 1
    frequencies = torch.from_numpy(counts / counts.sum()).float()
    with torch.no_grad():
        model.cls.predictions.bias.copy_(frequencies.log())
        positions = _sinusoids(settings.max_seq_length, settings.hidden_size)
        model.bert.embeddings.position_embeddings.weight.copy_(positions * math.sqrt(2) * config.initializer_range)
    return to_student(model)


def _sinusoids(num_positions: int, num_channels: int) -> torch.Tensor:
    """Sines and cosines of geometrically falling frequencies, `(num_positions, num_channels)`."""
    channels = torch.arange(num_channels)
    angles_TH = torch.arange(num_positions)[:, None] * 10_000.0 ** (-(channels - channels % 2) / num_channels)
    return torch.where(channels % 2 == 0, angles_TH.sin(), angles_TH.cos())


def _train(
    model: HomoBertForMaskedLM, tokenizer: PreTrainedTokenizerBase, blocks: Dataset, settings: TeacherSettings
) -> HomoBertForMaskedLM:
    bf16 = multiplies_bfloat16(torch.device("cpu"))
    if bf16:
        model.set_attn_implementation("eager")  # torch's fused attention is the slow one for bfloat16 on a CPU
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            max_steps=settings.num_steps,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            warmup_steps=0.05,
            adam_beta2=0.98,
            adam_epsilon=1e-6,
            weight_decay=0.01,
            bf16=bf16,
            use_cpu=True,
            seed=settings.seed,
            save_strategy="no",
            logging_steps=max(1, settings.num_steps // 5),
            report_to="none",
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=blocks,
            data_collator=MaskedLMCollator(tokenizer, mlm_probability=settings.mlm_probability, seed=settings.seed),
            compute_loss_func=_masked_loss,
        )
        trainer.train()
    return model.float()


def _masked_loss(outputs: MaskedLMOutput, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    labels_M = labels[labels != IGNORED_LABEL]
    return functional.cross_entropy(outputs.logits.float(), labels_M)
