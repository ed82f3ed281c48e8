r"""Write further rows without labels: copies in which a masked-LM model fills in some of the words anew.

    python examples/augment_rows.py --model bert-base-uncased --rows train.parquet --text_columns sentence1 sentence2 \
        --output more.parquet --num_copies 4

A student that learns from its teacher's answers needs no labels: `homodistil distill` reads the file as `train_data`,
with the task's model as teacher. The rows themselves come first, with all their columns.
"""

import argparse
from contextlib import suppress

import torch
from datasets import Dataset, concatenate_datasets
from tqdm import tqdm
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from homodistil_hf import max_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hub name or folder of a masked-LM model")
    parser.add_argument("--rows", required=True, help="parquet file")
    parser.add_argument("--text_columns", nargs="+", default=["text"], help="one, or two of a pair")
    parser.add_argument("--output", required=True, help="parquet file to write")
    parser.add_argument("--num_copies", type=int, default=1, help="of each row")
    parser.add_argument("--masked", nargs=2, type=float, default=[0.15, 0.4], help="share of tokens, least and most")
    parser.add_argument("--top_k", type=int, default=20, help="likeliest tokens that one is drawn from")
    parser.add_argument("--max_length", type=int, help="tokens of a row, default: 128, or what fits; more are cut")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the model")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not 0 < options.masked[0] <= options.masked[1] <= 1:
        parser.error(f"--masked {options.masked}: expected two shares in (0, 1], the smaller one first")
    rows = Dataset.from_parquet(options.rows)
    if unknown := [name for name in options.text_columns if name not in rows.column_names]:
        parser.error(f"--text_columns {unknown}: {options.rows} has {rows.column_names}; name one or two of these")
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    if tokenizer.mask_token_id is None:
        parser.error(f"--model {options.model}: its tokenizer has no mask token; name a masked-LM model")

    torch.manual_seed(options.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForMaskedLM.from_pretrained(options.model, dtype=options.dtype).eval().to(device)
    most = tokenizer.model_max_length
    with suppress(ValueError):  # an architecture that isn't known: its tokenizer says
        most = min(most, max_tokens(model.config))
    options.max_length = options.max_length or min(128, most)
    if options.max_length > most:
        parser.error(f"--max_length {options.max_length}: the model reads {most} tokens")
    parts = [rows]
    # rows of like length stand together, for little padding; those that lack a text have no copy
    texts_of = (tuple(row[name] for name in options.text_columns) for row in rows)
    lengths = {number: sum(map(len, texts)) for number, texts in enumerate(texts_of) if all(texts)}
    by_length = rows.select_columns(options.text_columns).select(sorted(lengths, key=lengths.__getitem__))
    for number in range(1, options.num_copies + 1):
        texts: dict[str, list[str]] = {name: [] for name in options.text_columns}
        batches = by_length.iter(options.batch_size)
        num_batches = -(-len(by_length) // options.batch_size)
        for batch in tqdm(batches, f"copy {number} of {options.num_copies}", num_batches, mininterval=5):
            filled = refilled([batch[name] for name in options.text_columns], model, tokenizer, options)
            for name, found in zip(options.text_columns, filled, strict=True):
                texts[name] += found
        parts.append(Dataset.from_dict(texts, features=by_length.features))
    # what a copy has no column of is null
    everything = concatenate_datasets(parts)
    everything.to_parquet(options.output)
    print(f"{options.output}: {len(everything):,} rows, {len(rows):,} of them as they were")


@torch.inference_mode()
def refilled(
    texts: list[list[str]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    options: argparse.Namespace,
) -> list[list[str]]:
    """Texts of each column, with some of their tokens drawn anew."""
    how = {"padding": True, "truncation": True, "max_length": options.max_length, "return_tensors": "pt"}
    encoded = tokenizer(*texts, return_special_tokens_mask=True, **how)
    is_special = encoded.pop("special_tokens_mask").bool()
    # each row has a share of its own, and at least one token is drawn
    least, most = options.masked
    shares = least + (most - least) * torch.rand(len(is_special), 1)
    draws = torch.rand(is_special.shape).masked_fill(is_special, 2)
    masked = (draws < shares) | ((draws == draws.min(1, keepdim=True).values) & ~is_special)
    ids = encoded["input_ids"].clone()
    encoded["input_ids"][masked] = tokenizer.mask_token_id
    # the last layer has a row a word, and takes as long as all others if it reads every token
    masked_there = masked.to(model.device)
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, given: (given[0][masked_there],))
    logits = model(**encoded.to(model.device)).logits.float().cpu()
    hook.remove()
    # special tokens are no words, nor are rows of a padded vocabulary
    logits[:, tokenizer.all_special_ids] = -torch.inf
    logits[:, len(tokenizer) :] = -torch.inf
    likeliest = logits.topk(options.top_k)
    chosen = likeliest.values.softmax(-1).multinomial(1)
    ids[masked] = likeliest.indices.gather(1, chosen)[:, 0]
    columns: list[list[str]] = [[] for _ in texts]
    for row, row_ids in enumerate(ids):
        places = encoded.sequence_ids(row)
        for column, found in enumerate(columns):
            own = [int(token) for token, place in zip(row_ids, places, strict=True) if place == column]
            found.append(tokenizer.decode(own))
    return columns


if __name__ == "__main__":
    main()
