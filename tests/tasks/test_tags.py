"""Tags of words, by lists or spans → labels of tokens, a word's first."""

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from rows import each
from tiny_models import tiny_config
from tiny_tokenizers import paragraphs, trained_tokenizer
from transformers import BertTokenizer, CanineTokenizer

from homodistil_hf.data.masking import IGNORED_LABEL, UNKNOWN_CLASS
from homodistil_hf.tasks.columns import Columns, ReadRows
from homodistil_hf.tasks.kinds import TAGS
from homodistil_hf.tasks.tags import TaggedText, tagged_texts, tagged_tokens

MARKS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
CONFIG = tiny_config(id2label=dict(enumerate(MARKS)))
OUT, FIRST, GO_ON = 0, 1, 2


WORDS = BertTokenizer(
    vocab={word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}
)


def of_words(words, tags, config=CONFIG, tokenizer=WORDS):
    rows = Dataset.from_dict({"tokens": words, "tags": tags})
    return tagged_texts(ReadRows(rows, Columns(TAGS, ("tokens",), ("tags",)), "rows"), config, tokenizer)


def of_spans(text, spans, config=CONFIG):
    rows = Dataset.from_dict({"text": [text], "spans": [spans]})
    return tagged_texts(ReadRows(rows, Columns(TAGS, ("text",), ("spans",)), "rows"), config, WORDS)[0]


def test_words_are_joined_and_keep_their_places():
    (found,) = of_words([["Ada", "Lovelace", "wrote"]], [["B-PER", "I-PER", "O"]])
    assert found == TaggedText("Ada Lovelace wrote", [(0, 3), (4, 12), (13, 18)], [FIRST, GO_ON, OUT])


def test_words_without_a_tag_do_not_count_and_rows_without_tags_are_unknown():
    found = of_words([["a", "b"], ["c"]], [["O", None], None])
    assert [one.tags for one in found] == [[OUT, IGNORED_LABEL], [UNKNOWN_CLASS]]


def test_numbers_are_those_of_the_feature():
    names = ["I-PER", "B-PER", "O", "B-LOC", "I-LOC"]
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=names))})
    rows = Dataset.from_dict({"tokens": [["a", "b", "c"]], "tags": [[1, 0, 2]]}, features=features)
    (found,) = tagged_texts(ReadRows(rows, Columns(TAGS, ("tokens",), ("tags",)), "rows"), CONFIG, WORDS)
    assert found.tags == [FIRST, GO_ON, OUT]


@each(
    "spans",
    [
        [{"start": 0, "end": 12, "label": "PER"}],
        [{"start_offset": 0, "end_offset": 12, "type": "PER"}],
        [{"start": 0, "end": 12, "labels": ["PER"]}],
        '[[0, 12, "PER"]]',
        [["0", "12", "PER"]],
    ],
)
def test_spans_as_tools_write_them(spans):
    found = of_spans("Ada Lovelace, wrote.", spans)
    assert found.words == [(0, 3), (4, 12), (12, 13), (14, 19), (19, 20)]
    assert found.tags == [FIRST, GO_ON, OUT, OUT, OUT]


def test_no_spans_are_words_outside_of_all():
    assert of_spans("Ada wrote", "[]").tags == [OUT, OUT]


@each(
    ("names", "expected"),
    [
        (["O", "B-X", "I-X"], [1, 2, 2, 0, 1]),
        (["O", "B-X", "I-X", "E-X", "S-X"], [1, 2, 3, 0, 4]),
        (["O", "B-X", "I-X", "L-X", "U-X"], [1, 2, 3, 0, 4]),
        (["O", "I-X"], [1, 1, 1, 0, 1]),
        (["O", "X"], [1, 1, 1, 0, 1]),
    ],
)
def test_spans_follow_the_models_scheme(names, expected):
    found = of_spans("a b c d e", '[[0, 5, "X"], [8, 9, "X"]]', tiny_config(id2label=dict(enumerate(names))))
    assert found.tags == expected


