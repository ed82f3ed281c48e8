r"""Further pre-train a masked-LM BERT on your own text with self-distillation, and load what comes out.

python examples/further_pretraining.py --model google-bert/bert-base-uncased --text "my_corpus/*.txt" --output_dir out

The same command with --resume goes on where it was stopped.
"""

import argparse

from transformers import AutoConfig, AutoTokenizer, BertForMaskedLM

from homodistil_hf import SelfDistillationArguments, load_text, max_tokens, self_distill, tokenize_to_blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hub name or folder of a BertForMaskedLM")
    parser.add_argument("--text", required=True, nargs="+", help="files, globs or Hub data sets")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--num_rounds", type=int, default=1)
    parser.add_argument("--max_steps", type=int, default=1000, help="of each round")
    parser.add_argument("--max_seq_length", type=int, help="default: 128, or the model's positions")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    length = options.max_seq_length or min(128, max_tokens(AutoConfig.from_pretrained(options.model)))
    blocks = tokenize_to_blocks(load_text(options.text), tokenizer, max_seq_length=length)
    if len(blocks) <= options.batch_size:
        parser.error(f"--text makes {len(blocks)} blocks of {length} tokens, fewer than a step and one to measure on")
    num_held_out = min(1000, max(1, len(blocks) // 20), len(blocks) - options.batch_size)
    parts = blocks.train_test_split(test_size=num_held_out, seed=0)
    result = self_distill(
        options.model,
        SelfDistillationArguments(
            output_dir=options.output_dir,
            num_rounds=options.num_rounds,
            max_steps=options.max_steps,
            per_device_train_batch_size=options.batch_size,
            resume_from_checkpoint="last" if options.resume else None,
            logging_steps=max(1, options.max_steps // 100),
            report_to="none",
        ),
        train_dataset=parts["train"],
        eval_dataset=parts["test"],
        processing_class=tokenizer,
    )
    for number, logs in enumerate(result["rounds"]):
        print(f"round {number}: held-out masked loss {logs['eval_loss']:.3f} nats a prediction")
    model = BertForMaskedLM.from_pretrained(result["student"])
    print(f"{result['student']}: {model.num_parameters():,} parameters, ready to fine-tune or to distil")


if __name__ == "__main__":
    main()
