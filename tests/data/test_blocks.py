"""Blocks of documents: exact, cached, the same from tables and streams, on several ranks and in several workers."""

import itertools

import datasets
import numpy as np
import pytest
import torch
from accelerate.data_loader import IterableDatasetShard
from datasets import Dataset, IterableDataset, Value
from datasets.distributed import split_dataset_by_node
from rows import each
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, PreTrainedTokenizerFast, RobertaConfig

from homodistil_hf.data import blocks as data
from homodistil_hf.data.blocks import TextPacker, repeat_stream, tokenize_to_blocks
from homodistil_hf.data.corpus import load_text
from homodistil_hf.models.tokenizers import check_tokenizer

SENTENCES = [
    "A student that starts as a copy of its teacher has nothing to forget.",
    "Width is pruned while the model is distilled, a few units at a time.",
    "The teacher stays frozen; the student follows it, block by block.",
    "Schedules are cubic, masks only shrink, and scores are smoothed.",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LENGTH = 16


def make_documents(num_documents, *, seed=0):
    """Documents of one to six sentences, with some missing or blank ones in between."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(SENTENCES, rng.integers(1, 7))) for _ in range(num_documents)]
    texts[3::10], texts[5::10] = [None] * len(texts[3::10]), ["  \n"] * len(texts[5::10])
    return texts


def make_tokenizer(**settings):
    """Pieces of one character each."""
    chars = sorted({*"".join(SENTENCES).lower()} - {" "})
    words = [*SPECIAL, *chars, *(f"##{char}" for char in chars)]
    backend = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    names = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{**names, **settings})


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def texts():
    return make_documents(150)


@pytest.fixture
def text_files(texts, tmp_path):
    """The documents in two files, so that the stream has two shards, of several steps."""
    paths = []
    for i, part in enumerate((texts[:70], texts[70:])):
        paths.append(str(tmp_path / f"{i}.jsonl"))
        Dataset.from_dict({"text": part}).to_json(paths[-1])
    return paths


def token_stream(texts, tokenizer):
    """Slow reference: tokenize one document after the other, each followed by a separator."""
    stream = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False) if text and text.strip() else []
        stream += [*ids, tokenizer.sep_token_id] if ids else []
    return stream


def reference_blocks(texts, tokenizer, length=LENGTH):
    stream, step = token_stream(texts, tokenizer), length - 2
    starts = range(0, len(stream) - step + 1, step)
    return [[tokenizer.cls_token_id, *stream[i : i + step], tokenizer.sep_token_id] for i in starts]


def table(texts):
    return Dataset.from_dict({"text": texts})


def ids_of(rows):
    return [list(row["input_ids"]) for row in rows]


def test_blocks_equal_the_slow_reference(tokenizer, texts):
    # a table so small starts no processes, which would lose text
    blocks = tokenize_to_blocks(table(texts), tokenizer, max_seq_length=LENGTH, num_proc=8)
    expected = reference_blocks(texts, tokenizer)
    assert len(expected) > 50
    assert ids_of(blocks) == expected
    assert list(blocks["example_id"]) == list(range(len(expected)))


def test_columns_and_types(tokenizer, texts):
    documents = table(texts).rename_column("text", "body")
    documents = documents.add_column("input_ids", ["another column of that name"] * len(texts))
    for dataset in (documents, documents.to_iterable_dataset()):
        blocks = tokenize_to_blocks(dataset, tokenizer, max_seq_length=LENGTH, text_column="body")
        assert ids_of(blocks) == reference_blocks(texts, tokenizer)
        assert list(blocks.features) == ["input_ids", "example_id"]
        assert blocks.features["input_ids"].length == LENGTH
        assert blocks.features["input_ids"].feature == Value("uint16")
        assert blocks.features["example_id"] == Value("int64")


def test_only_the_end_of_each_batch_is_lost(tokenizer, texts, monkeypatch):
    monkeypatch.setattr(data, "_batch_size", lambda documents, text_column: 7)
    blocks = tokenize_to_blocks(table(texts), tokenizer, max_seq_length=LENGTH)
    batches = [texts[i : i + 7] for i in range(0, len(texts), 7)]
    assert ids_of(blocks) == [ids for batch in batches for ids in reference_blocks(batch, tokenizer)]
    assert list(blocks["example_id"]) == list(range(len(blocks)))


@pytest.mark.slow
def test_several_processes_give_the_same_blocks(tokenizer, texts, monkeypatch):
    monkeypatch.setattr(data, "_batch_size", lambda documents, text_column: 5)
    one = tokenize_to_blocks(table(texts), tokenizer, max_seq_length=LENGTH)
    two = tokenize_to_blocks(table(texts), tokenizer, max_seq_length=LENGTH, num_proc=2)
    assert ids_of(one) == ids_of(two)
    assert list(two["example_id"]) == list(range(len(one)))


@pytest.fixture
def num_encoded(monkeypatch):
    """Counts the batches that are really tokenized."""
    counts, encode = [], TextPacker.encode

    def counting(self, texts):
        counts.append(1)
        return encode(self, texts)

    monkeypatch.setattr(TextPacker, "encode", counting)
    return counts


def test_second_call_reuses_the_cache(text_files, num_encoded):
    first = tokenize_to_blocks(load_text(text_files), make_tokenizer(), max_seq_length=LENGTH)
    assert len(num_encoded) == 1
    used = make_tokenizer()
    used(SENTENCES, padding="max_length", truncation=True, max_length=7)  # changes the tokenizer's inner state
    second = tokenize_to_blocks(load_text(text_files), used, max_seq_length=LENGTH)
    assert len(num_encoded) == 1
    assert second.cache_files == first.cache_files
    assert len(first.cache_files) == 1
    assert ids_of(second) == ids_of(first)


def test_other_texts_tokenizers_and_lengths_are_not_taken_from_the_cache(text_files, tokenizer, num_encoded):
    other_tokenizer = make_tokenizer()
    other_tokenizer.add_tokens(["stays frozen"])
    base = tokenize_to_blocks(load_text(text_files), tokenizer, max_seq_length=LENGTH)
    for documents, chosen, length in (
        (load_text(text_files), tokenizer, LENGTH + 1),
        (load_text(text_files), other_tokenizer, LENGTH),
        (load_text(text_files[:1]), tokenizer, LENGTH),
    ):
        blocks = tokenize_to_blocks(documents, chosen, max_seq_length=length)
        assert ids_of(blocks) != ids_of(base)
    assert len(num_encoded) == 4


@pytest.fixture
def stream(text_files, tokenizer):
    source = load_text(text_files, streaming=True)
    assert source.num_shards == 2
    return tokenize_to_blocks(source, tokenizer, max_seq_length=LENGTH)


def test_streams_give_the_same_blocks_as_tables(stream, texts, tokenizer):
    assert isinstance(stream, IterableDataset)
    rows = list(stream)
    assert ids_of(rows) == reference_blocks(texts, tokenizer)
    assert [row["example_id"] for row in rows] == list(range(len(rows)))
    assert list(stream) == rows  # once more from the beginning


def test_a_stream_of_many_files_keeps_them_apart_for_ranks(texts, tokenizer, tmp_path):
    files = []
    for place in range(16):
        files.append(tmp_path / f"{place:02}.jsonl")
        Dataset.from_dict({"text": texts[9 * place : 9 * place + 9]}).to_json(files[-1])
    stream = tokenize_to_blocks(load_text(files, streaming=True), tokenizer, max_seq_length=LENGTH)
    assert stream.num_shards == 16
    endless, all_ids = repeat_stream(stream), []
    for place in range(16):
        rows = list(stream.shard(16, place))
        assert ids_of(rows) == reference_blocks(texts[9 * place : 9 * place + 9], tokenizer)
        assert [row["example_id"] for row in rows] == list(range(place, 16 * len(rows), 16))
        twice = list(endless.shard(16, place).take(2 * len(rows)))
        assert ids_of(twice) == 2 * ids_of(rows)
        all_ids += [row["example_id"] for row in twice]
    assert len({*all_ids}) == len(all_ids)
    Dataset.from_dict({"text": ["The"]}).to_json(files[5])
    stream = tokenize_to_blocks(load_text(files, streaming=True), tokenizer, max_seq_length=LENGTH)
    num_tokens = [len(row["input_ids"]) for row in stream]
    assert sorted({*num_tokens}) == [6, LENGTH]
    assert num_tokens.count(6) == 1  # of the small file, with the special ones
    small = [row["example_id"] for row in repeat_stream(stream).shard(16, 5).take(2)]
    assert len({*small}) == 2


def test_documents_are_rows_of_their_own_without_packing(text_files, texts, tokenizer):
    how = {"max_seq_length": LENGTH, "packing": False}
    table = tokenize_to_blocks(Dataset.from_dict({"text": texts}), tokenizer, **how)
    stream = list(tokenize_to_blocks(load_text(text_files, streaming=True), tokenizer, **how))
    assert ids_of(table) == ids_of(stream)
    assert [row["example_id"] for row in stream] == table["example_id"][:]
    starts, ends = {row[0] for row in ids_of(stream)}, {row[-1] for row in ids_of(stream)}
    assert (starts, ends) == ({tokenizer.cls_token_id}, {tokenizer.sep_token_id})
    words = [token for row in ids_of(stream) for token in row[1:-1]]
    assert words == [token for text in texts for token in tokenizer(text or "", add_special_tokens=False)["input_ids"]]


@pytest.mark.slow
@pytest.mark.parametrize("endless", [False, True], ids=["once", "endless"])
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_share_a_stream_without_gap_or_overlap(stream, endless, num_ranks):
    num_rows = sum(1 for _ in stream)
    num_rows = (num_rows * 2 if endless else num_rows) // num_ranks * num_ranks
    blocks = repeat_stream(stream) if endless else stream
    expected = list(itertools.islice(blocks, num_rows))
    ranks = [split_dataset_by_node(blocks, rank, num_ranks) for rank in range(num_ranks)]
    shares = [list(itertools.islice(rank, num_rows // num_ranks)) for rank in ranks]
    assert [row for rows in zip(*shares, strict=True) for row in rows] == expected


@pytest.mark.slow
def test_ranks_of_accelerate_see_the_batches_of_one_rank(stream):
    """Two ranks with batches of 3 see, step by step, what one rank sees in batches of 6."""
    blocks = repeat_stream(stream)
    shards = [
        IterableDatasetShard(blocks, batch_size=3, num_processes=2, process_index=rank, drop_last=True)
        for rank in (0, 1)
    ]
    first, second = (list(itertools.islice(shard, 60)) for shard in shards)
    steps = [first[i : i + 3] + second[i : i + 3] for i in range(0, 60, 3)]
    assert [row["example_id"] for step in steps for row in step] == list(range(120))


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_data_loader_workers_see_every_block_once(stream, num_workers):
    expected = list(stream)
    settings = {"batch_size": 4, "collate_fn": list, "num_workers": num_workers}
    assert list(itertools.chain(*torch.utils.data.DataLoader(stream, **settings))) == expected
    batches = torch.utils.data.DataLoader(repeat_stream(stream), **settings)
    endless = list(itertools.islice(itertools.chain.from_iterable(batches), len(expected) + 5))
    assert ids_of(endless) == ids_of([*expected, *expected[:5]])


@pytest.mark.slow
def test_repeated_streams_count_on(stream):
    once = list(stream)
    rows = list(itertools.islice(repeat_stream(stream), 3 * len(once) + 1))
    assert ids_of(rows) == ids_of(once * 3 + once[:1])
    assert [row["example_id"] for row in rows] == list(range(3 * len(once) + 1))
    assert repeat_stream(stream).features == stream.features
    assert list(repeat_stream(stream.filter(lambda row: False))) == []
    start = len(once) + 5  # after a restart
    assert list(itertools.islice(repeat_stream(stream).skip(start), 20)) == rows[start : start + 20]


@each("as_stream", [False, True])
@each(
    "texts, num_tokens",
    [([], 0), ([None, " "], 0), ([SENTENCES[0][:9]], 9)],
)
def test_too_little_text_is_refused_with_the_count(tokenizer, as_stream, texts, num_tokens):
    documents = Dataset.from_dict({"text": texts}, features=datasets.Features({"text": Value("string")}))
    if as_stream:
        rows = list(documents)
        documents = IterableDataset.from_generator(lambda: iter(rows), features=documents.features)
    message = rf"the text has {num_tokens} tokens, but max_seq_length=16 needs 14 for one block.*give more text"
    with pytest.raises(ValueError, match=message):
        tokenize_to_blocks(documents, tokenizer, max_seq_length=LENGTH)


def test_exactly_one_block_of_text_is_enough(tokenizer):
    documents = table(["a b c d e"])  # five tokens and a separator
    assert len(tokenize_to_blocks(documents, tokenizer, max_seq_length=8)) == 1
    with pytest.raises(ValueError, match="the text has 6 tokens, but max_seq_length=9 needs 7"):
        tokenize_to_blocks(documents, tokenizer, max_seq_length=9)


@pytest.mark.parametrize("as_stream", [False, True], ids=["table", "stream"])
def test_wrong_columns_are_refused(tokenizer, as_stream):
    documents = Dataset.from_dict({"text": [1, 2], "n": [1.5, 2.5]})
    documents = documents.to_iterable_dataset() if as_stream else documents
    with pytest.raises(
        ValueError, match=r"text_column='body' is missing; expected one of the columns \['text', 'n'\]"
    ):
        tokenize_to_blocks(documents, tokenizer, max_seq_length=LENGTH, text_column="body")
    with pytest.raises(ValueError, match="text_column='text' holds .*int.*, expected strings; choose another column"):
        tokenize_to_blocks(documents, tokenizer, max_seq_length=LENGTH)


@pytest.mark.parametrize(
    "length, model_max_length, max_positions, message",
    [
        (7, 512, 512, "max_seq_length=7 is too short; expected 8 or more"),
        (-1, 512, None, "max_seq_length=-1 is too short; expected 8 or more"),
        (33, 512, 32, r"max_seq_length=33 is over the teacher's positions \(32\); expected 8 … 32"),
        (33, 32, None, r"max_seq_length=33 is over the tokenizer's model_max_length \(32\); expected 8 … 32"),
        (33, 32, 512, r"max_seq_length=33 is over the tokenizer's model_max_length \(32\)"),
    ],
)
def test_impossible_lengths_are_refused(texts, length, model_max_length, max_positions, message):
    tokenizer = make_tokenizer(model_max_length=model_max_length)
    with pytest.raises(ValueError, match=message):
        tokenize_to_blocks(table(texts), tokenizer, max_seq_length=length, max_positions=max_positions)


@pytest.mark.parametrize("num_proc", [0, -2, 1.5])
def test_impossible_numbers_of_processes_are_refused(texts, tokenizer, num_proc):
    with pytest.raises(ValueError, match=f"num_proc={num_proc} is no number of processes; expected 1 or more"):
        tokenize_to_blocks(table(texts), tokenizer, max_seq_length=LENGTH, num_proc=num_proc)


def test_lengths_at_the_limits_work(texts):
    tokenizer = make_tokenizer(model_max_length=32)
    for length in (8, 32):
        blocks = tokenize_to_blocks(table(texts), tokenizer, max_seq_length=length, max_positions=32)
        assert ids_of(blocks) == reference_blocks(texts, tokenizer, length)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"cls_token": None}, r"^tokenizer .* has no .*\(cls_token\), which every block needs"),
        ({"sep_token": None}, r"^tokenizer .* has no .*\(sep_token\), which every block needs"),
    ],
)
def test_tokenizers_without_block_borders_are_refused(texts, tokens, message):
    with pytest.raises(ValueError, match=message):
        tokenize_to_blocks(table(texts), make_tokenizer(**tokens), max_seq_length=LENGTH)


def test_matching_tokenizers_pass(tokenizer, caplog):
    for surplus in (0, 127):
        check_tokenizer(tokenizer, BertConfig(vocab_size=len(tokenizer) + surplus))
    for one in (make_tokenizer(pad_token=None), tokenizer):  # a BERT reads padding nowhere
        check_tokenizer(one, BertConfig(vocab_size=len(tokenizer), pad_token_id=7))
    assert caplog.text == ""


def test_tokenizers_of_other_models_are_refused(tokenizer):
    num = len(tokenizer)
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 50}, unk_token="[UNK]"))
    of_few_tokens = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    for one, config, message in (
        (tokenizer, {"vocab_size": num - 1}, f"has {num} tokens, but the teacher's vocab_size={num - 1}; use the tok"),
        (of_few_tokens, {"vocab_size": 50}, "has 51 tokens, but the teacher's vocab_size=50"),
    ):
        with pytest.raises(ValueError, match=message):
            check_tokenizer(one, BertConfig(**config))
    with pytest.raises(ValueError, match="pad_token_id=0, but the model's pad_token_id=1; use"):
        check_tokenizer(tokenizer, RobertaConfig(vocab_size=num, pad_token_id=1))


def test_a_much_larger_vocabulary_is_warned_of(tokenizer, caplog):
    check_tokenizer(tokenizer, BertConfig(vocab_size=len(tokenizer) + 128))
    assert f"tokenizer has {len(tokenizer)} tokens, but the teacher's vocab_size={len(tokenizer) + 128}" in caplog.text