@each(
    ("tags", "names", "expected", "scheme"),
    [
        ("I-X I-X B-X O I-Y", "BI", "B-X I-X B-X O B-Y", "IOB1"),
        ("I-X O I-Y I-Y I-X", "BI", "B-X O B-Y I-Y B-X", "IO"),
        ("B-X I-X L-X O U-Y", "BI", "B-X I-X I-X O B-Y", "BILOU"),
        ("B-X E-X S-X S-X B-Y", "BI", "B-X I-X B-X B-X B-Y", "BIOES"),
        ("B-X I-X I-X O B-Y", "BILU", "B-X I-X L-X O U-Y", "BIO"),
        ("B-X I-X L-X O U-Y", "BIES", "B-X I-X E-X O S-Y", "BILOU"),
        ("I-X B-X I-X I-Y", "BIES", "S-X B-X E-X S-Y", "IOB1"),
        ("B-X I-X O I-Y", "BI", "B-X I-X O I-Y", None),
        ("B-X I-X O I-Y", "I", None, None),
    ],
)
def test_tags_are_brought_into_the_models_scheme(tags, names, expected, scheme, caplog):
    names = ["O", *(f"{mark}-{kind}" for kind in "XY" for mark in names)]
    config = tiny_config(id2label=dict(enumerate(names)))
    words = tags.lower().split()
    if expected is None:
        with pytest.raises(ValueError, match="has the label 'B-X'"):
            of_words([words], [tags.split()], config)
        return
    caplog.clear()
    (found,) = of_words([words], [tags.split()], config)
    assert " ".join(names[tag] for tag in found.tags) == expected
    warned = f"rows: column 'tags' has tags of the scheme {scheme}, which are read as the model's"
    assert (warned in caplog.text) == (scheme is not None)


def test_only_a_words_first_token_has_its_tag():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ada", "love", "##lace", "wrote"]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    (text,) = of_words([["ada", "lovelace", "wrote"]], [["B-PER", "I-PER", "O"]])
    batch = Dataset.from_list([text._asdict()])[:]
    found = tagged_tokens(batch, tokenizer, 16)
    assert tokenizer.convert_ids_to_tokens(found["input_ids"][0]) == [
        "[CLS]",
        "ada",
        "love",
        "##lace",
        "wrote",
        "[SEP]",
    ]
    assert found["labels"] == [[IGNORED_LABEL, FIRST, GO_ON, IGNORED_LABEL, OUT, IGNORED_LABEL]]
    assert tagged_tokens(batch, tokenizer, 4)["labels"] == [[IGNORED_LABEL, FIRST, GO_ON, IGNORED_LABEL]]


@each(
    ("make", "message"),
    [
        (lambda: of_words([["a", "b"]], [["O"]]), "has 1 tags for 2 words in row 1; expected one a word"),
        (lambda: of_words([["a"]], [["B-ORG"]]), "has the label 'B-ORG'"),
        (
            lambda: of_spans("abc", '[[0, 9, "PER"]]'),
            r"has the span .* in a text of 3 characters; expected start, end",
        ),
        (lambda: of_spans("abc", '[[2, 1, "PER"]]'), "expected start, end"),
        (lambda: of_spans("abc", '[["PER"]]'), "expected start, end"),
        (lambda: of_spans("abc", '[[0, 3, "ORG"]]'), "has the label 'ORG'"),
    ],
)
def test_tags_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
def test_a_tokenizer_without_offsets():
    with pytest.raises(ValueError, match="tokenizer=CanineTokenizer has no offsets"):
        of_words([["a"]], [["O"]], tokenizer=CanineTokenizer())


@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])
def test_every_word_is_tagged_once_whatever_cuts_it(kind):
    tokenizer = trained_tokenizer(kind)
    words = [word for text in paragraphs()[:20] for word in text.split()][:60]
    (text,) = of_words([words], [[MARKS[number % 5] for number in range(len(words))]])
    found = tagged_tokens(Dataset.from_list([text._asdict()])[:], tokenizer, 1000)
    assert len(found["input_ids"][0]) > len(words) + 2
    assert [label for label in found["labels"][0] if label != IGNORED_LABEL] == text.tags
