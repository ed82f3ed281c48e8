r"""Draw text from a masked-LM model, for a teacher whose own training text is not at hand.

python examples/sample_text.py --model my-antibody-bert --output text.parquet --num_rows 4000
homodistil distill --teacher my-antibody-bert --train_data text.parquet --packing false --student macs=0.25 \
  --output_dir out

In each round a share of a row's places, drawn at random, is masked and drawn anew from the model's predictions: all of
them in the first round, few in the last. More rounds take longer and make rows more like the model's own text.
"""

import argparse
from collections.abc import Iterator

import torch
from datasets import Dataset
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from homodistil_hf import max_tokens

SHARES = (1.0, 0.05)
"""Of the places that are drawn anew, in the first round and in the last."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hub name or folder of a masked-LM model")
    parser.add_argument("--output", required=True, help="parquet file with a column text")
    parser.add_argument("--num_rows", type=int, default=4000)
    parser.add_argument("--lengths", type=int, nargs=2, help="tokens of a row, least and most; default: 100 126")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForMaskedLM.from_pretrained(options.model, dtype="float32").eval()
    most = max_tokens(model.config) - len(tokenizer("")["input_ids"])
    shortest, longest = options.lengths or (min(100, most), min(126, most))
    if not 1 <= shortest <= longest <= most:
        parser.error(f"--lengths {shortest} {longest}: expected two from 1 to {most}, the smaller one first")
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    texts: list[str] = []
    while len(texts) < options.num_rows:
        rows = first_rows(tokenizer, options.batch_size, shortest, longest).to(model.device)
        texts += texts_of(draw(model, tokenizer, rows, options.rounds), tokenizer)
        print(f"{min(len(texts), options.num_rows):,} of {options.num_rows:,} rows", flush=True)
    Dataset.from_dict({"text": texts[: options.num_rows]}).to_parquet(options.output)


def first_rows(tokenizer: PreTrainedTokenizerBase, num_rows: int, shortest: int, longest: int) -> torch.Tensor:
    """Rows of random tokens between the special ones, padded to the longest; int64, rows × tokens."""
    words = torch.tensor(sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids)))
    lengths = torch.randint(shortest, longest + 1, (num_rows,)).tolist()
    drawn = [words[torch.randint(len(words), (length,))].tolist() for length in lengths]
    start, *end = tokenizer("")["input_ids"]
    whole = [[start, *row, *end] for row in drawn]
    return tokenizer.pad({"input_ids": whole}, return_tensors="pt")["input_ids"]


@torch.inference_mode()
def draw(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: torch.Tensor, num_rounds: int
) -> torch.Tensor:
    """Draw the places of rows anew, round by round, from the model's predictions; special tokens stay."""
    special = torch.tensor(tokenizer.all_special_ids, device=rows.device)
    is_word, is_text = ~torch.isin(rows, special), rows != tokenizer.pad_token_id
    for share in shares(num_rounds):
        masked = is_word & (torch.rand(rows.shape, device=rows.device) < share)
        inputs = rows.masked_fill(masked, tokenizer.mask_token_id)
        logits = model(input_ids=inputs, attention_mask=is_text.long()).logits[masked]
        logits[:, special] = -torch.inf
        logits[:, len(tokenizer) :] = -torch.inf  # rows that pad a vocabulary are no words
        rows = rows.masked_scatter(masked, torch.multinomial(logits.softmax(-1), 1).squeeze(1))
    return rows


def shares(num_rounds: int) -> Iterator[float]:
    """The share of places of each round, falling evenly."""
    first, last = SHARES
    for number in range(num_rounds):
        yield first + (last - first) * number / max(1, num_rounds - 1)


def texts_of(rows: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Rows as text."""
    return tokenizer.batch_decode(rows.tolist(), skip_special_tokens=True)


if __name__ == "__main__":
    main()
