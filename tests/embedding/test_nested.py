"""Nested embedding models: a map a size, one folder, each size read by sentence-transformers, in any form of space."""

import json
import sys
from pathlib import Path

import pytest
import torch
from commands import error_of
from deployed import needs_onnx
from safetensors.torch import load_file
from tiny_architectures import tiny_architecture_config
from tiny_embeddings import PLAIN, distilling_embeddings, make_sentence_folder
from tiny_files import assert_resumed_alike, write_config
from tiny_models import randomized
from transformers import BertConfig

from homodistil_hf import load_nested, verify_export
from homodistil_hf.cli import main
from homodistil_hf.embedding.model import pooled
from homodistil_hf.embedding.trainer import EmbeddingDistilArguments
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.cost import count_parameters, encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan
from homodistil_hf.training.nested import nested_plans

pytestmark = pytest.mark.slow

SIZES = ["24-3x8-48", "16-2x8-32", "8-2x4-16"]
TEXTS = ["w7 w8 w9", "w10", ""]
LOAD_ELSEWHERE = """
import json, sys
from sentence_transformers import SentenceTransformer
assert "homodistil_hf" not in sys.modules
print(json.dumps(SentenceTransformer(sys.argv[1]).encode(["w7 w8 w9", "w10", ""]).tolist()))
"""


@pytest.fixture
def make_nested(make_trainer, tmp_path):
    def make(model=None, **settings):
        defaults = {"student": SIZES, "nested": True, "learning_rate": 1e-2, "max_steps": 6}
        return distilling_embeddings(make_trainer, model or tmp_path / "teacher", **defaults | settings)

    return make


def vectors_in_memory(trainer):
    """Name of a size → its vectors of `TEXTS`."""
    trainer.model.eval()
    losses = [trainer.distillation, *(part.distillation for part in trainer.nested.parts)]
    models, found = [trainer.model, *trainer.nested.models()], {}
    inputs = trainer.embedding_model.tokenize(TEXTS)
    for name, model, loss in zip(trainer.plans, models, losses, strict=True):
        with torch.no_grad():
            states = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
            own = pooled(states, inputs["attention_mask"], trainer.embedding_model.settings.pooling)
            found[name] = loss.mapped_and_own(own)[1]
    return found


def assert_folder_has_all_sizes(trainer, folder):
    student = trainer.export(folder)
    for name, expected in vectors_in_memory(trainer).items():
        assert torch.allclose(load_nested(student, name).encode(TEXTS), expected, atol=1e-5), name
    return student


@pytest.mark.parametrize(
    ("shared", "settings"),
    [
        ({}, {}),
        ({"dense": 5}, {}),
        ({"normalizes": False, "similarity_fn_name": "dot"}, {}),
        ({}, {"output": 7}),
        ({}, {"output": "student"}),
        ({}, {"plain": True, "student": [PLAIN, PLAIN | {"intermediate_size": 16}]}),
    ],
)
def test_one_folder_has_all_sizes(make_nested, tmp_path, shared, settings):
    trainer = make_nested(make_sentence_folder(tmp_path / "model", **shared), **settings)
    trainer.train()
    student = assert_folder_has_all_sizes(trainer, tmp_path / "student")
    # plain students have the teacher's channels in their order, and need no map
    has_maps = settings.get("output") != "student" and not settings.get("plain")
    assert (student / "nested.safetensors").is_file() is has_maps
    assert verify_export(student).problems == ()


@pytest.mark.parametrize("name", ["nomic_bert", "modernbert", "eurobert"])
def test_rotary_pairs_and_shared_keys_come_back(make_nested, tmp_path, name):
    architecture = ARCHITECTURES[name]
    torch.manual_seed(1)
    encoder = randomized(architecture.encoder.stock(tiny_architecture_config(architecture)))
    sizes = ["24-4x8-48", "16-2x8-32", "16-2x4-16"] if name == "eurobert" else SIZES
    sizes = [*SIZES[:2], "8-1x4-16"] if name == "modernbert" else sizes
    trainer = make_nested(make_sentence_folder(tmp_path / "model", encoder=encoder), student=sizes)
    trainer.train()
    assert_folder_has_all_sizes(trainer, tmp_path / "student")


