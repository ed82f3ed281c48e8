"""BERT's names stand in one file: no other names one of its classes or the path of one of its parameters."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import BertConfig

import homodistil_hf
from homodistil_hf.models.architectures import ARCHITECTURES, HEADS, MODEL_TYPES, architecture_of, config_class
from homodistil_hf.models.architectures.bert import BERT
from homodistil_hf.models.architectures.modeling_homobert import HomoBertConfig

ROOT = Path(homodistil_hf.__file__).parent


NAMES = re.compile(
    r"(Homo)?Bert[A-Z]\w+|.*\bbert\.(encoder|embeddings|pooler)|.*attention\.self|cls\.(predictions|seq_relationship)",
    re.DOTALL,
)


def names_in(path: Path) -> Iterator[str]:
    """All names, imports, attributes with their owners, and strings but for documentation."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    said = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.alias):
            yield node.name
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in said:
            yield node.value


OTHERS = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if path.parent.name != "architectures"}


@pytest.mark.slow
def test_no_other_file_names_a_class_or_a_parameter_of_bert():
    named = {path: {name for name in names_in(ROOT / path) if NAMES.match(name)} for path in OTHERS}
    assert {path: names for path, names in named.items() if names} == {}


def test_a_architecture_is_found_by_both_of_its_model_types():
    assert {name: config_class(name) for name in MODEL_TYPES[:2]} == {"bert": BertConfig, "homobert": HomoBertConfig}
    assert architecture_of(BertConfig()) is architecture_of(HomoBertConfig()) is BERT is ARCHITECTURES["bert"]


def test_a_head_is_found_by_both_of_its_classes():
    for head in BERT.heads:
        for found in (head.stock, head.student):
            assert HEADS[found.__name__] is head
            assert head.class_called(found.__name__) is found
    pre_training = HEADS["BertForPreTraining"]
    assert pre_training is BERT.heads[0]
    assert pre_training.class_called("BertForPreTraining") is BERT.heads[0].stock
