"""A deployed export: every kind and architecture gives the student's results in each runtime; facts, card, verify."""

import json
import shutil
from dataclasses import replace

import onnx
import pytest
import torch
from deployed import needs_node, needs_onnx, needs_openvino, write_texts
from tiny_architectures import OTHERS, tiny_architecture_teacher
from tiny_files import change_json, write_teacher
from tiny_models import random_student

from homodistil_hf import deploy_export, export_student, verify_export
from homodistil_hf.cli import main
from homodistil_hf.deploy import folder as deploy
from homodistil_hf.deploy import runtimes
from homodistil_hf.deploy.deployable import Deployable, model_with_head
from homodistil_hf.deploy.folder import WITH_HEAD, deploy_folder
from homodistil_hf.export.facts import read_facts
from homodistil_hf.export.outcome import runtime_rows
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.architectures.modeling_homobert import HomoBertForMaskedLM, HomoBertForSequenceClassification
from homodistil_hf.models.widths import LayerWidths, WidthPlan

pytestmark = [needs_onnx, pytest.mark.slow]

CASES = {head.stock_name: (ARCHITECTURES["bert"], head) for head in ARCHITECTURES["bert"].heads}
CASES |= {architecture.heads[0].stock_name: (architecture, architecture.heads[0]) for architecture in OTHERS}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts") / "texts.txt")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory, tokenizer, texts):
    """A student of uneven widths, padded in its export, with float32 and int8 graphs; and the rows of its facts."""
    folder = tmp_path_factory.mktemp("run") / "student"
    student = random_student(HomoBertForSequenceClassification, num_labels=3)
    export_student(student, folder, tokenizer=tokenizer)
    return folder, deploy_export(folder, ["onnx-int8", "onnx"], texts=texts, least=0.5, num_rounds=1)


@pytest.fixture
def copy(deployed, tmp_path, monkeypatch):
    """A copy of that student, which may be changed; its float32 graph is not traced anew, which takes seconds."""
    graph = deployed[0] / "onnx" / "model.onnx"
    monkeypatch.setattr(deploy, "write_graph", lambda deployable, path: shutil.copyfile(graph, path))
    return shutil.copytree(deployed[0], tmp_path / "student")


@pytest.mark.parametrize("name", CASES)
def test_the_graph_is_the_student_in_every_runtime(name, tokenizer, texts, tmp_path):
    architecture, head = CASES[name]
    folder = tmp_path / "student"
    # Tracing takes seconds a layer; ModernBERT's first layer has no window.
    layers = {architecture.named("num_hidden_layers"): 2 if architecture.model_type == "modernbert" else 1}
    export_student(tiny_architecture_teacher(architecture, head, **layers), folder, tokenizer=tokenizer)
    rows = deploy_export(folder, ["onnx", "transformers.js"], texts=texts, num_rounds=0)
    graph, javascript = rows
    assert graph["file"] == javascript["file"] == "onnx/model.onnx"
    assert (graph["figures"]["fidelity"], graph["not_run"]) == (1, "")
    assert graph["figures"]["distance"] < 1e-5
    if (reason := runtimes.node_problem()) is not None:
        assert javascript["not_run"] == reason
    elif javascript["not_run"]:
        assert javascript["not_run"].startswith("transformers.js: ")  # it has no such class
    else:
        assert javascript["figures"]["distance"] < 1e-4


def test_a_graph_has_named_axes_and_a_row_of_facts(deployed):
    folder, rows = deployed
    assert [row["target"] for row in rows] == ["onnx", "onnx-int8"]
    section = json.loads((folder / "facts.json").read_text())["runtimes"]
    assert section["rows"] == rows
    graph = onnx.load(folder / rows[0]["file"]).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.output)}
    axes = {name: [axis.dim_param or axis.dim_value for axis in shape] for name, shape in shapes.items()}
    assert axes.pop("logits") == ["batch", 3]
    assert axes.keys() == {"input_ids", "attention_mask", "token_type_ids"}
    assert all(names == ["batch", "sequence"] for names in axes.values())
    assert set(rows[0]["latency_ms"]["student"]) == {"1", "32"}
    assert rows[0]["machine"]["num_threads"] >= 1
    assert rows[1]["size_bytes"] == (folder / "onnx" / "model_quantized.onnx").stat().st_size


