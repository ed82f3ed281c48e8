"""Tokenizers of folders: a vocabulary alone, none, one whose ids mean other words; texts longer than a row."""

import copy
import json

import pytest
import torch
from tiny_models import VOCAB_SIZE, make_teacher, tiny_tokenizer
from tiny_tokenizers import python_tokenizer, trained_tokenizer
from tokenizers import normalizers
from transformers import BertTokenizer

from homodistil_hf.data.samples import unlabeled_batches
from homodistil_hf.evaluation.evaluated_model import load_model
from homodistil_hf.models.tokenizers import (
    check_tokenizer,
    load_tokenizer,
    rows_of_texts,
    stored_tokenizer,
    tokenizer_of_run,
)

WORDS = tiny_tokenizer().convert_ids_to_tokens(range(VOCAB_SIZE))


@pytest.fixture
def folder(tmp_path):
    make_teacher("sequence_classification").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def with_tokenizer(folder, words=WORDS):
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    return folder


def moved_words():
    return [*WORDS[:5], *WORDS[6:], WORDS[5]]


def test_texts_are_padded_behind_for_a_head(folder, caplog):
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"
    tokenizer.save_pretrained(folder)
    model = load_model(folder)
    assert (load_tokenizer(folder).padding_side, model.tokenizer.padding_side) == ("left", "right")
    assert "pads on the left; texts are padded on the right here" in caplog.text
    alone, beside = (
        model.model(**model.tokenizer(texts, padding=True, return_tensors="pt")).logits
        for texts in (["w5"], ["w5", "w5 w6"])
    )
    torch.testing.assert_close(alone, beside[:1])


def test_a_vocabulary_alone_is_read(folder):
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    assert load_model(folder).tokenizer("w7 w9")["input_ids"] == [2, 7, 9, 3]


def test_a_tokenizer_file_alone_is_read_by_its_own_rules(folder):
    backend = copy.deepcopy(trained_tokenizer("WordPiece").backend_tokenizer)
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.save(str(folder / "tokenizer.json"))
    found = stored_tokenizer(folder)
    text = "The teacher and the student"
    assert found(text)["input_ids"] == backend.encode(text).ids
    assert found.unk_token_id in found(text)["input_ids"]
    assert found.unk_token_id not in found(text.lower())["input_ids"]
    assert (found.cls_token, found.sep_token, found.pad_token) == ("[CLS]", "[SEP]", "[PAD]")
    assert "token_type_ids" in found.model_input_names


@pytest.mark.parametrize("kind", ["BPE", "Unigram"])
def test_a_tokenizer_file_of_another_kind_than_the_model_s_usual_one(folder, kind):
    whole = trained_tokenizer(kind)
    whole.backend_tokenizer.save(str(folder / "tokenizer.json"))
    found = stored_tokenizer(folder)
    assert found("the teacher")["input_ids"] == whole("the teacher")["input_ids"]
    assert found.all_special_ids == whole.all_special_ids


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": json.dumps({"tokenizer_class": "BertTokenizer"})},
        {"vocab.txt": "\n".join(WORDS[:5])},
        {"vocab.txt": "\n".join(WORDS[:5]), "added_tokens.json": json.dumps({"w5": 5})},
    ],
    ids=["configuration", "special tokens", "an added token"],
)
def test_tokenizers_without_vocabulary_are_refused(folder, files):
    for name, content in files.items():
        (folder / name).write_text(content)
    with pytest.raises(ValueError, match="model': its tokenizer has no vocabulary beside special tokens; copy it"):
        load_model(folder)
    with pytest.raises(ValueError, match="tokenizer='.*' has no vocabulary beside special tokens; name one with"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokenizer_config.json", lambda values: values | {"additional_special_tokens": 5}),
        ("tokenizer.json", lambda values: values | {"model": values["model"] | {"vocab": ["w5"]}}),
    ],
    ids=["no list", "a list of words"],
)
def test_damaged_tokenizers_are_refused_before_text_is_read(folder, name, change):
    with_tokenizer(folder)
    (folder / name).write_text(json.dumps(change(json.loads((folder / name).read_text()))))
    with pytest.raises(ValueError, match=r"tokenizer='.*model' can't be loaded \(.*\); name one with --tokenizer"):
        load_tokenizer(folder)
    with pytest.raises(ValueError, match=r"model': its tokenizer can't be loaded \(.*\); copy it again from"):
        load_model(folder)


def test_a_template_without_its_tokens_is_refused_before_text_is_read(folder):
    content = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    content["post_processor"]["special_tokens"] = {}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"can't be loaded \(PanicException: .*\); name one with --tokenizer"):
        load_tokenizer(folder)


def test_trying_a_tokenizer_out_leaves_its_file_as_it_was(folder):
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(9)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    before = json.loads((folder / "tokenizer.json").read_text())
    assert json.loads(stored_tokenizer(folder).backend_tokenizer.to_str()) == before


def test_tokenizers_without_vocabulary_in_memory_are_refused():
    bare = BertTokenizer()
    with pytest.raises(ValueError, match="has no vocabulary beside special tokens; use the one saved"):
        check_tokenizer(bare, make_teacher().config)


def test_ids_that_mean_other_words_are_refused(folder, tmp_path):
    with_tokenizer(folder)
    other = with_tokenizer(tmp_path / "other", moved_words())
    message = "other' has 'w6' as id 5, which is 'w5' in the tokenizer of '.*model'"
    with pytest.raises(ValueError, match=message):
        tokenizer_of_run(str(folder), str(other))
    with pytest.raises(ValueError, match=message):
        check_tokenizer(load_tokenizer(other), model_of(folder).config)
    assert len(tokenizer_of_run(str(folder), str(folder))) == len(WORDS)


def model_of(folder):
    return load_model(folder).model


def test_words_in_place_of_unused_ones_more_words_and_fewer_are_let_pass(folder):
    with_tokenizer(folder, [*WORDS[:-1], "[unused0]"])
    config = model_of(folder).config
    check_tokenizer(tiny_tokenizer(), config)
    config.vocab_size += 1
    more = tiny_tokenizer()
    more.add_tokens("another")
    check_tokenizer(more, config)
    config.vocab_size = 50  # of a model that has lost tokens since
    check_tokenizer(BertTokenizer(vocab={word: number for number, word in enumerate(moved_words()[:50])}), config)


def test_tokenizers_in_python_read_texts_beyond_the_first_row(tmp_path):
    slow, fast = python_tokenizer(tmp_path), tiny_tokenizer()
    texts = [" ".join(f"w{number}" for number in range(5, 5 + length)) for length in (13, 2, 6, 7)]
    expected = rows_of_texts(fast, texts, 8)["input_ids"]
    assert rows_of_texts(slow, texts, 8)["input_ids"] == expected
    assert len(expected) == 7
    assert slow.is_fast is False
    batches = unlabeled_batches([texts], slow, max_length=8, batch_size=100)
    assert sum(int(batch["attention_mask"].sum()) for batch in batches) == sum(map(len, expected))
