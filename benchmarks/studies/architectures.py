"""Teachers of other architectures, trained here as no public checkpoint could be loaded, and their students.

    python -m benchmarks.studies.architectures teacher --architecture modernbert --text FILE … --output_dir FOLDER
    python -m benchmarks.studies.architectures teacher --architecture roberta --start BERT --max_steps 900 --text …
    homodistil sweep benchmarks/studies/architectures.json
    python -m benchmarks.studies.architectures table

A teacher gets a byte-level BPE tokenizer of its own and the small stock masked-LM class. It starts from random
weights. A RoBERTa can start from a BERT's layers, each of its tokens from the mean of the BERT's pieces: from random
weights it would take hours to learn more than the frequency of words.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, BertForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast, set_seed

from benchmarks.quiet import QUIET
from benchmarks.studies.study import Study
from homodistil_hf.data.blocks import tokenize_to_blocks
from homodistil_hf.data.corpus import load_text
from homodistil_hf.distillation.teacher import multiplies_bfloat16
from homodistil_hf.experiments.sweep.folder import read_records
from homodistil_hf.files.caches import keep_datasets_here
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.methods.self_distillation.trainer import SelfDistillationArguments, SelfDistillTrainer
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.tables import markdown_table

ROW_LENGTH, BATCH_SIZE, VOCABULARY = 128, 32, 12_000
SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
SPECIAL |= {"cls_token": "<s>", "sep_token": "</s>"}
SHAPES: dict[str, dict[str, Any]] = {
    "roberta": {"num_attention_heads": 8, "intermediate_size": 1024, "max_position_embeddings": ROW_LENGTH + 2},
    "modernbert": {"num_attention_heads": 4, "intermediate_size": 512, "max_position_embeddings": ROW_LENGTH},
}
SHARED = {"hidden_size": 256, "num_hidden_layers": 6}


def train_teacher(options: argparse.Namespace) -> None:
    """Train tokenizer and model on masked words, and write both."""
    keep_datasets_here()
    documents: Any = load_text(options.text, argument="text")
    tokenizer = trained_tokenizer(documents)
    blocks = tokenize_to_blocks(documents, tokenizer, max_seq_length=ROW_LENGTH)
    set_seed(0)
    model = (
        new_model(options.architecture, tokenizer) if options.start is None else roberta_of(options.start, tokenizer)
    )
    args = SelfDistillationArguments(
        output_dir=str(options.output_dir / "training"),
        max_steps=options.max_steps,
        learning_rate=options.learning_rate,
        warmup_steps=options.max_steps // 20,
        seed=0,
        per_device_train_batch_size=BATCH_SIZE,
        bf16=multiplies_bfloat16(torch.device("cpu")),
        logging_steps=100,
        overwrite_output_dir=True,
        **QUIET,
    )
    SelfDistillTrainer(model, args, train_dataset=blocks, processing_class=tokenizer).train()
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


def new_model(name: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Random weights, no dropout."""
    architecture = ARCHITECTURES[name]
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "pad", "eos", "cls", "sep")}
    values = {architecture.named(word): value for word, value in (SHARED | SHAPES[name]).items()}
    values |= dict.fromkeys(architecture.dropouts, 0.0)
    config = architecture.stock_config(vocab_size=len(tokenizer), **values, **ids)
    return architecture.heads[0].stock(config)