def test_a_graph_has_the_unpadded_widths(deployed):
    folder, _ = deployed
    sizes = {tuple(tensor.dims) for tensor in onnx.load(folder / "onnx" / "model.onnx").graph.initializer}
    assert {(24, 16), (24, 9)} <= sizes  # both layers' FFNs, of which the export pads the second


def test_the_card_has_the_table(deployed):
    folder, _ = deployed
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| onnx/model.onnx " in card
    assert "| ms, 1 text, student" in card


def test_verify_runs_the_graphs(copy):
    assert verify_export(copy).ok
    graph = onnx.load(copy / "onnx" / "model.onnx")
    weights = next(tensor for tensor in graph.graph.initializer if tuple(tensor.dims) == (24, 16))
    weights.raw_data = bytes(len(weights.raw_data))
    onnx.save(graph, copy / "onnx" / "model.onnx")
    assert verify_export(copy).problems[0].startswith("onnx/model.onnx sha256: facts.json says ")
    facts = json.loads((copy / "facts.json").read_text())
    from homodistil_hf.export.facts import file_facts

    facts["files"] = file_facts(copy)
    (copy / "facts.json").write_text(json.dumps(facts))
    (problem,) = verify_export(copy).problems
    assert problem.startswith("onnx/model.onnx: expected results within 1.0e-04 of the model's, found a distance of ")


def test_a_file_below_the_bar_is_not_written_but_its_figures_are(copy, texts, caplog):
    words = ["deploy", str(copy), "--to", "onnx-int8", "--least", "1", "--texts", str(texts), "--num_rounds", "0"]
    status = main(words)
    (row,) = [
        row
        for row in json.loads((copy / "facts.json").read_text())["runtimes"]["rows"]
        if row["target"] == "onnx-int8"
    ]
    assert status == int(not row["is_written"])
    assert row["is_written"] == (row["figures"]["fidelity"] == 1) == (copy / "onnx" / "model_quantized.onnx").exists()
    is_told = "is below least=1.0; lower the bar with --least" in caplog.text
    assert is_told == (not row["is_written"])
    assert len(row["tried"]) == 3
    assert (copy / "onnx" / "model.onnx").exists()
    assert verify_export(copy).ok


def test_results_that_are_no_numbers_are_no_answers(tokenizer, texts, tmp_path, caplog):
    student = random_student(HomoBertForSequenceClassification, num_labels=3)
    # states beyond float16, and a first class that is ahead in either type
    student.bert.encoder.layer[0].output.LayerNorm.weight.data *= 1e5
    student.classifier.bias.data = torch.tensor([5.0, -5.0, -5.0])
    folder = export_student(student, tmp_path / "student", tokenizer=tokenizer)
    (row,) = deploy_export(folder, "onnx-fp16", texts=texts, num_rounds=0)
    assert (row["is_written"], row["figures"]) == (False, {"fidelity": 0.0})
    assert "model_fp16.onnx is not written: it gives results that are no numbers; keep another target" in caplog.text
    assert not (folder / "onnx" / "model_fp16.onnx").exists()
    assert runtime_rows(read_facts(folder))[0]["figures"] == {"fidelity": 0.0}
    assert verify_export(folder).ok


def test_pairs_of_a_file_are_read_as_pairs(copy, tmp_path, monkeypatch):
    (tmp_path / "pairs.txt").write_text("w5 w6\tw7 w8\nw9\tw10 w11 w12\n")
    seen, results = [], Deployable.results
    monkeypatch.setattr(Deployable, "results", lambda one, rows: seen.append(one.inputs(rows)) or results(one, rows))
    (row,) = deploy_export(copy, "onnx", texts=tmp_path / "pairs.txt", num_rounds=0)
    assert [int(mask.sum()) for mask in seen[0]["attention_mask"]] == [2 + 2 + 3, 1 + 3 + 3]
    assert row["is_written"]
    assert verify_export(copy).ok  # on the package's own rows, which are no pairs for it


