"""Vectors of texts: poolings, prompts, and the same vectors as those of sentence-transformers."""

import pytest
import torch
from rows import each
from tiny_embeddings import make_sentence_folder
from tiny_models import VOCAB_SIZE, randomized, tiny_config
from tiny_tokenizers import trained_tokenizer
from transformers import AutoTokenizer, BertModel

from homodistil_hf.embedding.model import POOLINGS, load_embedding_model, pooled

TEXTS = ["w7 w8 w9", "w10", "w11 w12 w13 w14 w15 w16"]


def test_poolings_that_count_tokens():
    states, mask = torch.arange(6.0).view(1, 3, 2), torch.tensor([[1, 1, 0]])
    assert pooled(states, mask, "mean_sqrt_len_tokens")[0].tolist() == pytest.approx([2 / 2**0.5, 4 / 2**0.5])
    assert pooled(states, mask, "weightedmean")[0].tolist() == pytest.approx([(0 + 2 * 2) / 3, (1 + 2 * 3) / 3])
    for name in POOLINGS:
        assert torch.equal(pooled(states, None, name), pooled(states, torch.ones(1, 3), name))
        assert pooled(states.bfloat16(), mask, name).dtype == torch.float32


def test_prompts_come_first_and_texts_are_cut(tmp_path):
    prompts = {"prompts": {"query": "w5 w6 ", "document": ""}, "default_prompt_name": "query"}
    model = load_embedding_model(make_sentence_folder(tmp_path / "model", **prompts))
    assert model.tokenizer.decode(model.tokenize(["w9"])["input_ids"][0]) == "[CLS] w5 w6 w9 [SEP]"
    assert model.tokenize(["w9 " * 100])["input_ids"].shape == (1, 12)
    plain = load_embedding_model(make_sentence_folder(tmp_path / "plain"))
    assert torch.allclose(plain.encode(["w5 w6 w9"]), model.encode(["w9"]))


def test_what_is_no_list_of_texts_or_no_prompt_is_refused(tmp_path):
    model = load_embedding_model(make_sentence_folder(tmp_path / "model", prompts={"passage": "w5 "}))
    for texts, message in (
        ("w5 w6", "texts='w5 w6' is one text; pass a list"),
        (["w5", None], r"texts\[1\]=None is no"),
    ):
        with pytest.raises(ValueError, match=message):
            model.encode(texts)
    with pytest.raises(
        ValueError, match="^prompt_name='pasage' is none of this model's prompts: 'document', 'passage', 'q"
    ):
        model.encode(["w7"], prompt_name="pasage")
    plain, *others = (model.encode(["w7"], prompt_name=name) for name in (None, "", "query", "document"))
    assert all(torch.equal(other, plain) for other in others)
    model.encoder.train()
    assert torch.equal(model.encode(text for text in ["w7"]), plain)
    assert model.encoder.training


def test_the_last_token_of_an_empty_text_is_zero():
    states, mask = torch.ones(2, 3, 4), torch.tensor([[0, 0, 0], [1, 1, 0]])
    assert pooled(states, mask, "lasttoken").sum(1).tolist() == [0.0, 4.0]


def test_a_padding_token_without_a_row_is_named(tmp_path):
    folder = make_sentence_folder(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match=f"pads with {VOCAB_SIZE}, and {VOCAB_SIZE} rows of embeddings; resize them"):
        load_embedding_model(folder)


def test_a_tokenizer_of_more_words_than_the_model_has_is_refused_where_it_uses_them(tmp_path):
    folder = make_sentence_folder(tmp_path / "x")
    model = load_embedding_model(folder)
    model.tokenizer.add_tokens(["beyond"])
    assert model.encode(["w7"]).shape == (1, model.dimension)
    assert model.encode([]).shape == (0, model.dimension)
    with pytest.raises(ValueError, match=f"has the token id {VOCAB_SIZE}, but the model's vocab_size={VOCAB_SIZE};"):
        model.encode(["w7 beyond"])


@pytest.mark.slow
@each("side", ["left", "right"])
@each("pooling", POOLINGS)
def test_vectors_are_those_of_sentence_transformers(tmp_path, pooling, side):
    """With padding on the left the first token is not at 0, and the k-th token not at k - 1."""
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    folder = make_sentence_folder(tmp_path / "model", pooling=pooling, padding_side=side)
    expected = library.SentenceTransformer(str(folder)).encode(TEXTS, convert_to_tensor=True)
    model = load_embedding_model(folder)
    assert model.tokenizer.padding_side == side
    assert torch.allclose(model.encode(TEXTS), expected, atol=1e-6)


@pytest.mark.slow
def test_spaces_around_a_text_are_read_as_sentence_transformers_reads_them(tmp_path):
    """A last space is a token of Unigram."""
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    tokenizer = trained_tokenizer("Unigram")
    config = tiny_config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    folder = make_sentence_folder(tmp_path / "model", encoder=randomized(BertModel(config)))
    tokenizer.save_pretrained(folder)
    texts = ["the teacher ", "the teacher", " of a layer"]
    expected = library.SentenceTransformer(str(folder)).encode(texts, convert_to_tensor=True)
    found = load_embedding_model(folder).encode(texts)
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(found[0], found[1], atol=1e-3)
