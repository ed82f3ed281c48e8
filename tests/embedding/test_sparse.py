"""Sparse encoders: pieces of the vocabulary, folders as sentence-transformers reads them, exports, refusals."""

import json
import sys

import pytest
import torch
from rows import each
from students import make_student, masked, zeroed_copy
from tiny_architectures import tiny_architecture_config
from tiny_embeddings import make_sentence_folder, write
from tiny_models import VOCAB_SIZE, randomized
from tiny_sparse import ROUTER, TABLE, make_sparse_folder

from homodistil_hf.distillation.vocabulary_loss import LOGITS_BYTES
from homodistil_hf.embedding import sparse
from homodistil_hf.embedding.sparse import all_positions, load_sparse_model, pooled_words
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.widths import LayerWidths, WidthPlan
from homodistil_hf.pruning.compaction import compact
from homodistil_hf.runs.kinds import method_of_model

TEXTS = ["w7 w8 w9", "w10", "", "w3 w4 " * 20]
MASKS = {
    "right": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
    "left": torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]),
    "none": None,
}


def whole(layer, states, mask, activation):
    """The formula, with all logits at once."""
    values = layer(states).relu().log1p()
    values = values.log1p() if activation == "log1p_relu" else values
    return (values if mask is None else values * mask[..., None]).amax(1)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@each("activation", ["relu", "log1p_relu"])
def test_pieces_are_the_whole_with_its_gradients(monkeypatch, activation, mask):
    monkeypatch.setattr(sparse, "LOGITS_BYTES", 8 * 2 * 4 * 7)  # 7 words at a time, the last piece of 2
    torch.manual_seed(0)
    layer, states = torch.nn.Linear(5, 23, dtype=torch.float64), torch.randn(2, 4, 5, dtype=torch.float64)
    found, tensors = [], [states.requires_grad_(), *layer.parameters()]
    for vectors in (pooled_words(layer, states, mask, activation=activation), whole(layer, states, mask, activation)):
        weights = torch.linspace(-1, 2, vectors.numel(), dtype=torch.float64).view_as(vectors)
        found.append([vectors, *torch.autograd.grad((vectors * weights).sum(), tensors)])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-9)


def test_no_piece_has_more_logits_than_are_held_at_a_time(monkeypatch):
    monkeypatch.setattr(sparse, "LOGITS_BYTES", 4 * 2 * 3 * 10)
    products, multiply = [], torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda one, other: products.append(multiply(one, other)) or products[-1]
    )
    pooled_words(torch.nn.Linear(5, 64), torch.randn(2, 3, 5), None)
    assert [product.shape[-1] for product in products] == [10] * 6 + [4]
    assert LOGITS_BYTES == 1 << 28


def test_products_in_a_lower_type_become_float32():
    layer, states = torch.nn.Linear(5, 23).requires_grad_(False), torch.randn(2, 4, 5)
    exact, lowered = (pooled_words(layer, states, None, dtype=dtype) for dtype in (None, torch.bfloat16))
    assert lowered.dtype == torch.float32
    assert 0 < float((exact - lowered).abs().max()) < 2e-2


def test_units_that_are_removed_count_as_zeroed_ones():
    student, plan = make_student("masked_lm", dtype=torch.float64), WidthPlan.uniform(13, 2, LayerWidths(1, 3, 7))
    groups, masks = masked(student, plan, 0)
    tokens = torch.arange(12).view(2, 6) + 5

    def vectors(model):
        states = model(tokens, **all_positions(tokens)).decoder_inputs.view(2, 6, -1)
        return pooled_words(model.decoder_layer, states, None)

    expected = vectors(zeroed_copy(student, masks))
    compact(student, groups, masks, plan=plan)
    assert torch.allclose(vectors(student), expected, atol=1e-9)


LOAD_ELSEWHERE = """
import json, sys
import torch
from safetensors.torch import load_file
from sentence_transformers import SparseEncoder
for folder, vectors in json.loads(sys.argv[2]).items():
    model = SparseEncoder(folder, device="cpu")
    found = model.encode_document(json.loads(sys.argv[1])).to_dense()
    print(float((found - torch.tensor(vectors)).abs().max()))
"""
FOLDERS = {
    "as it is": {},
    "new": {"is_new": True, "activation": "log1p_relu"},
    "left": {"padding_side": "left"},
    "router": {"has_router": True},
    "new router": {"has_router": True, "is_new": True},
    "prompts": {"prompts": {"document": "w5 w6 "}},
}


