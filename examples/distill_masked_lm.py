r"""Distil a masked-LM BERT to a quarter of its encoder MACs, export it, and load it with stock transformers.

python examples/distill_masked_lm.py --teacher google-bert/bert-base-uncased --text "my_corpus/*.txt" --output_dir out
"""

import argparse
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, BertForMaskedLM

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments, load_text, max_tokens, tokenize_to_blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="Hub name or folder of a BertForMaskedLM")
    parser.add_argument("--text", required=True, nargs="+", help="files, globs or Hub data sets")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--student", default="macs=0.25", help="preset, budget or plan")
    parser.add_argument("--max_steps", type=int, default=1000)
    parser.add_argument("--max_seq_length", type=int, help="default: 128, or the model's positions")
    parser.add_argument("--batch_size", type=int, default=32)
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    length = options.max_seq_length or min(128, max_tokens(AutoConfig.from_pretrained(options.teacher)))
    blocks = tokenize_to_blocks(load_text(options.text), tokenizer, max_seq_length=length)
    if len(blocks) <= options.batch_size:
        parser.error(f"--text makes {len(blocks)} blocks of {length} tokens, fewer than a step and one to measure on")
    num_held_out = min(1000, max(1, len(blocks) // 20), len(blocks) - options.batch_size)
    parts = blocks.train_test_split(test_size=num_held_out, seed=0)
    trainer = HomoDistilTrainer(
        model=options.teacher,
        args=HomoDistilTrainingArguments(
            output_dir=options.output_dir,
            student=options.student,
            max_steps=options.max_steps,
            per_device_train_batch_size=options.batch_size,
            logging_steps=max(1, options.max_steps // 100),
            report_to="none",
        ),
        train_dataset=parts["train"],
        eval_dataset=parts["test"],
        processing_class=tokenizer,
    )
    trainer.train()
    metrics = trainer.evaluate()
    print(f"KL to the teacher {metrics['eval_kl']:.3f} nats, masked words right {metrics['eval_mlm_accuracy']:.3f}")

    folder = trainer.export(Path(options.output_dir) / "student")
    student = BertForMaskedLM.from_pretrained(folder)
    print(f"{folder}: {student.num_parameters():,} parameters, hidden size {student.config.hidden_size}")


if __name__ == "__main__":
    main()
