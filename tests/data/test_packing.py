"""Texts packed into blocks: every token once, in pieces of bounded length."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import each
from transformers import BertTokenizer, XLMRobertaTokenizer

from homodistil_hf.data import blocks as data
from homodistil_hf.data.blocks import TextPacker

CLS, SEP, MASK = 2, 3, 4
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##c", "[", "]", "mask"]
TOKENIZER = BertTokenizer(vocab={token: i for i, token in enumerate(VOCABULARY)})
WORDS = {"a": [5], "b": [6], "c": [7], "bcc": [6, 8, 8], "?": [1]}


def make_packer(max_seq_length=8):
    return TextPacker(TOKENIZER, max_seq_length, "text")


def expected_stream(texts):
    stream = []
    for text in texts:
        ids = [token for word in (text or "").split() for token in WORDS[word]]
        stream += [*ids, SEP] if ids else []
    return stream


def test_blocks_of_streams():
    assert make_packer().encode(["a b", "bcc"]).tolist() == [5, 6, SEP, 6, 8, 8, SEP]
    assert make_packer().encode(["a [MASK] b"]).tolist() == [5, 9, 11, 10, 6, SEP]  # what is written is text
    blocks, left = make_packer().cut(make_packer().encode(["a b c a b c a b c"]))
    assert blocks.tolist() == [[CLS, 5, 6, 7, 5, 6, 7, SEP]]
    assert left.tolist() == [5, 6, 7, SEP]
    assert (blocks.dtype, left.dtype) == ("int32", "int32")
    # a call gives the full blocks only
    assert make_packer()(["a b c a b c a b c"])["input_ids"].tolist() == [[CLS, 5, 6, 7, 5, 6, 7, SEP]]
    for texts in (["a b c"], []):
        assert make_packer()(texts)["input_ids"].shape == (0, 8)
    assert TOKENIZER("a [MASK]")["input_ids"] == [CLS, 5, MASK, SEP]  # usable as before


@each("blank", [None, "", " ", "\n\t \r\n", "\x00"])
def test_blank_documents_leave_no_trace(blank):
    assert make_packer().encode([blank, "a", blank, "b", blank]).tolist() == [5, SEP, 6, SEP]
    assert make_packer().encode([blank]).tolist() == []


def test_texts_may_be_rows_of_their_own():
    packer = TextPacker(TOKENIZER, 8, "text", packs=False)
    rows = packer(["a b", None, "bcc", "a b c a b c a", ""])["input_ids"]
    assert [row.tolist() for row in rows] == [
        [CLS, 5, 6, SEP],
        [CLS, 6, 8, 8, SEP],
        [CLS, 5, 6, 7, 5, 6, 7, SEP],
        [CLS, 5, SEP],
    ]
    assert {row.dtype.name for row in rows} == {"int32"}
    assert packer([None])["input_ids"] == []


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.one_of(st.none(), st.lists(st.sampled_from(sorted(WORDS)), max_size=30).map(" \n".join)), max_size=8
    ),
    piece_chars=st.integers(5, 40),
    call_chars=st.integers(1, 60),
)
def test_pieces_and_calls_do_not_show(texts, piece_chars, call_chars):
    """Words are shorter than a piece, so cuts at white space give the same tokens as whole documents."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "_PIECE_CHARS", piece_chars)
        patch.setattr(data, "_CALL_CHARS", call_chars)
        assert make_packer().encode(texts).tolist() == expected_stream(texts)


def test_the_tokenizer_never_sees_a_long_text():
    calls = []

    class Recorder:
        sep_token_id = SEP
        unk_token_id, all_special_ids = None, ()

        def __call__(self, pieces, **_):
            calls.append(pieces)
            return {"input_ids": [[5] for _ in pieces]}

    document = "word " * 100_000 + "x" * 100_000  # with and without white space
    stream = TextPacker(Recorder(), 8, "text").encode([document, document])
    pieces = [piece for call in calls for piece in call]
    assert "".join(pieces) == document * 2
    assert max(map(len, pieces)) == data._PIECE_CHARS
    assert max(sum(map(len, call)) for call in calls) < data._CALL_CHARS + data._PIECE_CHARS
    assert [i for i, token in enumerate(stream.tolist()) if token == SEP] == [len(stream) // 2 - 1, len(stream) - 1]


def test_over_long_texts_raise_no_warning(caplog):
    tokenizer = BertTokenizer(vocab=TOKENIZER.get_vocab(), model_max_length=8)
    TextPacker(tokenizer, 8, "text").encode(["a " * 100])
    assert caplog.text == ""


@each("text, kind", [(3, "int"), (2.5, "float"), (["a"], "list"), (b"a", "bytes")])
def test_a_text_that_is_no_string_is_refused(text, kind):
    with pytest.raises(ValueError, match=rf"text_column='text' holds a {kind} .*expected strings; choose another"):
        make_packer().encode(["a", text])


def test_long_texts_are_cut_at_any_white_space(monkeypatch):
    monkeypatch.setattr(data, "_PIECE_CHARS", 10)
    assert make_packer().encode(["\t".join(["bcc"] * 20)]).tolist() == [*[6, 8, 8] * 20, SEP]
    assert make_packer().encode(["\u00a0".join(["bcc"] * 20)]).tolist() == [*[6, 8, 8] * 20, SEP]


def test_special_tokens_in_a_text_are_left_out_where_they_are_pieces_of_the_vocabulary():
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "b", "<", ">", "/", "s", "m", "k", "▁a", "▁b", "<mask>"]
    tokenizer = XLMRobertaTokenizer(vocab=[(piece, -float(place > 3)) for place, piece in enumerate(pieces)])
    ids = TextPacker(tokenizer, 16, "text").encode(["a <mask> b </s> a"]).tolist()
    assert not {tokenizer.mask_token_id, tokenizer.sep_token_id} & {*ids[:-1]}
    assert tokenizer.decode(ids[:-1]).split() == ["a", "b", "a"]
    rows = TextPacker(tokenizer, 16, "text", packs=False)(["a </s> b", "b"])["input_ids"]
    assert [tokenizer.decode(row[1:-1]).split() for row in rows] == [["a", "b"], ["b"]]


def test_special_tokens_of_ones_own_that_are_pieces_stay():
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "b", "▁a", "▁b", "<mask>"]
    vocab = [(piece, -float(place > 3)) for place, piece in enumerate(pieces)]
    tokenizer = XLMRobertaTokenizer(vocab=vocab, extra_special_tokens=["b"])
    ids = TextPacker(tokenizer, 16, "text").encode(["ab b"]).tolist()
    assert tokenizer.convert_ids_to_tokens(ids) == ["▁a", "b", "▁b", "</s>"]
