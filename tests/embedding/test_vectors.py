"""Vectors of a teacher that isn't here: what is read, what is refused, look-ups, and what a student starts from."""

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, Features, List, Value
from rows import each
from tiny_embeddings import make_sentence_folder
from tiny_models import randomized, tiny_config, tiny_tokenizer
from transformers import BertForMaskedLM

from homodistil_hf.embedding.model import load_embedding_model
from homodistil_hf.embedding.vectors import TeacherVectors, learner_of, load_teacher_vectors, tokenize_vectors

TEXTS = ["w7 w8", "w9", "w10 w11 w12"]


def vectors_of(num_channels=4):
    return torch.randn(3, num_channels, generator=torch.Generator().manual_seed(0))


def written(folder, kind):
    """A file of three vectors, as one of several libraries writes it."""
    vectors = vectors_of()
    lists, file = vectors.tolist(), folder / ("vectors.jsonl" if kind == "jsonl" else "vectors.parquet")
    if kind == "numpy":
        pd.DataFrame({"text": TEXTS, "vector": list(vectors.numpy())}).to_parquet(file)
    elif kind == "numpy, float64":
        pd.DataFrame({"text": TEXTS, "vector": list(vectors.double().numpy())}).to_parquet(file)
    elif kind == "jsonl":
        pd.DataFrame({"text": TEXTS, "vector": lists}).to_json(file, orient="records", lines=True, double_precision=15)
    else:
        length = 4 if kind == "fixed size" else -1
        features = Features({"text": Value("string"), "vector": List(Value("float32"), length=length)})
        Dataset.from_dict({"text": TEXTS, "vector": lists}, features=features).to_parquet(file)
    return file


@each("kind", ["lists", "fixed size", "numpy", "numpy, float64", "jsonl"])
def test_vectors_are_read_as_they_were_written(tmp_path, kind):
    found = load_teacher_vectors(written(tmp_path, kind))
    assert found.texts == TEXTS
    assert torch.equal(found.vectors, vectors_of())
    assert (found.dimension, found.normalizes, found.vectors.dtype) == (4, False, torch.float32)


def test_texts_are_looked_up_in_any_order(tmp_path):
    found = load_teacher_vectors(written(tmp_path, "lists"))
    assert torch.equal(found.encode([TEXTS[2], TEXTS[0], TEXTS[2]], prompt_name="query"), vectors_of()[[2, 0, 2]])
    message = r"^vectors.parquet has no vectors of 1 of 2 texts, such as 'w1'; its model isn't here"
    with pytest.raises(ValueError, match=message):
        found.encode(["w1", "w9"])


def test_lengths_of_1_are_seen_in_spite_of_rounding(tmp_path):
    units = torch.nn.functional.normalize(vectors_of(), dim=1)
    assert TeacherVectors("a", TEXTS, units.half().float()).normalizes
    assert not TeacherVectors("a", TEXTS, 1.1 * units).normalizes


def test_a_text_that_is_there_twice_counts_once(tmp_path):
    vectors = [[1.0, 2.0], [3.0, 4.0], [1.0, 2.01]]  # a service never gives the same vector twice
    Dataset.from_dict({"text": ["a", "b", "a"], "vector": vectors}).to_parquet(tmp_path / "v.parquet")
    found = load_teacher_vectors(tmp_path / "v.parquet")
    assert found.texts == ["a", "b"]
    assert found.vectors.tolist() == vectors[:2]


def test_shorter_vectors_are_those_along_the_axes():
    vectors = torch.nn.functional.normalize(vectors_of(), dim=1)
    shorter = TeacherVectors("a", TEXTS, vectors).along(torch.eye(4)[:2]).vectors
    assert torch.allclose(shorter, torch.nn.functional.normalize(vectors[:, :2], dim=1))


NOT_FINITE = "has a number that is missing, too large or not finite in row 1; encode such texts again"