def test_a_student_of_pairs_is_compared_on_pairs(copy):
    assert not model_with_head(copy).takes_pairs
    change_json(copy / "facts.json", data={"text_columns": ["premise", "hypothesis"]})
    assert model_with_head(copy).takes_pairs


def test_pairs_for_a_model_of_single_texts_are_refused(tokenizer, tmp_path):
    folder = export_student(random_student(HomoBertForMaskedLM), tmp_path / "student", tokenizer=tokenizer)
    (tmp_path / "pairs.txt").write_text("w5 w6\tw7 w8\nw9\tw10 w11 w12\n")
    with pytest.raises(
        ValueError, match=r"texts='.*pairs.txt' has pairs, divided by a tabulator, but this model reads"
    ):
        deploy_export(folder, "onnx", texts=tmp_path / "pairs.txt", num_rounds=0)


def test_a_file_that_is_made_again_is_judged_anew(copy, texts, monkeypatch):
    monkeypatch.setenv("PATH", "")  # without node
    file = "onnx/model_quantized.onnx"
    deploy_export(copy, "transformers.js", texts=texts, num_rounds=0)
    facts = json.loads((copy / "facts.json").read_text())
    for row in facts["runtimes"]["rows"]:
        row["is_written"] = row["file"] != file
    (copy / "facts.json").write_text(json.dumps(facts))
    (copy / file).unlink()
    (row,) = deploy_export(copy, "onnx-int8", texts=texts, num_rounds=0, least=0)
    assert row["is_written"]
    assert (copy / file).is_file()
    targets = [row["target"] for row in json.loads((copy / "facts.json").read_text())["runtimes"]["rows"]]
    assert targets == ["onnx", "onnx-int8", "transformers.js"]  # of the other file


def test_times_are_beside_those_of_the_teacher(tokenizer, texts, tmp_path):
    write_teacher(tmp_path / "teacher", num_hidden_layers=1)
    student = random_student(HomoBertForMaskedLM, WidthPlan(24, (LayerWidths(3, 5, 16),)))
    folder = export_student(student, tmp_path / "student", "compact", tokenizer=tokenizer)
    (row,) = deploy_export(folder, "onnx-fp16", teacher=tmp_path / "teacher", texts=texts, num_rounds=1)
    assert set(row["latency_ms"]) == {"student", "teacher"}
    assert 0 < row["figures"]["distance"] < 0.05
    assert verify_export(folder).ok


@needs_openvino
def test_openvino_gives_the_students_results(copy, texts):
    (row,) = deploy_export(copy, "openvino", texts=texts, num_rounds=0)
    assert row["figures"]["distance"] < 0.02
    assert row["size_bytes"] == sum(file.stat().st_size for file in (copy / "openvino").iterdir())
    targets = [row["target"] for row in json.loads((copy / "facts.json").read_text())["runtimes"]["rows"]]
    assert targets == ["onnx", "onnx-int8", "openvino"]
    assert verify_export(copy).ok


@needs_node
def test_transformers_js_runs_the_graphs_that_are_there(copy, texts):
    rows = deploy_export(copy, "transformers.js", texts=texts, num_rounds=0)
    assert [row["file"] for row in rows] == ["onnx/model.onnx", "onnx/model_quantized.onnx"]
    assert rows[0]["figures"]["distance"] < 1e-4 < rows[1]["figures"]["distance"] < 0.5


def test_without_node_a_graph_is_written_and_marked(copy, texts, monkeypatch):
    monkeypatch.setenv("PATH", "")  # without node
    rows = deploy_export(copy, "transformers.js", texts=texts, num_rounds=0)
    assert {row["not_run"] for row in rows} == {"node is not installed: see nodejs.org"}
    assert "not run: node is not installed" in (copy / "README.md").read_text(encoding="utf-8")


def test_a_teacher_that_is_gone_costs_its_times_alone(copy, texts, caplog):
    (row,) = deploy_export(copy, "onnx-fp16", teacher=copy / "gone", texts=texts, num_rounds=1)
    assert set(row["latency_ms"]) == {"student"}
    assert "can't be loaded, so its times are not measured" in caplog.text