def test_a_size_between_has_the_map_of_the_larger_one(make_nested, tmp_path):
    trainer = make_nested(make_sentence_folder(tmp_path / "model", dense=5), max_steps=2)
    trainer.train()
    student = trainer.export(tmp_path / "student")
    teacher_macs = json.loads((student / "facts.json").read_text())["teacher"]["encoder_macs"]
    for larger, (hidden_size, num_heads, ffn) in {SIZES[0]: (24, 3, 40), SIZES[1]: (16, 2, 24)}.items():
        whole = load_nested(student, larger)
        share = encoder_macs(WidthPlan.uniform(hidden_size, 2, LayerWidths(num_heads, 8, ffn))) / teacher_macs + 1e-4
        between = load_nested(student, macs=share)
        assert between.encoder.config.intermediate_size == ffn
        assert torch.equal(between.dense[0].linear.weight, whole.dense[0].linear.weight)
        # vectors of the larger one whose last neurons are silent
        for layer in whole.encoder.encoder.layer:
            layer.output.dense.weight.data[:, ffn:] = 0
        assert torch.allclose(between.encode(TEXTS), whole.encode(TEXTS), atol=1e-6)


def test_maps_are_all_that_smaller_sizes_have_of_their_own(make_nested, tmp_path):
    trainer = make_nested(max_steps=2)
    trainer.train()
    student = trainer.export(tmp_path / "student")
    tensors = load_file(student / "nested.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "16-2x8-32/weight": (32, 16),
        "8-2x4-16/weight": (32, 8),
    }


def test_a_damaged_folder_is_refused(make_nested, tmp_path):
    trainer = make_nested(max_steps=2)
    trainer.train()
    student = trainer.export(tmp_path / "student")
    table = json.loads((student / "nested.json").read_text())
    table["members"][2]["plan"]["hidden_size"] = 999
    (student / "nested.json").write_text(json.dumps(table))
    with pytest.raises(
        ValueError, match=r"nested\.json: 8-2x4-16 is wider than the weights beside it, .*copy the whole"
    ):
        load_nested(student, SIZES[1])
    (student / "nested.safetensors").unlink()
    with pytest.raises(ValueError, match=r"nested\.safetensors lacks weight of 16-2x8-32, which nested\.json lists"):
        load_nested(student, SIZES[1])
    expected = ("nested.safetensors: listed in facts.json, found nothing", "nested.json size_bytes")
    assert all(any(words in problem for problem in verify_export(student).problems) for words in expected)


def test_each_size_has_its_map_from_its_first_step_on(make_nested):
    trainer = make_nested(max_steps=1, learning_rate=1e-12)
    trainer.train()
    fitted = trainer.evaluate()
    for part in trainer.nested.parts:
        dense = part.member.projections.dense.weight
        width = part.member.plan.hidden_size
        assert torch.allclose(part.member.take_weights().projections.dense.weight, dense[:, :width])
        dense.data[:, :width] = torch.eye(32, width)
    worse = trainer.evaluate()
    assert fitted["eval_cosine"] == worse["eval_cosine"]
    for size in SIZES[1:]:
        assert fitted[f"eval_{size}_cosine"] > worse[f"eval_{size}_cosine"]


def test_all_sizes_learn(make_nested):
    trainer = make_nested(max_steps=60, eval_strategy="steps", eval_steps=30)
    trainer.train()
    first, last = trainer.evaluations.values()
    for prefix in ("", *(f"{size}_" for size in SIZES[1:])):
        assert last[f"{prefix}loss"] < first[f"{prefix}loss"]


def test_one_folder_on_the_command_line(tmp_path, capsys, forked_python):
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    folder = make_sentence_folder(tmp_path / "embeddings")
    shared = {"teacher": str(folder), "max_seq_length": 12, "num_scoring_batches": 2, "width_multiple": 4}
    config = str(write_config(tmp_path, **shared, student=["macs=0.5", "macs=0.25"], nested=True, save_steps=6))
    assert main(["distill", config]) == 0
    told = capsys.readouterr().out
    assert "It is the largest of 2 sizes in this folder" in told
    assert "index by macs=0.25" in told  # who may encode queries, and who the index
    run = tmp_path / "run"
    results = json.loads((run / "results.json").read_text())
    assert [row["name"] for row in results["models"]] == ["teacher", "macs=0.5", "macs=0.25"]
    assert set(next(iter(results["space"]["tasks"].values()))) == {"teacher", "macs=0.5", "macs=0.25"}
    assert "macs=0.25" in (run / "student" / "README.md").read_text()
    assert main(["export", str(run), "--member", "macs=0.25", "--output", str(tmp_path / "small")]) == 0
    assert main(["verify", str(tmp_path / "small")]) == 0
    command = [sys.executable, "-c", LOAD_ELSEWHERE, str(tmp_path / "small")]
    found = json.loads(forked_python.run(command, check=True, cwd=tmp_path).stdout)
    expected = load_nested(run, macs=0.25).encode(TEXTS)
    assert torch.allclose(torch.tensor(found), expected, atol=1e-5)
    facts = json.loads((tmp_path / "small" / "facts.json").read_text())
    assert facts["evaluation"]["cosine"] == results["models"][2]["cosine"]
    assert "benchmarks" not in facts  # those of the largest
    command = [sys.executable, "-c", LOAD_ELSEWHERE, str(run / "student")]
    found = json.loads(forked_python.run(command, check=True, cwd=tmp_path).stdout)
    assert torch.allclose(torch.tensor(found), load_nested(run, macs=0.5).encode(TEXTS), atol=1e-5)
    words = ["export", str(run), "--member", "macs=0.25", "--format", "pair", "--output", str(tmp_path / "pair")]
    assert main(words) == 0
    assert "is none of the nested student's: macs=0.5, macs=0.25; nearest valid" in error_of(
        capsys, "export", str(run), "--member", "0.1", "--output", str(tmp_path / "other")
    )
    assert_resumed_alike(["distill", config], run, "checkpoint-6")


