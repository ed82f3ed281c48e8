"""Rows of token ids → masked-LM batches whose masks depend on nothing but (seed, epoch, row).

Masks come from a counter-based generator. The data loader collates ahead of the training step, in other processes, and
in another order after a resume. So a sequential generator could not be restored bit for bit. blocks.py makes the rows.

Shapes: B batch, T tokens, M masked positions, S special tokens.
"""

import hashlib
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..files.messages import short_repr
from ..models.tokenizers import check_vocabulary

IGNORED_LABEL = -100  # what torch's cross entropy skips
UNKNOWN_CLASS = -101
"""Label of a prediction that counts though its class is unknown: the student learns its teacher's alone."""
UNKNOWN_VALUE = torch.finfo(torch.float32).min
"""The same in place of a number."""
EVALUATED_PROBABILITY = 0.15
"""Share of the tokens that evaluations mask: the usual 15 %, so that figures compare."""
_WORD_MASK = (1 << 64) - 1  # Philox takes its key and counter in words of 64 bits
_MASK_FRACTION, _RANDOM_FRACTION = 0.8, 0.1  # BERT (arXiv 1810.04805, section 3.1); the rest stays as it is


class SeededMasks:
    """Base of collators whose masks depend on nothing but (seed, epoch, row): seed, epoch and their generator.

    Raises:
        ValueError: `seed` out of range.
    """

    def __init__(self, seed: int) -> None:
        if not 0 <= seed <= _WORD_MASK:
            raise ValueError(f"seed={seed} is out of range; expected 0 … 2**64 - 1")
        self.seed = seed
        # In shared memory, so that a change also reaches data loader workers which are already running.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the pickled attributes; the epoch goes back into shared memory."""
        self.__dict__.update(state)
        self._epoch.share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch whose masks are drawn, 0 at first."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw the masks of another epoch, 0 or more, also in data loader workers started from here."""
        self._epoch.fill_(epoch)

    def generator(self) -> np.random.Philox:
        """Return the generator of this seed and epoch, at the start of the row whose [`row_counter`] is 0."""
        return np.random.Philox(key=np.array([self.seed, self.epoch], dtype=np.uint64))