def test_a_teacher_whose_graph_can_not_be_written_costs_its_times_alone(copy, texts, tmp_path, monkeypatch, caplog):
    write_teacher(tmp_path / "teacher", num_hidden_layers=1)
    write_half = runtimes.write_half

    def write(source, path):
        if path.parts[-3] == "teacher":
            raise RuntimeError("Failed to serialize proto")
        write_half(source, path)

    monkeypatch.setattr("homodistil_hf.deploy.folder.write_half", write)
    (row,) = deploy_export(copy, "onnx-fp16", teacher=tmp_path / "teacher", texts=texts, num_rounds=1)
    assert set(row["latency_ms"]) == {"student"}
    assert "the teacher's graph can't be run, so its times are not measured: Failed to serialize" in caplog.text


def test_another_graph_than_the_model_is_refused(copy, texts, monkeypatch):
    monkeypatch.setattr("homodistil_hf.deploy.folder.EXACT", -1.0)
    with pytest.raises(ValueError, match="gives other results than the model, by "):
        deploy_export(copy, "onnx", texts=texts, num_rounds=0)


def test_a_target_that_cant_be_made_refuses_no_other(copy, texts, monkeypatch, caplog):
    def fail(*args):
        raise RuntimeError("no half of this")

    monkeypatch.setattr(deploy, "write_half", fail)
    rows = deploy_export(copy, ["onnx-fp16", "onnx-int8"], texts=texts, num_rounds=0, least=0)
    assert [row["target"] for row in rows] == ["onnx-int8"]
    assert "to='onnx-fp16' can't be made, the other targets are: no half of this" in caplog.text
    with pytest.raises(RuntimeError, match="no half of this"):
        deploy_export(copy, ["onnx-fp16"], texts=texts, num_rounds=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"to": []}, r"to=\[\] names no target; expected some of onnx, "),
        ({"to": ["onxx"]}, "to='onxx' is unknown; nearest valid: 'onnx'"),
        ({"least": 98}, "least=98 is no share; expected 0 to 1"),
        ({"num_rounds": -1}, "num_rounds=-1 is below 0"),
        ({"texts": "gone.txt"}, "texts='gone.txt'"),
    ],
)
def test_wrong_settings_are_refused(deployed, settings, message):
    with pytest.raises(ValueError, match=message):
        deploy_export(deployed[0], **{"to": ["onnx"], **settings})


def test_an_export_without_tokenizer_is_refused(tmp_path):
    folder = export_student(random_student(HomoBertForMaskedLM), tmp_path / "student")
    with pytest.raises(ValueError, match="a runtime needs one: save the model's beside it"):
        deploy_export(folder, "onnx")


def test_what_others_write_into_the_facts_meanwhile_stays(copy, texts):
    def ready(folder):
        """Make the model ready, while `homodistil evaluate` and another `deploy` write what they have measured."""
        facts = json.loads((copy / "facts.json").read_text())
        facts["benchmarks"] = {"discrepancy": {"kl": 0.25}}
        facts["runtimes"]["rows"][0]["figures"]["fidelity"] = 0.5
        (copy / "facts.json").write_text(json.dumps(facts))
        return model_with_head(folder)

    before = json.loads((copy / "facts.json").read_text())["runtimes"]["rows"]
    deploy_folder(copy, "onnx-fp16", replace(WITH_HEAD, ready=ready), texts=texts, num_rounds=0)
    facts = json.loads((copy / "facts.json").read_text())
    assert facts["benchmarks"] == {"discrepancy": {"kl": 0.25}}
    assert len(facts["runtimes"]["rows"]) == len(before) + 1
    assert facts["runtimes"]["rows"][0]["figures"]["fidelity"] == 0.5


def test_figures_of_other_weights_are_not_written(copy, texts):
    def ready(folder):
        export_student(random_student(HomoBertForSequenceClassification), copy, overwrite=True)
        return model

    model = model_with_head(copy)
    with pytest.raises(ValueError, match="has other weights than those that were measured: it was exported again"):
        deploy_folder(copy, "onnx", replace(WITH_HEAD, ready=ready), texts=texts, num_rounds=0)
    assert "runtimes" not in json.loads((copy / "facts.json").read_text())
