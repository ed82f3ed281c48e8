"""Multi-vector encoders: folders as sentence-transformers reads them, which tokens have a vector, MaxSim, refusals."""

import json
import sys

import pytest
import torch
from rows import each
from students import masked, zeroed_copy
from tiny_embeddings import make_sentence_folder, write
from tiny_multi_vector import ASYMMETRIC, EXPANSION, PROMPTS, make_multi_vector_folder

from homodistil_hf.embedding.metrics import mean_maxsim, nearest_alike
from homodistil_hf.embedding.model import load_embedding_model
from homodistil_hf.embedding.multi_vector import load_multi_vector_model
from homodistil_hf.embedding.multi_vector_trainer import TokenCollator
from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.widths import LayerWidths, WidthPlan
from homodistil_hf.pruning.compaction import compact
from homodistil_hf.runs.kinds import method_of_model

TEXTS = ["w7 w8 w10", "w10", "", "w3 w4 w9 " * 20]
LOAD_ELSEWHERE = """
import json, sys
import torch
from sentence_transformers import MultiVectorEncoder
for folder, routes in json.loads(sys.argv[2]).items():
    model = MultiVectorEncoder(folder, device="cpu")
    for route, vectors in routes.items():
        found = getattr(model, "encode_" + route)(json.loads(sys.argv[1]))
        assert [one.shape[0] for one in found] == [len(one) for one in vectors], (folder, route)
        print(max(float((one - torch.tensor(two)).abs().max()) for one, two in zip(found, vectors)))
"""
FOLDERS = {
    "as it is": {},
    "no layer": {"dense": ()},
    "two layers": {"dense": (24, 16)},
    "own lengths": {"normalizes": False, "similarity_fn_name": "meanmaxsim"},
    "left": {"padding_side": "left", "skiplist_words": ["w7"]},
    "prompts": {"prompts": PROMPTS},
    "lengths": {"query_length": 5, "document_length": 7},
    "skipped": {"skiplist_words": ["w7", "no word"], "skiplist_tasks": "query"},
    "skipped in both": {"skiplist_words": ["w7", "[MASK]"], "skiplist_tasks": ["query", "document"]},
    "expansion": ASYMMETRIC,
    "attended": {"query_expansion": EXPANSION | {"attend": True, "token": "w20"}},
    "at least": {"query_expansion": {"strategy": "min", "length": 8}, "query_length": 10},
    "at least, unbounded": {"query_expansion": {"strategy": "min", "length": 6}},
}


@pytest.mark.slow
def test_vectors_are_those_of_sentence_transformers(tmp_path, forked_python):
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    vectors = {}
    for name, how in FOLDERS.items():
        model = load_multi_vector_model(make_multi_vector_folder(tmp_path / name, **how))
        assert model.dimension == (32 if how.get("dense") == () else 16)
        vectors[str(tmp_path / name)] = {
            route: [one.tolist() for one in model.encode_each(TEXTS, prompt_name=route)]
            for route in ("query", "document")
        }
    command = [sys.executable, "-c", LOAD_ELSEWHERE, json.dumps(TEXTS), json.dumps(vectors)]
    found = forked_python.run(command, check=True, cwd=tmp_path).stdout.split()
    assert len(found) == 2 * len(FOLDERS)
    assert max(map(float, found)) < 1e-6


def batch_of(model, texts, route):
    """Rows to train on as a collator pads them."""
    columns = model.rows_of(12, route)(texts)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return TokenCollator(model.reading, seed=1, multiple=None)(rows), rows


@each("how", [{}, ASYMMETRIC, {"padding_side": "left", "skiplist_words": ["w7", "w9"]}])
@each("route", ["query", "document"])
def test_rows_to_train_on_have_the_vectors_of_their_texts(tmp_path, how, route):
    model = load_multi_vector_model(make_multi_vector_folder(tmp_path / "model", **how))
    texts = ["w7 w8 w10", "w10", "w9 w9 w11 w12"]
    batch, rows = batch_of(model, texts, route)
    assert batch["input_ids"].shape == batch["labels"].shape
    expected = torch.cat(model.encode_each(texts, prompt_name=route))
    with torch.no_grad():
        assert torch.allclose(model.of_inputs(batch), expected, atol=1e-6)
    # numbers belong to the tokens of a row, whatever stands beside it
    alone = TokenCollator(model.reading, seed=1, multiple=16)(rows[:1])
    assert alone["input_ids"].shape == (1, 16)
    numbers = [labels[labels != -100].tolist() for labels in (alone["labels"][0], batch["labels"][0])]
    assert numbers[0] == numbers[1]
    assert len(set(numbers[0])) == len(numbers[0])