@torch.no_grad()
def roberta_of(folder: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A RoBERTa with a BERT's layers, and words that are made of its pieces; without dropout."""
    bert = BertForMaskedLM.from_pretrained(folder, dtype=torch.float32)
    old, architecture = bert.config, ARCHITECTURES["roberta"]
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "pad", "eos")}
    same = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "layer_norm_eps")
    offset = tokenizer.pad_token_id + 1
    config = architecture.stock_config(
        vocab_size=len(tokenizer),
        max_position_embeddings=ROW_LENGTH + offset,
        type_vocab_size=1,
        **{name: getattr(old, name) for name in same},
        **dict.fromkeys(architecture.dropouts, 0.0),
        **ids,
    )
    model: Any = architecture.heads[0].stock(config)
    model.roberta.encoder.load_state_dict(bert.bert.encoder.state_dict())
    tables, before = model.roberta.embeddings, bert.bert.embeddings
    tables.LayerNorm.load_state_dict(before.LayerNorm.state_dict())
    tables.token_type_embeddings.weight.copy_(before.token_type_embeddings.weight[:1])
    tables.position_embeddings.weight[offset:].copy_(before.position_embeddings.weight[:ROW_LENGTH])
    model.lm_head.dense.load_state_dict(bert.cls.predictions.transform.dense.state_dict())
    model.lm_head.layer_norm.load_state_dict(bert.cls.predictions.transform.LayerNorm.state_dict())
    reader = AutoTokenizer.from_pretrained(folder)
    special = {getattr(tokenizer, name): getattr(reader, name) for name in ("cls_token", "sep_token", "pad_token")}
    special |= {tokenizer.mask_token: reader.mask_token, tokenizer.unk_token: reader.unk_token}
    bias = bert.get_output_embeddings().bias
    for token, index in tokenizer.get_vocab().items():
        text = special.get(token) or tokenizer.decode([index])
        pieces = reader(text, add_special_tokens=False)["input_ids"] or [reader.unk_token_id]
        tables.word_embeddings.weight[index] = before.word_embeddings.weight[pieces].mean(0)
        model.lm_head.bias[index] = bias[pieces].mean()
    return model


def write_table(options: argparse.Namespace) -> None:
    """Record how held-out KL fell in each cell of the sweep, and write the page's table."""
    rows = [
        {
            "cell": record["cell"],
            "num_steps": record["num_steps"],
            "kl": {str(found["step"]): found["kl"] for found in record["evaluations"]},
            "accuracy": [record[side]["mlm_accuracy"] for side in ("teacher_evaluation", "evaluation")],
            "num_parameters": [record["models"][side]["num_parameters"] for side in ("teacher", "student")],
        }
        for record in sorted(read_records(options.sweep / "results.jsonl"), key=lambda record: record["cell"])
    ]
    STUDY.write({"rows": rows, "machine": machine_facts()})
    STUDY.show()


def students_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row a cell of the sweep: held-out KL as it falls."""
    steps = sorted({int(step) for row in rows for step in row["kl"]})
    cells = []
    for row in rows:
        architecture, _, way = row["cell"].partition(",")[0].partition("_")
        curve = (f"{row['kl'][str(step)]:.3f}" if str(step) in row["kl"] else "–" for step in steps)
        words = " → ".join(f"{share:.1%}" for share in row["accuracy"])
        sizes = " → ".join(f"{number / 1e6:.1f} M" for number in row["num_parameters"])
        cells.append([f"`{architecture}`", "gradually" if way else "at once", *curve, words, sizes])
    header = ["architecture", "pruned", *(f"KL, step {step}" for step in steps), "right words", "parameters"]
    return markdown_table(header, cells)


STUDY = Study(
    Path("docs/results/architectures.json"),
    Path("docs/architectures.md"),
    lambda record: {"runs": students_table(record["rows"])},
)
RUNS = {"teacher": train_teacher, "table": write_table}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("--architecture", choices=SHAPES, default="roberta")
    parser.add_argument("--start", help="teacher: BERT that a RoBERTa begins as; default: random weights")
    parser.add_argument("--text", nargs="+", help="teacher: text to train on")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/architectures/roberta"))
    parser.add_argument("--max_steps", type=int, default=3000)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--sweep", type=Path, default=Path("runs/sweeps/architectures"), help="table: its folder")
    options = parser.parse_args(arguments)
    RUNS[options.run](options)


if __name__ == "__main__":
    main()
