"""Small tokenizers of the three kinds, trained on this project's pages, with special tokens of known models."""

from functools import cache
from pathlib import Path

from tiny_models import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertJapaneseTokenizer, PreTrainedTokenizerFast

PAGES = Path(__file__).resolve().parents[2] / "docs"
BERTS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
ROBERTAS = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
ROBERTAS |= {"cls_token": "<s>", "sep_token": "</s>"}


def paragraphs() -> list[str]:
    """Text to train tokenizers on, and to read with them."""
    pages = (PAGES / name for name in ("method.md", "results.md", "reliability.md"))
    return [part for page in pages for part in page.read_text(encoding="utf-8").split("\n\n") if part.strip()]


@cache
def trained_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose model is `WordPiece`, byte-level `BPE` or `Unigram`; the last two number pads as RoBERTa."""
    named = BERTS if kind == "WordPiece" else ROBERTAS
    special = list(dict.fromkeys(named.values()))
    first, last = named["cls_token"], named["sep_token"]
    if kind == "WordPiece":
        backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    elif kind == "BPE":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=900, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    else:
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=900, special_tokens=special, unk_token=named["unk_token"], show_progress=False
        )
    backend.train_from_iterator(paragraphs(), trainer)
    ends = {name: backend.token_to_id(name) for name in (first, last)}
    backend.post_processor = (
        processors.RobertaProcessing((last, ends[last]), (first, ends[first]))
        if kind == "BPE"
        else processors.TemplateProcessing(
            single=f"{first} $A {last}", pair=f"{first} $A {last} $B {last}", special_tokens=list(ends.items())
        )
    )
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, model_input_names=inputs, **named)


def python_tokenizer(folder: Path) -> BertJapaneseTokenizer:
    """A tokenizer in Python of the tiny tokenizer's words, which doesn't return what it cuts off."""
    words = sorted((known := tiny_tokenizer().get_vocab()), key=known.__getitem__)
    (folder / "vocab.txt").write_text("\n".join(words))
    return BertJapaneseTokenizer(
        str(folder / "vocab.txt"), word_tokenizer_type="basic", subword_tokenizer_type="wordpiece"
    )
