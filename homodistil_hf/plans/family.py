"""A family of students, each made from the one before: the check that widths only fall, and the folders' names.

resolve.py reads each plan; experiments/family.py trains the family.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from ..files.messages import short_repr
from ..files.strict_json import parse_json
from ..models.widths import UNIFORM_KEYS, WidthPlan
from .resolve import nearest_within, too_wide

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 60


def check_family(students: Sequence[str], plans: Sequence[WidthPlan], teacher: WidthPlan) -> None:
    """Refuse a family if a member equals the one before it or is wider in some width.

    Example:
    ```python
    >>> from homodistil_hf.plans.resolve import BERT_BASE, PRESETS
    >>> names = ["homobert-base", "homobert-tiny"]
    >>> check_family(names, [PRESETS[name] for name in names], BERT_BASE)

    ```
    """
    earlier, limit = "the teacher", teacher
    for student, plan in zip(students, plans, strict=True):
        if plan == limit:
            raise ValueError(f"student {short_repr(student)} has the widths of {earlier} before it; drop one of them")
        if reason := too_wide(plan, limit, whose=f"that of {earlier} before it,"):
            raise ValueError(
                f"student {short_repr(student)} {reason}; each member is made from the one before: list them from "
                f"wide to narrow, or take the nearest valid plan: {nearest_within(plan, limit).to_json()}"
            )
        earlier, limit = short_repr(student), plan


def member_folder(number: int, student: str) -> str:
    """Return the name of a member's folder, of letters, digits, `.`, `_` and `-`.

    Example:
    ```python
    >>> member_folder(1, "macs=0.5"), member_folder(2, "216-9x24-528"), member_folder(3, "plans/mine.json")
    ('1-macs-0.5', '2-216-9x24-528', '3-mine')

    ```
    """
    text = student.strip()
    if text.startswith("{"):
        widths = parse_json(text, "the plan")
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        text = (
            "{}-{}x{}-{}".format(*map(widths.get, UNIFORM_KEYS))
            if set(widths) == set(UNIFORM_KEYS)
            else f"widths-{digest}"
        )
    elif text.endswith(".json"):
        text = Path(text).stem
    return f"{number}-{_UNSAFE.sub('-', text).strip('.-')[:_LONGEST_NAME] or 'student'}"
