"""Writes the table of docs/families.md from the families themselves.

python docs/families.py
"""

from pathlib import Path

from homodistil_hf.models.families import FAMILIES
from homodistil_hf.models.families.bert import BERT, has_blocks_of_bert
from homodistil_hf.models.families.family import EMBEDDING, EncoderFamily
from homodistil_hf.tables import markdown_table

PAGE, BEGIN, END = Path("docs/families.md"), "<!-- written by docs/families.py -->\n", "<!-- end -->"
COLUMNS = ("`model_type`", "classes", "pruned", "stock export", "not there")


def row(family: EncoderFamily) -> tuple[str, ...]:
    """What a family can, and what it can't."""
    return (
        f"`{family.model_type}`",
        f"`{family.encoder_name.removesuffix('Model')}For…`",
        "; ".join(_pruned(family)),
        "; ".join(_export(family)),
        "; ".join(_absent(family)) or "–",
    )


def _pruned(family: EncoderFamily) -> list[str]:
    pruned = ["hidden channels", "FFN neurons" if not family.is_gated else "gated FFN neurons"]
    pruned.append("heads, the same in all layers" if family.shares_heads else "heads")
    pruned.append("rotary pairs, the same in layers of a type" if family.is_rotary else "channels of heads")
    if any(EMBEDDING in dims for dims in family.embeddings.values()):
        pruned.append("embedding channels, where a projection follows them")
    return pruned


def _export(family: EncoderFamily) -> list[str]:
    if family.is_rotary:
        return ["the hidden size a multiple of the teacher's head size; padded to it"]
    return ["heads × head size = hidden size, or padded to it"]


def _absent(family: EncoderFamily) -> list[str]:
    absent = []
    if family.scores_have_positions:
        absent.append("`attention_weight`")
    if family.attention is None:
        absent.append("`rotate_heads`, TinyBERT, MiniLM")
    if not has_blocks_of_bert(family):
        absent.append("`latency_ms` budgets")
    if family is not BERT:
        absent.append("`bit`")
    return absent


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, after = page[: page.index(BEGIN)], page[page.index(END) :]
    table = "\n".join(markdown_table(COLUMNS, [row(family) for family in FAMILIES.values()]))
    PAGE.write_text(f"{before}{BEGIN}{table}\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