class MaskedLMCollator(SeededMasks):
    """Batch rows and choose their masked tokens, reproducibly.

    In every row, exactly `round(mlm_probability · n)` of its `n` maskable tokens are chosen and get a label, at least
    one if n ≥ 1. Each chosen token becomes the mask token with probability 0.8 and a random ordinary token with 0.1;
    else it stays. Special tokens are never chosen. The unknown token may be chosen, but never replaces another.

    A row's mask depends on seed, epoch (`set_epoch`, which this package's trainers call), `example_id` and its
    maskable tokens alone. Batch, rank, worker and resumption don't change it.
    The generator is Philox with key (seed, epoch). Its counter holds the row's `example_id`; a row without
    `example_id` has a digest of its `input_ids` there.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Tokenizer of the rows; needs a mask token.
        mlm_probability (`float`, defaults to 0.15): Share of the maskable tokens to predict, in (0, 1).
        seed (`int`, defaults to 0): Seed of the masks, 0 … 2⁶⁴ − 1.

    Raises:
        ValueError: `mlm_probability` or `seed` out of range, or a tokenizer without a mask token or any ordinary one.

    Example:
    ```python
    >>> from transformers import BertTokenizer
    >>> tokenizer = BertTokenizer(vocab={t: i for i, t in enumerate("[PAD] [UNK] [CLS] [SEP] [MASK] a b c".split())})
    >>> collator = MaskedLMCollator(tokenizer, mlm_probability=0.5)
    >>> batch = collator([{"input_ids": [2, 5, 6, 7, 5, 3], "example_id": 0}])
    >>> batch["masked_positions"].tolist()
    [1, 3]
    >>> batch["labels"].tolist()
    [[-100, 5, -100, 7, -100, -100]]

    ```
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, mlm_probability: float = 0.15, seed: int = 0) -> None:
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ValueError(
                f"processing_class={tokenizer!r} is no tokenizer, so words can't be masked; pass the teacher's "
                "tokenizer, or a data_collator that gives labels"
            )
        if not 0.0 < mlm_probability < 1.0:
            raise ValueError(
                f"mlm_probability={mlm_probability} is out of range; expected a number between 0 and 1, "
                "both excluded (BERT: 0.15)"
            )
        super().__init__(seed)
        if tokenizer.mask_token_id is None:
            raise ValueError(
                f"tokenizer {type(tokenizer).__name__} has no mask token; use the tokenizer of a masked-LM teacher, "
                'or give it one: tokenizer.add_special_tokens({"mask_token": "[MASK]"})'
            )
        self.mlm_probability = mlm_probability
        self.mask_token_id: int = tokenizer.mask_token_id
        self.pad_token_id: int | None = tokenizer.pad_token_id
        self._unmaskable_ids_S = unmaskable_ids(tokenizer)
        self._random_ids = np.array(sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)))
        check_vocabulary(tokenizer)  # a chosen token may be replaced by any word

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Batch and mask rows.

        Args:
            rows (sequence of mappings): Each with `input_ids` (integers), and optionally `example_id` (an integer),
                `attention_mask` (0 or 1) and `token_type_ids`, the last two as long as `input_ids`. Other columns are
                ignored. Shorter rows are padded on the right.

        Returns:
            `dict[str, torch.Tensor]`: all int64. `input_ids` (B, T); `labels` (B, T), -100 where nothing is predicted;
            `masked_positions` (M,), the labelled positions in the flattened B·T, ascending; `attention_mask` (B, T)
            only where some row is padded; `token_type_ids` (B, T) only where the rows have them.

        Raises:
            ValueError: a row without `input_ids`, columns that are no integers or of other lengths, or rows to be
                padded by a tokenizer without a padding token.
        """
        for row in rows:
            if "input_ids" not in row:
                raise ValueError(
                    f"a row has columns {short_repr(sorted(map(str, row)))}, but no input_ids; make rows with "
                    "tokenize_to_blocks, and train with remove_unused_columns=False"
                )
        ids = [_integers(row, "input_ids") for row in rows]
        attention_BT = _stacked(_row_columns(rows, ids, "attention_mask", default=1), fill=0)
        lengths = sorted({len(row_ids) for row_ids in ids})
        if self.pad_token_id is None and len(lengths) > 1:
            raise ValueError(
                f"tokenizer has no padding token, but rows have {lengths[0]} to {lengths[-1]} input_ids; "
                'make them equally long, or give it one: tokenizer.add_special_tokens({"pad_token": "[PAD]"})'
            )
        input_BT = _stacked(ids, fill=self.pad_token_id or 0)
        # Labels and masks of the padded batch at once; the random words are still those of each row alone.
        counters = [row_counter(row, row_ids.astype("<i8").tobytes()) for row, row_ids in zip(rows, ids, strict=True)]
        label_BT = self.mask(input_BT, attention_BT, counters)
        batch = {
            "input_ids": input_BT,
            "labels": label_BT,
            "masked_positions": np.flatnonzero(label_BT != IGNORED_LABEL),
        }
        if not attention_BT.all():
            batch["attention_mask"] = attention_BT
        if all("token_type_ids" in row for row in rows):
            batch["token_type_ids"] = _stacked(_row_columns(rows, ids, "token_type_ids", default=0), fill=0)
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def mask(self, input_BT: np.ndarray, attention_BT: np.ndarray, counters: list[list[int]]) -> np.ndarray:
        """Replace the chosen tokens of `input_BT` in place and return the labels."""
        maskable_BT = ~np.isin(input_BT, self._unmaskable_ids_S) & (attention_BT == 1)
        chosen_M, words_2M = self._drawn(maskable_BT, counters)
        label_BT, tokens_M = np.full_like(input_BT, IGNORED_LABEL), input_BT.flat[chosen_M]
        label_BT.flat[chosen_M] = tokens_M
        # The first word of each chosen token decides between mask, random token and staying; the second is the token.
        action_M = np.ldexp(words_2M[0], -64)  # uniform in [0, 1)
        random_M = self._random_ids[words_2M[1] % np.uint64(len(self._random_ids))]
        replaced_M = np.where(action_M < _MASK_FRACTION + _RANDOM_FRACTION, random_M, tokens_M)
        input_BT.flat[chosen_M] = np.where(action_M < _MASK_FRACTION, self.mask_token_id, replaced_M)
        return label_BT

    def _drawn(self, maskable_BT: np.ndarray, counters: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Return flat positions of the chosen tokens, and two random words for each."""
        generator = self.generator()
        state: Any = generator.state  # reused: a new generator a row would draw entropy from the system in vain
        chosen, words = [np.empty(0, dtype=np.int64)], [np.empty((2, 0), dtype=np.uint64)]
        for row, (maskable_T, counter) in enumerate(zip(maskable_BT, counters, strict=True)):
            positions = np.flatnonzero(maskable_T)
            num_chosen = max(1, round(self.mlm_probability * len(positions)))
            if len(positions) > 0:
                state["state"]["counter"] = np.array(counter, dtype=np.uint64)
                generator.state = state
                # Raw words, which numpy keeps the same in all versions, unlike the values of distributions. One for
                # each maskable token: the lowest are chosen. Then two for each chosen token.
                drawn = generator.random_raw(len(positions) + 2 * num_chosen)
                first = np.argsort(drawn[: len(positions)], kind="stable")[:num_chosen]
                chosen.append(positions[first] + row * len(maskable_T))
                words.append(drawn[len(positions) :].reshape(2, num_chosen))
        return np.concatenate(chosen), np.concatenate(words, axis=1)


class ReplacedTokensCollator(MaskedLMCollator):
    """Batch rows and replace some tokens by random ones, for a discriminator; arguments as [`MaskedLMCollator`].

    The tokens that [`MaskedLMCollator`] would choose become random ordinary ones. `labels` (B, T) are 1 where a token
    changed, 0 where it didn't, -100 at special tokens and padding.
    """

    def mask(self, input_BT: np.ndarray, attention_BT: np.ndarray, counters: list[list[int]]) -> np.ndarray:
        """Replace the chosen tokens of `input_BT` in place and return the labels."""
        maskable_BT = ~np.isin(input_BT, self._unmaskable_ids_S) & (attention_BT == 1)
        chosen_M, words_2M = self._drawn(maskable_BT, counters)
        before_BT = input_BT.copy()
        input_BT.flat[chosen_M] = self._random_ids[words_2M[1] % np.uint64(len(self._random_ids))]
        # a token that was drawn for itself hasn't changed
        return np.where(maskable_BT, input_BT != before_BT, IGNORED_LABEL)


def unmaskable_ids(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return the ids that are no text, int64 and ascending: special tokens except for the unknown one."""
    structural = {getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad", "mask", "bos", "eos")}
    # Some vocabularies use one id as unknown and as end token; there it must stay unmaskable.
    unknown = {tokenizer.unk_token_id} - structural
    return np.array(sorted(set(tokenizer.all_special_ids) - unknown), dtype=np.int64)


def _row_columns(
    rows: Sequence[Mapping[str, Any]], ids: list[np.ndarray], name: str, *, default: int
) -> list[np.ndarray]:
    """Return a column of every row, as long as its input_ids; the default for rows without it."""
    columns = []
    for row, row_ids in zip(rows, ids, strict=True):
        columns.append(_integers(row, name) if name in row else np.full(len(row_ids), default))
        if (length := len(columns[-1])) != len(row_ids):
            raise ValueError(f"a row has {length} values of {name}, but {len(row_ids)} input_ids; make them equal")
    return columns


def _integers(row: Mapping[str, Any], name: str) -> np.ndarray:
    values = np.asarray(row[name])
    # numpy makes floats of an empty list
    if values.ndim != 1 or not (len(values) == 0 or np.can_cast(values.dtype, np.int64)):
        raise ValueError(f"a row has {name}={short_repr(row[name])}; expected a flat list of integers")
    return values.astype(np.int64, copy=False)


def row_counter(row: Mapping[str, Any], content: bytes) -> list[int]:
    """Return the counter at which a row's random words start; Philox counts word 0 up, so rows never overlap.

    Word 1 is the row's `example_id`, an integer, or else a digest of the row's `content`.
    """
    if "example_id" not in row:
        digest = hashlib.blake2b(content, digest_size=8).digest()
        # word 2 keeps digests apart from numbers of rows
        return [0, int.from_bytes(digest, "little"), 1, 0]
    try:
        return [0, operator.index(row["example_id"]) & _WORD_MASK, 0, 0]
    except TypeError as error:
        raise ValueError(f"a row has example_id={short_repr(row['example_id'])}; expected an integer") from error


def _stacked(rows: list[np.ndarray], *, fill: int) -> np.ndarray:
    """Rows of different lengths → (B, longest), filled on the right."""
    stacked_BT = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for target_T, row in zip(stacked_BT, rows, strict=True):
        target_T[: len(row)] = row
    return stacked_BT