@pytest.mark.distributed
def test_two_ranks_distil_as_one(tmp_path, as_ranks):
    folder, results = make_sentence_folder(tmp_path / "embeddings"), []
    shared = {"teacher": str(folder), "max_seq_length": 12, "num_scoring_batches": 2, "width_multiple": 4}
    shared |= {"student": ["macs=0.5", "macs=0.25"], "nested": True, "max_steps": 4, "use_cpu": True}
    for name, of_rank in (("one", 8), ("two", 4)):
        (tmp_path / name).mkdir()
        config = write_config(tmp_path / name, **shared, per_device_train_batch_size=of_rank)
        if name == "one":
            assert main(["distill", str(config)]) == 0
        else:
            done = as_ranks(Path(__file__).parents[1] / "support" / "task_ranks.py", config)
            assert done.returncode == 0, done.stderr[-2000:]
        results.append(json.loads((tmp_path / name / "run" / "results.json").read_text()))
    for one, two in zip(*(found["models"] for found in results), strict=True):
        assert {"cosine", "num_parameters"} <= one.keys() or one["name"] == "teacher"
        assert two["num_parameters"] == one["num_parameters"]
        assert two.get("cosine") == pytest.approx(one.get("cosine"), rel=1e-3)


@needs_onnx
def test_all_sizes_are_deployed_at_once(make_nested, tmp_path, capsys):
    trainer = make_nested(max_steps=1, student=SIZES[:2])
    trainer.train()
    student, output = str(trainer.export(tmp_path / "student")), tmp_path / "deployed"
    words = ["deploy", student, "--to", "onnx", "--num_rounds", "0", "--output", str(output)]
    for wrong, told in {
        ("--member", "all", "--least", "2"): "least=2.0 is no share",
        ("--member", "nonsense"): "member='nonsense' is none of the nested student's: 24-3x8-48, 16-2x8-32",
        (): "member=None with output=",
    }.items():
        assert told in error_of(capsys, *words, *wrong)
        assert not output.exists()
    assert main([*words, "--member", "all"]) == 0
    shown = capsys.readouterr().out
    for folder, name in {"1-24-3x8-48": SIZES[0], "2-16-2x8-32": SIZES[1]}.items():
        assert f"{name} onnx/model.onnx" in shown
        assert verify_export(output / folder).problems == ()
        (row,) = json.loads((output / folder / "facts.json").read_text())["runtimes"]["rows"]
        assert row["figures"]["fidelity"] == pytest.approx(1.0, abs=1e-6)
    assert "holds an export already" in error_of(capsys, *words, "--member", "all")
    small = str(tmp_path / "small")
    assert main([*words[:-1], small, "--member", SIZES[1], "--overwrite"]) == 0
    assert (tmp_path / "small" / "onnx" / "model.onnx").is_file()


def test_all_sizes_are_timed_side_by_side(make_nested, tmp_path):
    trainer = make_nested(max_steps=1)
    trainer.train()
    student, file = trainer.export(tmp_path / "of-run" / "student"), tmp_path / "out.json"
    grid = ["--batch_sizes", "1", "--lengths", "8", "--rounds", "1", "--backends", "torch"]
    for folder in (student, student.parent):
        assert main(["latency", str(folder), *grid, "--output", str(file)]) == 0
        (cell,) = json.loads(file.read_text())["cells"]
        assert list(cell["latency"]) == [f"{folder} {name}" for name in SIZES]


def test_the_maps_are_a_small_part_of_the_bytes():
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    args = EmbeddingDistilArguments("out", student=["1/2", "1/4", "1/8"], nested=True, report_to="none", use_cpu=True)
    largest, *others = nested_plans(args, config).values()
    of_maps = 384 * sum(plan.hidden_size for plan in others)
    assert 0 < of_maps < 0.02 * count_parameters(largest, config)
