"""Writes the table of docs/architectures.md from the architectures themselves.

python docs/architectures.py
"""

from pathlib import Path

from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.architectures.architecture import EMBEDDING, Architecture
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
    pruned.append("heads, the same in all layers" if architecture.shares_heads else "heads")
    pruned.append("rotary pairs, the same in layers of a type" if architecture.is_rotary else "channels of heads")
    if any(EMBEDDING in dims for dims in architecture.embeddings.values()):
        pruned.append("embedding channels, where a projection follows them")
    return pruned


def _export(architecture: Architecture) -> list[str]:
    if architecture.is_rotary:
        return ["the hidden size a multiple of the teacher's head size; padded to it"]
    return ["heads × head size = hidden size, or padded to it"]


def _absent(architecture: Architecture) -> list[str]:
    absent = []
    if architecture.scores_have_positions:
        absent.append("`attention_weight`")
    if architecture.attention is None:
        absent.append("`rotate_heads`, TinyBERT, MiniLM")
    if architecture is not BERT:
        absent.append("`bit`")
    return absent


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
