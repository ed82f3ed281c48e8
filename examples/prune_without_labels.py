r"""Prune a fine-tuned model in forward passes on text without labels: no gradients, no training.

    python examples/prune_without_labels.py --model my-sst2-bert --text "reviews/*.txt" --macs 0.7 --output_dir out

`homodistil prune` does the same. Layers come out with different widths; the export is padded to the widest, so that
it is of the stock class.
"""

import argparse

from transformers import AutoConfig, AutoTokenizer

from homodistil_hf import (
    GradientFreeSettings,
    export_student,
    load_text,
    max_tokens,
    prune_gradient_free,
    unlabeled_batches,
    verify_export,
)
from homodistil_hf.methods.gradient_free.pruning import export_facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hub name or folder of a fine-tuned BERT")
    parser.add_argument("--text", required=True, help="file, folder, glob or Hub data set; labels are not looked at")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--macs", type=float, default=0.6, help="share of the encoder's MACs to keep")
    parser.add_argument("--num_samples", type=int, default=2048)
    parser.add_argument("--ranking", default="r2d2", help="r2d2, r2 or d2")
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    rows = load_text(options.text).shuffle(seed=0)
    texts = rows.select(range(min(options.num_samples, len(rows))))["text"][:]
    length = min(128, max_tokens(AutoConfig.from_pretrained(options.model)))
    batches = unlabeled_batches([texts], tokenizer, num_rows=options.num_samples, max_length=length)
    settings = GradientFreeSettings(ranking=options.ranking)
    student = prune_gradient_free(options.model, batches, options.macs, settings=settings)
    sizes = [layer.intermediate.dense.out_features for layer in student.base_model.encoder.layer]
    print(f"{student.num_parameters():,} parameters, FFN neurons a layer: {sizes}")

    told = {"teacher": options.model, "facts": export_facts(settings, batches)}
    folder = export_student(student, options.output_dir, tokenizer=tokenizer, **told)
    problems = verify_export(folder).problems
    print(f"{folder}: {'; '.join(problems) or 'loads without this package, with the same logits'}")


if __name__ == "__main__":
    main()
