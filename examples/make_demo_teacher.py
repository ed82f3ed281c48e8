"""Make the teacher that `homodistil demo` starts from: a WordPiece vocabulary and a small BERT, from text alone.

    python examples/make_demo_teacher.py --output_dir homodistil_hf/runs/demo/teacher

Everything is trained on the strings and comments of this Python's standard library and of the packages that are
installed with this one, without the paragraphs that `homodistil_hf.runs.demo.run` holds out. Weights are
written in float16, and loaded in float32.
"""

import argparse
import math
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM, BertTokenizer, Trainer, TrainingArguments
from transformers.modeling_outputs import MaskedLMOutput

from homodistil_hf import tokenize_to_blocks
from homodistil_hf.data.masking import IGNORED_LABEL, MaskedLMCollator
from homodistil_hf.distillation.teacher import multiplies_bfloat16
from homodistil_hf.models.conversion import to_stock, to_student
from homodistil_hf.runs.demo.run import python_files, read_documents, source_files

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCAB_SIZE = 2000
MAX_SEQ_LENGTH = 64
HIDDEN_SIZE = 128
PACKAGES = (
    "accelerate",
    "datasets",
    "huggingface_hub",
    "matplotlib",
    "networkx",
    "numpy",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
    "sympy",
    "torch",
    "transformers",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write")
    parser.add_argument("--num_steps", type=int, default=15_000, help="training steps of 32 × 64 tokens")
    arguments = parser.parse_args()
    documents = training_text()
    tokenizer = train_tokenizer(documents)
    blocks = tokenize_to_blocks(Dataset.from_dict({"text": documents}), tokenizer, max_seq_length=MAX_SEQ_LENGTH)
    model = train(new_model(tokenizer, blocks), tokenizer, blocks, arguments.num_steps)
    save(model, tokenizer, arguments.output_dir)


def training_text() -> list[str]:
    """The standard library's text and that of `PACKAGES`, without a paragraph that the demo measures on."""
    library, held_out = read_documents(source_files())
    root = Path(sysconfig.get_path("purelib"))
    files = {f"{name}/{path}": file for name in PACKAGES for path, file in python_files(root / name).items()}
    measured = {paragraph.casefold() for document in held_out for paragraph in document.split("\n")}
    others = (
        "\n".join(paragraph for paragraph in document.split("\n") if paragraph.casefold() not in measured)
        for document in read_documents(files)[0]
    )
    return library + [document for document in others if document]


def train_tokenizer(documents: list[str], vocab_size: int = VOCAB_SIZE) -> BertTokenizer:
    """Train an uncased WordPiece vocabulary on ASCII text, the same one for the same text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # The trainer numbers continuation characters in the order of a hash table, and ties between merges go by number:
    # named beforehand, they get the same numbers each time.
    characters = sorted(set(tokenizer.normalizer.normalize_str(" ".join(documents))) - {" "})
    reserved = SPECIAL_TOKENS + [f"##{character}" for character in characters]
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=reserved)
    tokenizer.train_from_iterator(documents, trainer, length=len(documents))
    return BertTokenizer(vocab=tokenizer.get_vocab(), model_max_length=MAX_SEQ_LENGTH)


def new_model(tokenizer: BertTokenizer, blocks: Dataset) -> BertForMaskedLM:
    """A BERT that starts with word frequencies and sine-shaped positions, which saves it its slowest steps."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=4 * HIDDEN_SIZE,
        max_position_embeddings=MAX_SEQ_LENGTH,
        initializer_range=0.06,  # narrow layers need larger weights than the default, 0.02
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForMaskedLM(config)
    counts = np.bincount(np.concatenate(blocks.with_format("numpy")["input_ids"][:]), minlength=len(tokenizer)) + 1
    with torch.no_grad():
        model.cls.predictions.bias.copy_(torch.from_numpy(counts / counts.sum()).float().log())
        scale = math.sqrt(2) * config.initializer_range
        model.bert.embeddings.position_embeddings.weight.copy_(sinusoids(MAX_SEQ_LENGTH, HIDDEN_SIZE) * scale)
    return model


def sinusoids(num_positions: int, num_channels: int) -> torch.Tensor:
    """Sines and cosines of geometrically falling frequencies, `(num_positions, num_channels)`."""
    channels = torch.arange(num_channels)
    angles_TH = torch.arange(num_positions)[:, None] * 10_000.0 ** (-(channels - channels % 2) / num_channels)
    return torch.where(channels % 2 == 0, angles_TH.sin(), angles_TH.cos())


def train(model: BertForMaskedLM, tokenizer: BertTokenizer, blocks: Dataset, num_steps: int) -> BertForMaskedLM:
    """Train a model on masked words; bfloat16 where the processor multiplies it."""
    bf16 = multiplies_bfloat16(torch.device("cpu"))
    student = to_student(model)  # predicts at masked positions only
    if bf16:
        student.set_attn_implementation("eager")  # torch's fused attention is the slow one for bfloat16 on a CPU
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            max_steps=num_steps,
            per_device_train_batch_size=32,
            learning_rate=1.5e-3,
            warmup_steps=100,
            lr_scheduler_type="warmup_stable_decay",
            lr_scheduler_kwargs={"num_decay_steps": num_steps // 5},
            adam_beta2=0.98,
            adam_epsilon=1e-6,
            weight_decay=0.01,
            bf16=bf16,
            use_cpu=True,
            save_strategy="no",
            logging_steps=max(1, num_steps // 20),
            report_to="none",
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(
            model=student,
            args=arguments,
            train_dataset=blocks,
            data_collator=MaskedLMCollator(tokenizer, mlm_probability=0.3, seed=0),
            compute_loss_func=masked_loss,
        )
        trainer.train()
    return to_stock(student.float().eval())


def masked_loss(outputs: MaskedLMOutput, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Cross-entropy at the masked positions, which are the only ones with logits."""
    labels_M = labels[labels != IGNORED_LABEL]
    return functional.cross_entropy(outputs.logits.float(), labels_M)


def save(model: BertForMaskedLM, tokenizer: BertTokenizer, folder: Path) -> None:
    """Write weights in float16 under a configuration that says float32, which they are loaded in."""
    model.half().save_pretrained(folder)
    model.config.dtype = torch.float32
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