@pytest.mark.slow
@each(
    ("columns", "message"),
    [
        ({"text": ["a"], "embedding": [[1.0]]}, "lacks the column 'vector'; a row has a text and its vector: rename"),
        ({"words": ["a"], "vector": [[1.0]]}, r"lacks the column 'text'; .* name that of the texts \(text_column\)"),
        (
            {"text": ["a", "b"], "vector": [[1.0, 2.0], [1.0]]},
            "has 2 numbers in row 0 and 1 in row 1; expected as man",
        ),
        ({"text": ["a", "b"], "vector": [[1.0, 2.0], None]}, "has 2 numbers in row 0 and 0 in row 1"),
        ({"text": ["a"], "vector": [[]]}, "column 'vector' holds values of type list<.*: null>; expected a list of"),
        ({"text": ["a"], "vector": ["[1, 2]"]}, "column 'vector' holds values of type string; expected a list of num"),
        ({"text": ["a"], "vector": [[[1.0]]]}, "column 'vector' holds values of type list<.*>; expected a list of"),
        ({"text": ["a", "b", "c"], "vector": [[1.0, 2.0], [1.0, np.nan], [np.inf, 1.0]]}, NOT_FINITE),
        ({"text": ["a", "b"], "vector": [[1.0, 2.0], [None, 1.0]]}, NOT_FINITE),
        ({"text": ["a", "b"], "vector": [[1.0, 2.0], [3e38, 1.0]]}, NOT_FINITE),
        ({"text": ["a", "b"], "vector": [[1.0, 2.0], [0.0, 0.0]]}, "has only zeros in row 1; encode such texts again"),
        ({"text": ["a", " "], "vector": [[1.0], [2.0]]}, "column 'text' has no text in row 1; leave such rows out"),
        ({"text": ["a", None], "vector": [[1.0], [2.0]]}, "column 'text' has no text in row 1; leave such rows out"),
        ({"text": [1, 2], "vector": [[1.0], [2.0]]}, "column 'text' holds values of type int64; expected texts"),
        (
            {"text": ["a", "b", "a"], "vector": [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]},
            "has two different vectors of one text, 'a', in the rows 0 and 2; they are of two models, or of two",
        ),
    ],
)
def test_bad_vectors_are_refused_in_words(tmp_path, columns, message):
    Dataset.from_dict(columns).to_parquet(tmp_path / "v.parquet")
    with pytest.raises(ValueError, match=rf"^teacher_vectors='.*v\.parquet'.*{message}"):
        load_teacher_vectors(tmp_path / "v.parquet")


def test_a_row_is_a_whole_text_cut_at_the_length(tmp_path, caplog):
    documents = load_teacher_vectors(written(tmp_path, "lists")).documents
    tokenizer = tiny_tokenizer()
    rows = tokenize_vectors(documents, tokenizer, max_length=4)
    assert rows.column_names == ["vector", "input_ids"]
    assert [len(ids) for ids in rows["input_ids"]] == [4, 3, 4]
    assert rows["input_ids"][0] == tokenizer(TEXTS[0])["input_ids"]
    assert torch.equal(torch.tensor(rows["vector"][:]), vectors_of())
    assert "2 of 3 texts are cut at max_seq_length=4 tokens, but their vectors are of the whole" in caplog.text


@each("normalizes", [True, False])
def test_a_start_keeps_its_pooling_and_takes_the_length_of_the_vectors(tmp_path, normalizes):
    start = load_embedding_model(make_sentence_folder(tmp_path / "start", pooling="cls", dense=5))
    vectors = torch.nn.functional.normalize(vectors_of(), dim=1) if normalizes else vectors_of()
    learner = learner_of(start, TeacherVectors("a", TEXTS, vectors, "cosine" if normalizes else "dot"))
    assert (learner.settings.pooling, learner.settings.normalizes) == ("cls", normalizes)
    assert (learner.dense, learner.dimension) == ((), 4)
    assert learner.similarity == ("cosine" if normalizes else "dot")
    assert start.dimension == 5


def test_a_plain_encoder_is_a_start_whose_states_are_averaged(tmp_path):
    torch.manual_seed(0)
    model = randomized(BertForMaskedLM(tiny_config()))
    model.save_pretrained(tmp_path / "words")
    tiny_tokenizer().save_pretrained(tmp_path / "words")
    learner = learner_of(tmp_path / "words", TeacherVectors("a", TEXTS, vectors_of()))
    assert (learner.settings.pooling, learner.settings.max_seq_length) == ("mean", 32)
    ids = torch.tensor([[2, 7, 8, 3]])
    with torch.no_grad():
        expected, found = model.bert(ids).last_hidden_state, learner.encoder(ids).last_hidden_state
    assert torch.equal(found, expected)