@pytest.mark.slow
def test_vectors_are_those_of_sentence_transformers(tmp_path, forked_python):
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    vectors = {}
    for name, how in FOLDERS.items():
        model = load_sparse_model(make_sparse_folder(tmp_path / name, **how))
        assert (model.dimension, model.similarity, model.settings.max_seq_length) == (VOCAB_SIZE, "dot", 12)
        vectors[str(tmp_path / name)] = model.encode(TEXTS, prompt_name="document").tolist()
    command = [sys.executable, "-c", LOAD_ELSEWHERE, json.dumps(TEXTS), json.dumps(vectors)]
    found = forked_python.run(command, check=True, cwd=tmp_path).stdout.split()
    assert len(found) == len(FOLDERS)
    assert max(map(float, found)) < 1e-6


def test_a_sparse_encoder_is_known_by_its_name(tmp_path):
    assert method_of_model(str(make_sparse_folder(tmp_path / "sparse"))) == "sparse"
    assert method_of_model(str(make_sentence_folder(tmp_path / "dense"))) == "embedding"


def with_router(folder, **changes):
    router = json.loads((folder / "router_config.json").read_text())
    write(folder / "router_config.json", router | {name: router[name] | value for name, value in changes.items()})


def without_head(folder):
    config = tiny_architecture_config(ARCHITECTURES["qwen3"])
    randomized(ARCHITECTURES["qwen3"].encoder.stock(config)).save_pretrained(folder)


OF_MODULES = "has the modules .*; expected Transformer and SpladePooling, alone, or of a Router's documents without a"
CHANGES = {
    "a pooling": lambda folder: write(folder / "1_SpladePooling" / "config.json", {"pooling_strategy": "sum"}),
    "an activation": lambda folder: write(folder / "1_SpladePooling" / "config.json", {"activation_function": "gelu"}),
    "another module": lambda folder: write(
        folder / "modules.json",
        [{"path": path, "type": f"sentence_transformers.models.{path or 'Transformer'}"} for path in ("", "Pooling")],
    ),
    "no head": without_head,
}
ROUTERS = {
    "a mapping": lambda folder: with_router(folder, parameters={"route_mappings": {"(None, 'text')": "query"}}),
    "a route": lambda folder: with_router(folder, structure={"other": [TABLE]}),
    "a path": lambda folder: with_router(folder, types={"../else": ROUTER}),
    "a table": lambda folder: write(folder / TABLE / "config.json", {"path": "idf.json"}),
    "no object": lambda folder: write(folder / "router_config.json", {"types": []}),
}


@each(
    ("change", "message"),
    [
        ("a pooling", "has pooling_strategy='sum' in 1_SpladePooling; expected max"),
        ("an activation", "has activation_function='gelu' in 1_SpladePooling; expected relu or log1p_relu"),
        ("another module", OF_MODULES),
        ("no head", "is a qwen3, which has no masked-LM head; name another teacher"),
        ("a mapping", OF_MODULES),
        ("a route", OF_MODULES),
        ("a path", OF_MODULES),
        (
            "a table",
            "has a table of queries of the shape .* with .*idf.json.*; expected a weight a word, 96, in model",
        ),
        ("no object", OF_MODULES),
    ],
)
def test_what_a_student_could_not_repeat_is_refused(tmp_path, change, message):
    folder = make_sparse_folder(tmp_path / "model", has_router=change in ROUTERS)
    (CHANGES | ROUTERS)[change](folder)
    with pytest.raises(ValueError, match=f"^teacher='{folder}'.*{message}"):
        load_sparse_model(folder)


def test_settings_that_are_not_read_are_named(tmp_path, caplog):
    load_sparse_model(make_sparse_folder(tmp_path / "model", is_new=True, max_active_dims=64))
    assert "not used, and left out of the student: max_active_dims=64 of config_sentence_transformers" in caplog.text
