"""A guarantee in place of an average: how often a student answers as its teacher, at least, by held-out rows.

An answer is a row's class, or the first hit of a query; the code that compares answers is elsewhere:
`changed_classes.py` for classifiers, `embedding/tasks.py` for vectors. The bound is exact (Clopper and
Pearson, 1934) for rows that are drawn as those in use are, independently of each other.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from ..export.card import percent_below
from ..export.facts import is_guarantee
from ..files.messages import short_repr

CONFIDENCE = 0.95
WORDS = "words"
"""Name of the groups of [`length_groups`]."""
_LEAST_ROWS = 20  # of a group; with fewer even a group without any change is bounded below 0.86
_NUM_LENGTHS = 3
_BISECTIONS = 60
_NAMES = ("agreement", "agreement_of_groups")
"""Bounds over all rows, and of the group of rows that is worst."""


def largest_share(num_changed: int, num_rows: int, *, confidence: float = CONFIDENCE) -> float:
    """The upper bound of a share, of which `num_changed` of `num_rows` independent rows were seen.

    It is the largest p with P(X ≤ num_changed) ≥ 1 − confidence for X binomial of `num_rows` and p, found by bisection
    of the tail; it is also the quantile `confidence` of a beta distribution (num_changed + 1, num_rows − num_changed).

    Args:
        num_changed: from 0 to `num_rows`.
        num_rows: ≥ 1.
        confidence: chance, at least, that the bound is not below the true share, in (0, 1).

    Example:
    ```python
    >>> round(largest_share(0, 100), 4), round(1 - 0.05 ** (1 / 100), 4)
    (0.0295, 0.0295)

    ```
    """
    if num_changed == num_rows:
        return 1.0
    # the tail falls as p grows: bisect between the seen share and 1
    low, high = num_changed / num_rows, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _log_tail(num_changed, num_rows, middle) >= math.log1p(-confidence):
            low = middle
        else:
            high = middle
    return high  # the upper end, as a bound may be rounded up alone


def _log_tail(most: int, num_rows: int, share: float) -> float:
    """The logarithm of P(X ≤ most) for X binomial."""
    # log Σ_k C(n, k) pᵏ (1 − p)ⁿ⁻ᵏ by logarithms, as C(n, k) may be beyond every float
    counts = torch.arange(most + 1, dtype=torch.float64)
    choices = math.lgamma(num_rows + 1) - torch.lgamma(counts + 1) - torch.lgamma(num_rows - counts + 1)
    terms = choices + counts * math.log(share) + (num_rows - counts) * math.log1p(-share)
    return float(terms.logsumexp(0))


def guarantee(changed: Sequence[bool], groups: Mapping[str, Sequence[Any]] | None = None) -> dict[str, Any]:
    """Bound the share of answers that are the teacher's from below, over all rows and by groups of them.

    Args:
        changed: of each row whether its answer is another than the teacher's.
        groups: name of a column → its value in each row.

    Returns:
        `dict`: `num_rows`, `num_changed`, `agreement`, the share of these rows, and `at_least`, its bound at
        `CONFIDENCE`. `groups`: column → value → the same, for values of 20 rows or more. All bounds, of all columns
        and over all rows, hold together with that confidence (Bonferroni): each is lower than it would be alone.
    """
    large: dict[str, list[str]] = {}
    groups = {column: list(map(str, values)) for column, values in (groups or {}).items()}
    for column, values in groups.items():
        sizes = Counter(values)
        by_number = sorted(sizes, key=lambda name: (int((re.findall(r"\d+", name) or ["0"])[0]), name))
        large[column] = [name for name in by_number if sizes[name] >= _LEAST_ROWS]
    # all rows and all groups share the chance of an error
    confidence = 1 - (1 - CONFIDENCE) / (1 + sum(map(len, large.values())))
    parts = {
        column: {
            name: _bounded(
                [one for one, value in zip(changed, groups[column], strict=True) if value == name], confidence
            )
            for name in names
        }
        for column, names in large.items()
    }
    return _bounded(changed, confidence) | {"confidence": CONFIDENCE, "groups": parts}


def _bounded(changed: Sequence[bool], confidence: float) -> dict[str, Any]:
    num_rows, num_changed = len(changed), sum(map(bool, changed))
    return {
        "num_rows": num_rows,
        "num_changed": num_changed,
        "agreement": 1 - num_changed / num_rows,
        "at_least": 1 - largest_share(num_changed, num_rows, confidence=confidence),
    }


def length_groups(texts: Sequence[str]) -> list[str]:
    """Name each text's group by its number of words, in three groups of about as many texts.

    Example:
    ```python
    >>> length_groups(["a b", "a", "a b c d e", "a b c", "a b c d"])
    ['≤ 2', '≤ 2', '≥ 5', '3–4', '3–4']

    ```
    """
    lengths = [len(text.split()) for text in texts]
    ranked = sorted(lengths)
    # the longest of the first third, and of the second
    first, second = (ranked[(len(ranked) * part - 1) // _NUM_LENGTHS] for part in (1, 2))

    def name(length: int) -> str:
        if length <= first:
            return f"≤ {first}"
        return "–".join(map(str, dict.fromkeys((first + 1, second)))) if length <= second else f"≥ {second + 1}"

    return [name(length) for length in lengths]


def least_of(words: Sequence[str]) -> dict[str, float]:
    """Read `agreement=0.95`, the bounds that [`guarantee_problems`] asks for.

    Raises:
        ValueError: another name, or no share.
    """
    found = {}
    for word in words:
        name, _, number = word.partition("=")
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if name not in _NAMES or not 0 < share < 1:
            raise ValueError(
                f"least={short_repr(word)}: expected {' or '.join(_NAMES)}=SHARE, a share between 0 and 1, such as "
                "agreement=0.95"
            )
        found[name] = share
    return found


def guarantee_problems(found: Any, least: Mapping[str, float]) -> Iterator[str]:
    """Name each recorded bound that is below the wanted one.

    Args:
        found: the facts' section `guarantee`.
        least: content of [`least_of`].

    Returns:
        Lines; one where nothing is recorded that could hold.
    """
    if not least:
        return
    if not found or not is_guarantee(found):
        yield (
            "no guarantee is recorded; measure it on held-out rows first, by homodistil evaluate "
            "(docs/guides/evaluate.md)"
        )
        return
    for source, one in found.items():
        of_groups = {
            f"{source}, {column}: {value}": part["at_least"]
            for column, values in one["groups"].items()
            for value, part in values.items()
        }
        if "agreement_of_groups" in least and not of_groups:
            yield f"{source}: no guarantee of groups is recorded, as none has {_LEAST_ROWS} rows"
        bounds = {"agreement": {source: one["at_least"]}, "agreement_of_groups": of_groups}
        for name, share in least.items():
            for where, bound in bounds[name].items():
                # written so that NaN is below every share
                if not bound >= share:
                    found_least = percent_below(bound)
                    yield f"{where}: expected answers as the teacher's for at least {share:.1%}, found {found_least}%"