def test_half_of_the_texts_are_queries_where_these_are_read_otherwise(tmp_path):
    texts = [f"w{number} w{number + 1}" for number in range(10, 60)]
    alike, other = (
        load_multi_vector_model(make_multi_vector_folder(tmp_path / name, **how))
        for name, how in (("alike", {"prompts": {"query": "", "document": ""}}), ("other", ASYMMETRIC))
    )
    assert (alike.reading.is_alike, other.reading.is_alike) == (True, False)
    assert alike.rows_of(12)(texts) == alike.rows_of(12, "document")(texts)
    found = other.rows_of(12)(texts)
    queries = [row for row in found["input_ids"] if row[1] == 5]  # behind the prompt of queries
    assert 15 < len(queries) < 35
    assert len(found["input_ids"]) == len(texts)
    assert other.rows_of(12)(texts[::-1])["input_ids"] != found["input_ids"]
    assert sorted(other.rows_of(12)(texts[::-1])["input_ids"]) == sorted(found["input_ids"])  # whatever their order


def test_units_that_are_removed_count_as_zeroed_ones(tmp_path):
    model = load_multi_vector_model(make_multi_vector_folder(tmp_path / "model", dense=()))
    student, plan = (
        to_student(model.encoder, needs_head=False).double(),
        WidthPlan.uniform(13, 2, LayerWidths(1, 3, 7)),
    )
    groups, masks = masked(student, plan, 0)
    batch, _ = batch_of(model, TEXTS[:2], "document")

    def states(one):
        return model.pool(one(batch["input_ids"], batch["attention_mask"]).last_hidden_state, batch)

    expected = states(zeroed_copy(student, masks))
    kept = masks["hidden"]
    compact(student, groups, masks, plan=plan)
    assert torch.allclose(states(student), expected[:, kept], atol=1e-9)


# MaxSim


def token_vectors(seed, *lengths, size=4):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(length, size, generator=draw, dtype=torch.float64) for length in lengths]


def test_maxsim_is_that_of_sentence_transformers():
    queries, documents = token_vectors(0, 3, 1, 5), token_vectors(1, 2, 7, 4, 1)
    expected = [[float((q @ d.T).amax(1).mean()) for d in documents] for q in queries]
    found = mean_maxsim(queries, documents)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64))
    util = pytest.importorskip("sentence_transformers.util", reason="sentence-transformers is not installed")
    theirs = util.maxsim([one.float() for one in queries], [one.float() for one in documents], length_normalize=True)
    assert torch.allclose(found.float(), theirs, atol=1e-6)


def test_the_nearest_texts_of_a_student_are_counted():
    teacher = token_vectors(0, *[3, 2, 4] * 8)
    assert nearest_alike(teacher, teacher, mean_maxsim) == {
        name: pytest.approx(1.0) for name in ("neighbours", "neighbours_in_index", "spread")
    }
    student = [one + other for one, other in zip(teacher, token_vectors(1, *[3, 2, 4] * 8), strict=True)]
    found = nearest_alike(student, teacher, mean_maxsim, most_neighbours=3)
    shared = 0
    for row, query in enumerate(student):
        near = [
            sorted((n for n in range(24) if n != row), key=lambda n: -float((one @ teacher[n].T).amax(1).sum()))[:3]
            for one in (query, teacher[row])
        ]
        shared += len(set(near[0]) & set(near[1]))
    assert found["neighbours_in_index"] == pytest.approx(shared / 72)
    assert 0 < found["neighbours_in_index"] < 1


# What is read


def test_a_multi_vector_encoder_is_known_by_its_name(tmp_path):
    assert method_of_model(str(make_multi_vector_folder(tmp_path / "tokens"))) == "multi_vector"
    assert method_of_model(str(make_multi_vector_folder(tmp_path / "old", model_type="ColBERT"))) == "multi_vector"
    assert method_of_model(str(make_sentence_folder(tmp_path / "dense"))) == "embedding"
    with pytest.raises(ValueError, match="has the modules Transformer, Dense, .*a multi-vector encoder by method=m"):
        load_embedding_model(tmp_path / "tokens")


