"""The names that users may rely on. Removing one takes a release of deprecation (docs/deprecation.md)."""

import re
import subprocess
import sys

import pytest
from rows import each

import homodistil_hf
import homodistil_hf.evaluation
from homodistil_hf.models.architectures import ARCHITECTURES

PUBLIC_NAMES = [
    "BinarizationArguments",
    "BinarizationTrainer",
    "Cascade",
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
    "MultiVectorDistilArguments",
    "MultiVectorDistilTrainer",
    "OneShotArguments",
    "OneShotTrainer",
    "PRESETS",
    "RerankerDistilArguments",
    "RerankerDistilTrainer",
    "SelfDistillTrainer",
    "SelfDistillationArguments",
    "SparseDistilArguments",
    "SparseDistilTrainer",
    "TeacherVectors",
    "WidthPlan",
    "__version__",
    "by_length",
    "deploy_export",
    "export_packed",
    "export_student",
    "load_embedding_model",
    "load_multi_vector_model",
    "load_nested",
    "load_sparse_model",
    "load_teacher_vectors",
    "load_text",
    "max_tokens",
    "multiply_bits",
    "prune_gradient_free",
    "resolve_plan",
    "self_distill",
    "to_binary",
    "tokenize_pairs",
    "tokenize_texts",
    "tokenize_to_blocks",
    "tokenize_vectors",
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


_FORKS = """
import gc
gc.disable()  # a copy that imports collects garbage: it would look through all of this process, and so copy it
for code in {codes!r}:
    sys.stdout.flush()
    child = os.fork()
    if not child:
        exec(code)
        print("---", flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, code
"""


_OF_OTHERS = "import os, sys\nimport accelerate, sklearn.metrics, torch._dynamo"
"""Half of what a model's import takes, once for all copies; nothing of it imports transformers or this package."""


@each(("package", "names"), [(homodistil_hf, PUBLIC_NAMES), (homodistil_hf.evaluation, EVALUATION_NAMES)])
def test_public_names_are_frozen_listed_and_documented(package, names):
    assert sorted(package.__all__) == sorted(names)
    assert set(names) <= set(dir(package))
    for name in names:
        public = getattr(package, name)
        assert public is not None
        assert name in ("PRESETS", "__version__") or re.match(r"\S.*\.", public.__doc__), name
    with pytest.raises(AttributeError, match=f"{package.__name__}.*no_such_name"):
        package.no_such_name  # noqa: B018


_MASKED_LM = "print(type(transformers.AutoModelForMaskedLM.from_pretrained(folder)).__name__)"
ORDERS = (
    "import homodistil_hf, transformers",
    "import transformers, homodistil_hf",
    "import homodistil_hf, transformers.models.bert.modeling_bert",
    "import transformers.models.bert.modeling_bert, homodistil_hf",
    "from transformers import AutoModelForMaskedLM\nimport homodistil_hf, transformers",
    "import homodistil_hf\nfrom transformers.models.auto.modeling_auto import AutoModel\nimport transformers",
)
USES = {
    "transformers.AutoConfig.for_model('homobert')": "HomoBertConfig",
    "transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(folder))": "HomoBertModel",
    "transformers.AutoModel.from_config(homodistil_hf.HomoBertConfig.from_pretrained(folder))": "HomoBertModel",
}
_DEEP = "from homodistil_hf.models.architectures.modeling_homobert import HomoBertConfig"
_TINY = "vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8"
_FROM_CONFIG = f"""
config = transformers.AutoConfig.for_model('homobert', max_position_embeddings=8, {_TINY})
for auto in {list(AUTO_CLASSES)}:
    print(type(getattr(transformers, auto).from_config(config)).__name__)
"""
_STOCK_BERT = f"""
config = transformers.BertConfig(max_position_embeddings=8, {_TINY})
print(type(transformers.AutoModelForMaskedLM.from_config(config)).__module__)
"""
STUDENT_TYPES = [architecture.student_type for architecture in ARCHITECTURES.values()]
AFTER_NOTHING = {"print({'transformers', 'homodistil_hf'}.isdisjoint(sys.modules))": ["True"]}
AFTER_NOTHING |= {f"{order}\n{_MASKED_LM}": ["HomoBertForMaskedLM"] for order in ORDERS}
AFTER_BOTH = {f"print(type({use}).__name__)": [name] for use, name in USES.items()} | {
    f"{_DEEP}\nprint(type(transformers.AutoModel.from_config(HomoBertConfig.from_pretrained(folder))).__name__)": [
        "HomoBertModel"
    ],
    f"for name in {STUDENT_TYPES}:\n    print(transformers.AutoConfig.for_model(name).model_type)": STUDENT_TYPES,
    _FROM_CONFIG: list(AUTO_CLASSES.values()),
    _STOCK_BERT: ["transformers.models.bert.modeling_bert"],
}
"""Code → the lines that it prints where it is the first that comes after nothing, or after both imports."""


@pytest.mark.slow
def test_students_are_found_in_whatever_order_things_are_imported_and_whatever_names_them_first(tmp_path):
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = homodistil_hf.HomoBertConfig(vocab_size=8, max_position_embeddings=8, **shape)
    homodistil_hf.HomoBertForMaskedLM(config).save_pretrained(tmp_path)
    steps = {f"folder = {str(tmp_path)!r}": AFTER_NOTHING, "import homodistil_hf, transformers": AFTER_BOTH}
    forked = (f"{after}\n{_FORKS.format(codes=list(codes))}" for after, codes in steps.items())
    printed = in_a_fresh_process("\n".join([_OF_OTHERS, *forked])).split("---")[:-1]
    expected = AFTER_NOTHING | AFTER_BOTH
    assert dict(zip(expected, map(str.split, printed), strict=True)) == expected


@pytest.mark.parametrize(
    "code",
    ["import homodistil_hf", "import sys\nfrom homodistil_hf.cli import main\nsys.argv[1:] = ['--help']\nmain()"],
)
def test_neither_import_nor_help_needs_torch(code):
    watched = "import atexit, sys\natexit.register(lambda: print({'torch', 'transformers'} & {*sys.modules}))\n"
    assert in_a_fresh_process(watched + code).splitlines()[-1] == "set()"


@pytest.mark.slow
def test_a_plan_needs_no_models(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForMaskedLM"]}')
    heavy = ["accelerate", "datasets", "transformers.modeling_utils", "transformers.trainer", "torch._dynamo"]
    words = ["plan", "--teacher", str(tmp_path), "--student", "homobert-tiny"]
    found = in_a_fresh_process(
        f"import sys\nfrom homodistil_hf.cli import main\nmain({words})\nprint({{*{heavy}}} & {{*sys.modules}})"
    )
    assert found.splitlines()[-1] == "set()"
