"""Teachers of layouts whose public weights can't be had here: trained on masked words, and their students.

    python -m benchmarks.studies.layout_teachers nomic_bert --text FILE … --output_dir runs/layouts/nomic_bert

A teacher has 6 layers of 256 channels, a byte-level BPE tokenizer of its own, and starts from random weights.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, set_seed

from homodistil_hf.data.blocks import tokenize_to_blocks
from homodistil_hf.data.corpus import load_text
from homodistil_hf.distillation.teacher import multiplies_bfloat16
from homodistil_hf.methods.self_distillation.trainer import SelfDistillationArguments, SelfDistillTrainer
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.architectures.architecture import MASKED_LM

ROW_LENGTH, BATCH_SIZE, VOCABULARY = 128, 32, 12_000
SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
SPECIAL |= {"cls_token": "<s>", "sep_token": "</s>"}
SHARED = {"hidden_size": 256, "num_hidden_layers": 6, "max_position_embeddings": ROW_LENGTH}
SHAPES: dict[str, dict[str, Any]] = {
    "nomic_bert": {"num_attention_heads": 8, "head_dim": 32, "intermediate_size": 640},
    "eurobert": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32, "intermediate_size": 704},
}
"""FFNs are gated, so their three matrices are as large as the two of 4 × 256 neurons."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", choices=SHAPES)
    parser.add_argument("--text", nargs="+", required=True, help="what to train on")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--max_steps", type=int, default=3000)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    options = parser.parse_args()
    documents: Any = load_text(options.text, argument="text")
    tokenizer = trained_tokenizer(documents)
    blocks = tokenize_to_blocks(documents, tokenizer, max_seq_length=ROW_LENGTH)
    set_seed(0)
    model = new_model(options.layout, tokenizer)
    args = SelfDistillationArguments(
        output_dir=str(options.output_dir / "training"),
        max_steps=options.max_steps,
        learning_rate=options.learning_rate,
        warmup_steps=options.max_steps // 20,
        seed=0,
        per_device_train_batch_size=BATCH_SIZE,
        bf16=multiplies_bfloat16(torch.device("cpu")),
        save_steps=500,
        save_total_limit=1,
        logging_steps=100,
        disable_tqdm=True,
        report_to="none",
    )
    trainer = SelfDistillTrainer(model, args, train_dataset=blocks, processing_class=tokenizer)
    trainer.train(resume_from_checkpoint=any((options.output_dir / "training").glob("checkpoint-*")) or None)
    model.save_pretrained(options.output_dir / "teacher")
    tokenizer.save_pretrained(options.output_dir / "teacher")


def trained_tokenizer(documents: Dataset) -> PreTrainedTokenizerFast:
    """Byte-level BPE, special tokens first as RoBERTa has them."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(dict.fromkeys(SPECIAL.values())),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator((part["text"] for part in documents.iter(1000)), trainer)
    ends = [(SPECIAL[name], backend.token_to_id(SPECIAL[name])) for name in ("sep_token", "cls_token")]
    backend.post_processor = processors.RobertaProcessing(*ends)
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=ROW_LENGTH, model_input_names=inputs, **SPECIAL
    )


def new_model(layout: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Random weights, no dropout."""
    architecture = ARCHITECTURES[layout]
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "pad", "eos", "mask")}
    no_dropout = dict.fromkeys(architecture.dropouts, 0.0)
    config = architecture.config.stock(vocab_size=len(tokenizer), **SHARED, **SHAPES[layout], **ids, **no_dropout)
    return next(head.stock for head in architecture.heads if head.kind is MASKED_LM)(config)


if __name__ == "__main__":
    main()