def with_file(name, **changes):
    def change(folder):
        file = folder / name
        write(file, json.loads(file.read_text()) | changes)

    return change


def with_modules(*kinds):
    def change(folder):
        rows = [{"path": kind, "type": f"sentence_transformers.models.{kind}"} for kind in kinds]
        write(folder / "modules.json", rows)

    return change


SHARED, READ = "config_sentence_transformers.json", "sentence_bert_config.json"
OF_MODULES = (
    r"expected Transformer, any number of Dense, MultiVectorMask, and Normalize or not, .*save_pretrained\(…\)"
)


@each(
    ("change", "message"),
    [
        (with_modules("Transformer", "Pooling"), f"has the modules Transformer, Pooling; {OF_MODULES}"),
        (with_modules("Transformer", "Dense", "Normalize"), OF_MODULES),
        (with_modules("Transformer", "Normalize", "Dense", "MultiVectorMask"), OF_MODULES),
        (with_modules("Transformer", "MultiVectorMask", "HierarchicalTokenPooling"), OF_MODULES),
        (with_file(SHARED, query_prefix="[Q] "), f"1 more and query_prefix in {SHARED}; {OF_MODULES}"),
        (
            with_file(SHARED, similarity_fn_name="cosine"),
            "has similarity_fn_name='cosine'; expected one of maxsim",
        ),
        (
            with_file("1_Dense/config.json", use_residual=True),
            "has use_residual=true in 1_Dense/config.json, which",
        ),
        (
            with_file("1_Dense/config.json", module_input_name="sentence_embedding"),
            "has module_input_name='sentence_embedding' in 1_Dense; expected 'token_embeddings'",
        ),
        (lambda folder: write(folder / "3_Normalize" / "config.json", {}), "'sentence_embedding' in 3_Normalize; exp"),
        (
            with_file("2_MultiVectorMask/config.json", keep_only_token_ids=[7]),
            r"has keep_only_token_ids=\[7\]; expected none, as they are those of images: name another teacher",
        ),
        (
            with_file("2_MultiVectorMask/config.json", skiplist_tasks=["title"]),
            r"has skiplist_tasks=\['title'\]; expected some of query, document",
        ),
        (with_file(READ, query_length=0), "has query_length=0; expected a whole number of at least 1"),
        (
            with_file(READ, query_expansion={"strategy": "max", "length": 8}),
            "has query_expansion=.*; expected str",
        ),
        (
            with_file(READ, query_expansion={"strategy": "min"}),
            "has query_expansion=.*; expected strategy .fixed",
        ),
        (
            with_file(READ, query_expansion=EXPANSION | {"token": "no word"}),
            "has query_expansion=.*; expected a token of its vocabulary, by default that of masked words, and at most",
        ),
        (with_file(READ, query_expansion=EXPANSION | {"length": 64}), "and at most 32 tokens"),
    ],
)
def test_what_a_student_could_not_repeat_is_refused(tmp_path, change, message):
    folder = make_multi_vector_folder(tmp_path / "model")
    change(folder)
    with pytest.raises(ValueError, match=message):
        load_multi_vector_model(folder)


def test_expansion_on_the_left_is_refused(tmp_path):
    folder = make_multi_vector_folder(tmp_path / "model", padding_side="left", query_expansion=EXPANSION)
    with pytest.raises(ValueError, match="has query_expansion, but its tokenizer pads on the left; set padding_side"):
        load_multi_vector_model(folder)


def test_settings_that_are_not_read_are_named(tmp_path, caplog):
    load_multi_vector_model(make_multi_vector_folder(tmp_path / "model", some_setting=64))
    assert "not used, and left out of the student: some_setting=64 of config_sentence_transformers" in caplog.text


def test_a_multi_vector_encoder_has_no_one_vector_of_a_text(tmp_path):
    model = load_multi_vector_model(make_multi_vector_folder(tmp_path / "model"))
    with pytest.raises(ValueError, match="^a multi-vector encoder has no one vector of a text; use encode_each"):
        model.encode(["w7", "w9"])
