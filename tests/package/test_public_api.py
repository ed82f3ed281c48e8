"""The names that users may rely on. Removing one takes a release of deprecation (docs/deprecation.md)."""

import re
import subprocess
import sys

import pytest

import homodistil_hf
import homodistil_hf.evaluation
from homodistil_hf.models.architectures import ARCHITECTURES

PUBLIC_NAMES = [
    "BinarizationArguments",
    "BinarizationTrainer",
    "DistillationArguments",
    "EmbeddingDistilArguments",
    "EmbeddingDistilTrainer",
    "GradientFreeSettings",
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
    "OneShotArguments",
    "OneShotTrainer",
    "PRESETS",
    "RerankerDistilArguments",
    "RerankerDistilTrainer",
    "SelfDistillTrainer",
    "SelfDistillationArguments",
    "WidthPlan",
    "__version__",
    "by_length",
    "export_packed",
    "export_student",
    "load_embedding_model",
    "load_text",
    "multiply_bits",
    "prune_gradient_free",
    "resolve_plan",
    "self_distill",
    "to_binary",
    "tokenize_pairs",
    "tokenize_texts",
    "tokenize_to_blocks",
    "unlabeled_batches",
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


@pytest.mark.slow
def test_import_registers_the_auto_classes():
    found = in_a_fresh_process(
        "import homodistil_hf, transformers\n"
        "config = transformers.AutoConfig.for_model('homobert', vocab_size=8, hidden_size=8, num_hidden_layers=1,\n"
        "    num_attention_heads=2, intermediate_size=8, max_position_embeddings=8)\n"
        f"for auto in {list(AUTO_CLASSES)}:\n"
        "    print(type(getattr(transformers, auto).from_config(config)).__name__)"
    )
    assert found.split() == list(AUTO_CLASSES.values())


USES = {
    "transformers.AutoConfig.for_model('homobert')": "HomoBertConfig",
    "transformers.AutoModelForMaskedLM.from_pretrained(folder)": "HomoBertForMaskedLM",
    "transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(folder))": "HomoBertModel",
    "transformers.AutoModel.from_config(homodistil_hf.HomoBertConfig.from_pretrained(folder))": "HomoBertModel",
    "transformers.AutoModel.from_config(modeling_homobert.HomoBertConfig.from_pretrained(folder))": "HomoBertModel",
}
ORDERS = (
    "import homodistil_hf, transformers",
    "import transformers, homodistil_hf",
    "import homodistil_hf, transformers.models.bert.modeling_bert",
    "import transformers.models.bert.modeling_bert, homodistil_hf",
    "from transformers import AutoModelForMaskedLM\nimport homodistil_hf, transformers",
    "import homodistil_hf\nfrom transformers.models.auto.modeling_auto import AutoModel\nimport transformers",
)


@pytest.fixture(scope="module")
def compact_export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compact")
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = homodistil_hf.HomoBertConfig(vocab_size=8, max_position_embeddings=8, **shape)
    homodistil_hf.HomoBertForMaskedLM(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_students_load_in_whatever_order_things_are_imported(order, compact_export):
    found = in_a_fresh_process(
        f"{order}\nprint(type(transformers.AutoModelForMaskedLM.from_pretrained({compact_export!r})).__name__)"
    )
    assert found == "HomoBertForMaskedLM"


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
def test_students_are_found_by_whatever_names_them_first(use, compact_export):
    deep = "from homodistil_hf.models.architectures import modeling_homobert\n" * ("modeling_homobert" in use)
    found = in_a_fresh_process(
        f"import homodistil_hf, transformers\n{deep}folder = {compact_export!r}\nprint(type({use}).__name__)"
    )
    assert found == USES[use]


def test_every_student_type_is_known_before_anything_is_imported():
    found = in_a_fresh_process(
        "import homodistil_hf\nfrom transformers import AutoConfig\n"
        f"for name in {[architecture.student_type for architecture in ARCHITECTURES.values()]}:\n"
        "    print(AutoConfig.for_model(name).model_type)"
    )
    assert found.split() == [architecture.student_type for architecture in ARCHITECTURES.values()]


@pytest.mark.parametrize(
    "code",
    ["import homodistil_hf", "import sys\nfrom homodistil_hf.cli import main\nsys.argv[1:] = ['--help']\nmain()"],
)
def test_neither_import_nor_help_needs_torch(code):
    watched = "import atexit, sys\natexit.register(lambda: print({'torch', 'transformers'} & {*sys.modules}))\n"
    assert in_a_fresh_process(watched + code).splitlines()[-1] == "set()"


def test_a_plan_needs_no_models(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForMaskedLM"]}')
    heavy = ["accelerate", "datasets", "transformers.modeling_utils", "transformers.trainer", "torch._dynamo"]
    words = ["plan", "--teacher", str(tmp_path), "--student", "homobert-tiny"]
    found = in_a_fresh_process(
        f"import sys\nfrom homodistil_hf.cli import main\nmain({words})\nprint({{*{heavy}}} & {{*sys.modules}})"
    )
    assert found.splitlines()[-1] == "set()"


@pytest.mark.slow
def test_import_leaves_stock_bert_alone():
    found = in_a_fresh_process(
        "import homodistil_hf, transformers\n"
        "config = transformers.BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,\n"
        "    intermediate_size=8, max_position_embeddings=8)\n"
        "print(type(transformers.AutoModelForMaskedLM.from_config(config)).__module__)"
    )
    assert found == "transformers.models.bert.modeling_bert"
