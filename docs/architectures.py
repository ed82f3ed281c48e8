"""Writes the table of docs/architectures.md from the architectures themselves.

python docs/architectures.py
"""

from pathlib import Path

from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.architectures.architecture import (
    EMBEDDING,
    KEY,
    MASKED_LM,
    QUERY_KEY_VALUE,
    QUESTION_ANSWERING,
    Architecture,
)
from homodistil_hf.models.architectures.bert import BERT
from homodistil_hf.tables import markdown_table

PAGE, BEGIN, END = Path("docs/architectures.md"), "<!-- written by docs/architectures.py -->\n", "<!-- end -->"
COLUMNS = ("`model_type`", "pruned", "stock export", "not there")


def row(architecture: Architecture) -> tuple[str, ...]:
    """What an architecture can, and what it can't."""
    return (
        f"`{architecture.model_type}`",
        "; ".join(_pruned(architecture)),
        "; ".join(_export(architecture)),
        "; ".join(_absent(architecture)) or "–",
    )


def _pruned(architecture: Architecture) -> list[str]:
    pruned = ["hidden channels", "FFN neurons" if not architecture.is_gated else "gated FFN neurons"]
    heads = "heads with the key and value that they share" if _is_grouped(architecture) else "heads"
    pruned.append("heads, the same in all layers" if architecture.shares_heads else heads)
    alike = "all layers" if architecture.has_free_heads else "layers of a type"
    pruned.append(f"rotary pairs, the same in {alike}" if architecture.is_rotary else "channels of heads")
    if any(EMBEDDING in dims for dims in architecture.embeddings.values()):
        pruned.append("embedding channels, where a projection follows them")
    return pruned


def _export(architecture: Architecture) -> list[str]:
    if architecture.heads_divide:
        return ["any head size; the hidden size a multiple of the number of heads, or more heads of zeros"]
    if architecture.has_free_heads:
        return ["any heads of any size"]
    if architecture.is_rotary:
        return ["the hidden size a multiple of the teacher's head size; padded to it"]
    return ["heads × head size = hidden size, or padded to it"]


def _absent(architecture: Architecture) -> list[str]:
    absent = []
    if architecture.scores_have_positions:
        absent.append("`attention_weight`")
    if _is_fused(architecture) or _is_grouped(architecture) or architecture.is_rotary:
        absent.append("`rotate_heads`, TinyBERT, MiniLM")
    elif architecture.scores_have_positions:
        absent.append("TinyBERT, MiniLM")
    known = {head.kind for head in architecture.heads}
    absent += [
        words for kind, words in ((MASKED_LM, "masked words"), (QUESTION_ANSWERING, "answers")) if kind not in known
    ]
    if architecture is not BERT:
        absent.append("`bit`")
    return absent


def _is_fused(architecture: Architecture) -> bool:
    return any(QUERY_KEY_VALUE in dims for dims in architecture.layer.values())


def _is_grouped(architecture: Architecture) -> bool:
    return any(KEY in dims for dims in architecture.layer.values())


def page_text() -> str:
    """The page with its table."""
    page = PAGE.read_text(encoding="utf-8")
    before, after = page[: page.index(BEGIN)], page[page.index(END) :]
    first, *others = map(row, ARCHITECTURES.values())
    like_first = [
        [f"as {first[0]}" if cell == known else cell for cell, known in zip(one, first, strict=True)] for one in others
    ]
    table = "\n".join(markdown_table(COLUMNS, [first, *like_first]))
    return f"{before}{BEGIN}{table}\n{after}"


if __name__ == "__main__":
    PAGE.write_text(page_text(), encoding="utf-8")
