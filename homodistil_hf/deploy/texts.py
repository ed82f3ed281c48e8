"""Texts that a graph is tried on: short and long, empty, of several scripts; user's own take their place."""

from pathlib import Path

from ..files.folders import refuse_missing
from .deployable import Row

_SENTENCES = (
    "The cat sat on the mat.",
    "Stock markets fell on Tuesday after the central bank's announcement.",
    "How do I reset my password?",
    "She opened the letter with trembling hands and read it twice.",
    "Water boils at 100 degrees Celsius at sea level.",
    "The committee rejected the proposal by a narrow margin.",
    "I would not recommend this restaurant to anyone.",
    "A wonderful film, warm and funny from beginning to end.",
    "The enzyme catalyses the first step of the reaction.",
    "Trains to the coast are delayed by up to forty minutes.",
    "In 1969 two people walked on the moon for the first time.",
    "Please send the signed contract by Friday.",
    "The children built a castle of sand near the pier.",
    "Rust prevents data races at compile time.",
    "My back has been hurting since I moved the piano.",
    "The orchestra played the second movement far too fast.",
    "What is the capital of Australia?",
    "Heavy rain is expected in the north tonight.",
    "The battery lasts about nine hours under normal use.",
    "He never apologised for what he had said that evening.",
    "Mix the flour, the eggs and a pinch of salt.",
    "The court ruled that the law was unconstitutional.",
    "Two goals in the last five minutes turned the match.",
    "Whales are mammals, although they live in the sea.",
)
_OTHERS = (
    "",
    "ok",
    "!!! ??? ...",
    "Straßenbahn, café, naïve, Ærø",
    "Москва — столица России.",
    "北京是中国的首都。",
    "東京は日本の首都です。",
    "القاهرة عاصمة مصر.",
    "दिल्ली भारत की राजधानी है।",
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }",
    "www.example.com/a?b=1&c=%20d",
    "C1=CC=C(C=C1)C(=O)O",
)
_LONG = "More than any model reads. " * 600


def own_rows() -> list[Row]:
    """The package's own texts, pairs of neighbours: 24 sentences, each with its neighbour, other kinds, long ones."""
    joined = [f"{one} {other}" for one, other in zip(_SENTENCES, (*_SENTENCES[1:], _SENTENCES[0]), strict=True)]
    paragraphs = [" ".join(_SENTENCES[start : start + 6]) for start in range(0, len(_SENTENCES), 6)]
    return _paired([*_SENTENCES, *joined, *_OTHERS, *paragraphs, _LONG])


def rows_of_file(file: str | Path) -> list[Row]:
    """Lines of a text file as rows; a tabulator divides a pair.

    Raises:
        ValueError: no such file, no UTF-8, or fewer than two lines.
    """
    label = f"texts={str(file)!r}"
    refuse_missing(str(file), label)
    if not Path(file).is_file():
        raise ValueError(f"{label} is no file; name a text file with one text a line")
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{label} is no UTF-8 text ({error.reason}); save it as UTF-8") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        raise ValueError(f"{label} has {len(lines)} texts; expected at least 2, one a line")
    pairs = [line.partition("\t") for line in lines]
    neighbours = _paired([first for first, _, _ in pairs])
    return [(first, second) if tab else row for (first, tab, second), row in zip(pairs, neighbours, strict=True)]


def _paired(texts: list[str]) -> list[Row]:
    return list(zip(texts, [*texts[1:], texts[0]], strict=True))
