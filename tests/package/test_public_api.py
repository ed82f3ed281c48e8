"""The names that users may rely on. Removing one takes a release of deprecation (docs/deprecation.md)."""

import re
import subprocess
import sys

import pytest

import homodistil_hf
import homodistil_hf.evaluation

PUBLIC_NAMES = [
    "PRESETS",
    "HomoBertConfig",
    "HomoBertForMaskedLM",
    "HomoBertForQuestionAnswering",
    "HomoBertForSequenceClassification",
    "HomoBertForTokenClassification",
    "HomoBertModel",
    "HomoDistilTrainer",
    "HomoDistilTrainingArguments",
    "LayerWidths",
    "MaskedLMCollator",
    "OneShotTrainer",
    "WidthPlan",
    "__version__",
    "export_student",
    "load_text",
    "resolve_plan",
    "tokenize_to_blocks",
    "verify_export",
]

EVALUATION_NAMES = [
    "DiscrepancySettings",
    "GlueSettings",
    "SquadSettings",
    "compare",
    "evaluate_discrepancy",
    "evaluate_glue",
    "evaluate_squad",
    "format_comparison",
    "load_metric",
]

AUTO_CLASSES = {
    "AutoModel": "HomoBertModel",
    "AutoModelForMaskedLM": "HomoBertForMaskedLM",
    "AutoModelForSequenceClassification": "HomoBertForSequenceClassification",
    "AutoModelForTokenClassification": "HomoBertForTokenClassification",
    "AutoModelForQuestionAnswering": "HomoBertForQuestionAnswering",
}


def in_a_fresh_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_public_names_are_frozen():
    assert sorted(homodistil_hf.__all__) == sorted(PUBLIC_NAMES)


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_every_public_name_resolves(name):
    assert getattr(homodistil_hf, name) is not None


def test_public_names_are_listed_by_dir():
    assert set(PUBLIC_NAMES) <= set(dir(homodistil_hf))


def test_names_of_evaluation_are_frozen():
    assert sorted(homodistil_hf.evaluation.__all__) == sorted(EVALUATION_NAMES)
    assert set(EVALUATION_NAMES) <= set(dir(homodistil_hf.evaluation))


@pytest.mark.parametrize("name", EVALUATION_NAMES)
def test_every_name_of_evaluation_is_documented(name):
    assert re.match(r"\S.*\.", getattr(homodistil_hf.evaluation, name).__doc__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        homodistil_hf.no_such_name  # noqa: B018
    with pytest.raises(AttributeError, match="evaluation.*no_such_name"):
        homodistil_hf.evaluation.no_such_name  # noqa: B018


@pytest.mark.parametrize("name", [name for name in PUBLIC_NAMES if name not in ("PRESETS", "__version__")])
def test_every_public_object_is_documented(name):
    assert re.match(r"\S.*\.", getattr(homodistil_hf, name).__doc__)


def test_import_registers_the_auto_classes():
    found = in_a_fresh_process(
        "import homodistil_hf, transformers\n"
        "config = transformers.AutoConfig.for_model('homobert', vocab_size=8, hidden_size=8, num_hidden_layers=1,\n"
        "    num_attention_heads=2, intermediate_size=8, max_position_embeddings=8)\n"
        f"for auto in {list(AUTO_CLASSES)}:\n"
        "    print(type(getattr(transformers, auto).from_config(config)).__name__)"
    )
    assert found.split() == list(AUTO_CLASSES.values())


def test_import_leaves_stock_bert_alone():
    found = in_a_fresh_process(
        "import homodistil_hf, transformers\n"
        "config = transformers.BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,\n"
        "    intermediate_size=8, max_position_embeddings=8)\n"
        "print(type(transformers.AutoModelForMaskedLM.from_config(config)).__module__)"
    )
    assert found == "transformers.models.bert.modeling_bert"
