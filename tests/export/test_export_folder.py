"""Saved = loaded, in a process that can't import this package; folders are whole or absent; facts are exact."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_disk import limited_file_size
from students import assert_same_logits, logits_of, sliced
from tiny_architectures import plan_of, tiny_architecture_teacher
from tiny_models import UNEVEN, UNIFORM, make_teacher, random_student
from torch import nn
from transformers import (
    AutoModelForMaskedLM,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
)

from homodistil_hf.export.export_folder import FORMATS, check_target, convert_export, export_student, load_export
from homodistil_hf.export.facts import read_facts, run_facts
from homodistil_hf.files.checkpoints import file_digest
from homodistil_hf.methods.formats import verify_export
from homodistil_hf.models.architectures import ARCHITECTURES, modeling_homobert
from homodistil_hf.models.architectures.bert import BERT
from homodistil_hf.models.architectures.modeling_homobert import HomoBertForMaskedLM
from homodistil_hf.models.conversion import to_stock, to_student
from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of

STUDENTS = {head.student.__name__: head.student for head in BERT.heads}


MODELING_FILE = "modeling_homobert.py"
# Three layers of any widths; stock BERT holds none of them as they are.
THREE_LAYERS = WidthPlan(20, (LayerWidths(1, 3, 5), LayerWidths(4, 4, 12), LayerWidths(2, 5, 7)))
EXPORTED = [
    *((name, UNEVEN, format) for name in STUDENTS for format in FORMATS),
    *(("HomoBertForMaskedLM", UNIFORM, format) for format in FORMATS),
    *(("HomoBertForSequenceClassification", THREE_LAYERS, format) for format in FORMATS),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "plan", "format"), EXPORTED)
def test_saved_is_loaded_where_the_package_is_absent(tmp_path, name, plan, format):
    student = random_student(STUDENTS[name], plan, num_labels=2)
    folder = export_student(student, tmp_path / "student", format)
    assert_same_logits(logits_of(load_export(folder)), logits_of(student))
    # a fresh process gives the results of the loaded export, by each of its auto classes
    assert verify_export(folder).problems == ()


# Folders


@pytest.fixture
def student():
    return random_student(HomoBertForMaskedLM)


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*"))


@pytest.mark.parametrize(
    ("format", "own_files"),
    [("standard", []), ("compact", ["modeling_homobert.py", "modeling_layerwise.py"])],
    ids=FORMATS,
)
def test_a_folder_holds_what_it_must_and_no_pickle(tmp_path, student, tokenizer, format, own_files):
    folder = export_student(student, tmp_path / "deep" / "student", format, tokenizer=tokenizer)
    assert folder == tmp_path / "deep" / "student"
    tokenizer_files = ["tokenizer.json", "tokenizer_config.json"]
    expected = [
        "README.md",
        "config.json",
        "facts.json",
        "model.safetensors",
        *own_files,
        *tokenizer_files,
    ]
    assert names_in(folder) == sorted(expected)
    assert names_in(folder.parent) == sorted(["student", *(f"student/{name}" for name in expected)])


def test_the_standard_configuration_is_stock_and_the_folder_has_the_usual_rights(tmp_path, student):
    (tmp_path / "made").mkdir()
    config = json.loads((export_student(student, tmp_path / "student") / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("bert", ["BertForMaskedLM"])
    assert not {"auto_map", "per_layer_config", "head_dim", "softmax_head_dim"} & config.keys()
    assert (tmp_path / "student").stat().st_mode == (tmp_path / "made").stat().st_mode


def test_the_compact_configuration_names_every_auto_class(tmp_path, student):
    folder = export_student(student, tmp_path / "student", "compact")
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("homobert", ["HomoBertForMaskedLM"])
    assert config["auto_map"] == {
        "AutoConfig": "modeling_homobert.HomoBertConfig",
        "AutoModel": "modeling_homobert.HomoBertModel",
        "AutoModelForMaskedLM": "modeling_homobert.HomoBertForMaskedLM",
        "AutoModelForSequenceClassification": "modeling_homobert.HomoBertForSequenceClassification",
        "AutoModelForTokenClassification": "modeling_homobert.HomoBertForTokenClassification",
        "AutoModelForQuestionAnswering": "modeling_homobert.HomoBertForQuestionAnswering",
    }
    source = Path(modeling_homobert.__file__)
    assert (folder / MODELING_FILE).read_bytes() == source.read_bytes()


def test_the_compact_form_needs_no_remote_code_once_the_package_is_imported(tmp_path, student):
    folder = export_student(student, tmp_path / "student", "compact")
    loaded = AutoModelForMaskedLM.from_pretrained(folder)
    assert type(loaded) is HomoBertForMaskedLM
    assert torch.equal(logits_of(loaded), logits_of(student))


@pytest.mark.parametrize("format", FORMATS)
def test_exporting_leaves_the_student_as_it_was(tmp_path, student, format):
    student.train()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    config = student.config.to_dict()
    export_student(student, tmp_path / "student", format)
    assert student.training
    assert student.config.to_dict() == config
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


def test_projections_stay_behind(tmp_path, student):
    plain = export_student(student, tmp_path / "plain", "compact")
    student.projections = nn.ModuleDict({"hidden_0": nn.Linear(24, 32, bias=False)})
    folder = export_student(student, tmp_path / "student", "compact")
    assert file_digest(folder / "model.safetensors") == file_digest(plain / "model.safetensors")


def test_a_stock_model_is_exported_as_it_is(tmp_path, teacher):
    folder = export_student(teacher, tmp_path / "student")
    assert torch.equal(logits_of(BertForMaskedLM.from_pretrained(folder)), logits_of(teacher))


def test_a_full_folder_or_a_file_is_not_touched_and_an_empty_folder_is_filled(tmp_path, student):
    (tmp_path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="is not empty and holds no export; choose another or empty it"):
            export_student(student, tmp_path, overwrite=overwrite)
    with pytest.raises(ValueError, match="thesis.txt' is a file; choose another name"):
        export_student(student, tmp_path / "thesis.txt")
    assert names_in(tmp_path) == ["thesis.txt"]
    (tmp_path / "student").mkdir()
    export_student(student, tmp_path / "student")
    assert "facts.json" in names_in(tmp_path / "student")


def test_an_earlier_export_is_replaced_only_on_request(tmp_path, student):
    folder = export_student(student, tmp_path / "student", "compact")
    with pytest.raises(ValueError, match="holds an export already; set overwrite to replace it"):
        export_student(student, folder)
    assert MODELING_FILE in names_in(folder)
    export_student(student, folder, overwrite=True)
    assert MODELING_FILE not in names_in(folder)
    assert names_in(tmp_path) == sorted(["student", *(f"student/{name}" for name in names_in(folder))])
    (folder / "notes.txt").write_text("mine")
    (folder / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"files that no export wrote \(link, notes\.txt\).*move them away"):
        export_student(student, folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"


OWN_RECORDS = {
    "facts.json": {"format": "standard", "files": {}},
    "trimming.json": {"source": {}, "files": {}},
    "pruning_state.json": {"plan": {}, "method": "homodistil"},
}


@pytest.mark.parametrize("record", OWN_RECORDS)
def test_no_export_is_written_below_a_record_of_ours(tmp_path, record):
    (tmp_path / record).write_text(json.dumps(OWN_RECORDS[record]))
    with pytest.raises(ValueError, match=f"lies in '{tmp_path}', whose {record} says what belongs there"):
        check_target(tmp_path / "a" / "student")


@pytest.mark.parametrize("record", OWN_RECORDS)
@pytest.mark.parametrize("content", ["", "[]", '{"fact": "cats sleep"}', '{"format": 1, "files": [], "plan": "a"}'])
def test_a_file_of_others_that_bears_the_name_of_a_record_is_no_hindrance(tmp_path, record, content):
    (tmp_path / record).write_text(content)
    assert check_target(tmp_path / "student") == tmp_path / "student"


@pytest.mark.parametrize("had_one", (False, True))
def test_a_failure_halfway_leaves_no_trace(tmp_path, student, had_one):
    if had_one:
        export_student(student, tmp_path / "student")
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in names_in(tmp_path)}

    with limited_file_size(1000), pytest.raises(OSError, match="File too large"):
        export_student(student, tmp_path / "student", overwrite=True)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in names_in(tmp_path)} == before


# Refusals


def test_an_unknown_format_and_a_diverged_student_are_refused(tmp_path, student):
    with pytest.raises(ValueError, match="format='standart' is unknown; nearest valid: 'standard'"):
        export_student(student, tmp_path / "student", "standart")
    with torch.no_grad():
        student.bert.embeddings.LayerNorm.bias[0] = float("nan")
    with pytest.raises(ValueError, match="logits that are not finite .*export an earlier checkpoint"):
        export_student(student, tmp_path / "student")
    assert names_in(tmp_path) == []


def test_widths_without_a_stock_form_are_exported_compact_only(tmp_path):
    student = random_student(HomoBertForMaskedLM, WidthPlan.uniform(22, 2, LayerWidths(3, 5, 16)))
    with pytest.raises(ValueError, match="as the stock class needs; nearest valid plan"):
        export_student(student, tmp_path / "standard")
    folder = export_student(student, tmp_path / "compact", "compact")
    assert read_facts(folder)["forms"]["padded"] is None
    assert torch.equal(logits_of(load_export(folder)), logits_of(student))


# Facts


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("student_class", STUDENTS.values())
def test_facts_are_what_is_counted_and_either_format_loads(tmp_path, student_class, format):
    student = random_student(student_class)
    loaded = load_export(export_student(student, tmp_path / "student", format))
    assert (type(loaded), widths_of(loaded.config)) == (student_class, UNEVEN)
    assert_same_logits(logits_of(loaded), logits_of(student))
    facts = read_facts(tmp_path / "student")
    exported = student if format == "compact" else to_stock(student)
    tensors = load_file(tmp_path / "student" / "model.safetensors")
    pooler = exported.base_model.pooler
    assert facts["student"] == {
        "architecture": type(exported).__name__,
        "plan": widths_of(exported.config).to_dict(),
        "num_hidden_layers": 2,
        "num_parameters": sum(tensor.numel() for tensor in tensors.values()),
        "num_encoder_parameters": num_parameters(exported.base_model) - (num_parameters(pooler) if pooler else 0),
        "encoder_macs": facts["student"]["encoder_macs"],
        "size_bytes": 4 * sum(tensor.numel() for tensor in tensors.values()),
    }
    assert facts["forms"]["compact"]["num_parameters"] == num_parameters(student)
    assert facts["forms"]["padded"]["num_parameters"] == num_parameters(to_stock(student))
    assert facts["forms"]["compact"]["plan"] == UNEVEN.to_dict()


def test_macs_are_counted_by_hand(tmp_path, student):
    # UNEVEN: hidden 24; attention 15 and 16, FFN 16 and 9; padded to 24 and 16.
    compact = read_facts(export_student(student, tmp_path / "compact", "compact"))["student"]["encoder_macs"]
    padded = read_facts(export_student(student, tmp_path / "standard"))["student"]["encoder_macs"]
    assert compact == 4 * 24 * (15 + 16) + 2 * 24 * (16 + 9) + 2 * 128 * (15 + 16)
    assert padded == 2 * (4 * 24 * 24 + 2 * 24 * 16 + 2 * 128 * 24)


def test_stock_widths_have_one_cost(tmp_path):
    with pytest.raises(ValueError, match=r"has no facts\.json; expected an export of this package"):
        load_export(tmp_path)
    student = random_student(HomoBertForMaskedLM, UNIFORM)
    assert read_facts(export_student(student, tmp_path / "student"))["forms"] == {}


@pytest.mark.parametrize("teacher_class", (BertForMaskedLM, BertForPreTraining, BertForSequenceClassification))
def test_the_teacher_is_counted_without_what_no_student_has(tmp_path, student, teacher_class):
    teacher = make_teacher(teacher_class)
    facts = read_facts(export_student(student, tmp_path / "student", "compact", teacher=teacher))
    counted = teacher if teacher_class is not BertForPreTraining else BertForMaskedLM(teacher.config)
    assert facts["teacher"]["architecture"] == teacher_class.__name__
    assert facts["teacher"]["num_parameters"] == num_parameters(counted)
    assert facts["teacher"]["size_bytes"] == 4 * num_parameters(counted)
    for name, fraction in facts["cost_fractions"].items():
        assert fraction == round(facts["student"][name] / facts["teacher"][name], 4)


def test_a_teacher_in_a_folder_is_told_by_name_and_licence(tmp_path, student, teacher):
    teacher.save_pretrained(tmp_path / "small-teacher")
    (tmp_path / "small-teacher" / "README.md").write_text("---\nlicense: mit\n---\n# A teacher\n")
    folder = export_student(student, tmp_path / "student", teacher=str(tmp_path / "small-teacher"))
    found = read_facts(folder)["teacher"]
    assert (found["name"], found["hub_id"], found["licence"]) == ("small-teacher", None, "mit")
    # Where the folder was is nobody's business.
    assert str(tmp_path) not in (folder / "facts.json").read_text() + (folder / "README.md").read_text()


def test_a_run_is_told_without_its_tokens(tmp_path, student):
    run = {
        "settings": {"learning_rate": 3e-4, "hub_token": "hf_secret", "report_to": ("none",), "path": Path("a/b")}
        | {"train_data": ["~/a.txt", "~no_such_user_here/b.txt", str(tmp_path), "owner/name"]},
        "training": {"num_steps": torch.tensor(1000).item(), "num_tokens": 4_096_000},
        "evaluation": {"kl": float("nan"), "mlm_accuracy": 0.5},
    }
    folder = export_student(student, tmp_path / "student", facts=run)
    facts = read_facts(folder)
    told = {"learning_rate": 3e-4, "report_to": ["none"], "path": str(Path("a/b"))}
    assert facts["settings"] == told | {"train_data": ["a.txt", "b.txt", tmp_path.name, "owner/name"]}
    assert facts["training"] == run["training"]
    assert facts["evaluation"] == {"kl": "nan", "mlm_accuracy": 0.5}
    assert all("hf_secret" not in (folder / name).read_text() for name in ("facts.json", "README.md"))


@pytest.mark.parametrize("format", FORMATS)
def test_facts_hold_digests_and_the_logits_in_memory(tmp_path, student, format):
    folder = export_student(student, tmp_path / "student", format)
    facts = read_facts(folder)
    for name, listed in facts["files"].items():
        assert listed == {"sha256": file_digest(folder / name), "size_bytes": (folder / name).stat().st_size}
    assert set(facts["files"]) == set(names_in(folder)) - {"facts.json", "README.md"}
    probe = facts["probe"]
    inputs = {name: torch.tensor(probe[name]) for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        logits = student(**inputs).logits.flatten()
    assert len(probe["logits"]) == 64
    assert torch.equal(logits[probe["positions"]], torch.tensor(probe["logits"]))
    assert len(set(probe["input_ids"][0] + probe["input_ids"][1])) == 32
    assert not inputs["attention_mask"].all()
    assert inputs["token_type_ids"].any()


# Reading and converting


@pytest.mark.slow
@pytest.mark.parametrize(("source", "target"), [("standard", "compact"), ("compact", "standard")])
def test_one_format_is_converted_to_the_other(tmp_path, student, teacher, tokenizer, source, target):
    run = {"training": {"num_steps": 7}, "settings": {"seed": 3}, "evaluation": {"kl": 0.25}}
    first = export_student(student, tmp_path / "a", source, teacher=teacher, facts=run, tokenizer=tokenizer)
    direct = export_student(student, tmp_path / "b", target, teacher=teacher, facts=run, tokenizer=tokenizer)
    converted = convert_export(first, tmp_path / "c", target)
    assert names_in(converted) == names_in(direct)
    found, expected = read_facts(converted), read_facts(direct)
    for name in ("format", "student", "forms", "teacher", "cost_fractions", *run):
        assert found[name] == expected[name], name
    assert_same_logits(torch.tensor(found["probe"]["logits"]), torch.tensor(expected["probe"]["logits"]))
    assert_same_logits(logits_of(load_export(converted)), logits_of(student))


def test_sections_that_no_run_has_are_refused():
    with pytest.raises(ValueError, match="unknown section 'setting'; .*nearest valid: 'settings'"):
        run_facts({"setting": {}})


@pytest.mark.slow
@pytest.mark.parametrize("is_padded", [True, False])
def test_times_of_other_widths_are_left_behind(tmp_path, is_padded):
    """A stock class has zeros where layers differ, so it takes another time than the compact form."""
    student = random_student(HomoBertForMaskedLM, UNEVEN if is_padded else UNIFORM)
    first = export_student(student, tmp_path / "a", facts={"latency": {"teacher_ms": 2.0, "student_ms": 1.0}})
    assert "latency" in read_facts(convert_export(first, tmp_path / "b", "standard"))
    assert ("latency" in read_facts(convert_export(first, tmp_path / "c", "compact"))) is not is_padded


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eurobert", "llama", "mistral", "qwen3", "gemma3_text"])
def test_shared_keys_lose_their_padding_again(tmp_path, name):
    architecture = ARCHITECTURES[name]
    student = to_student(tiny_architecture_teacher(architecture, architecture.heads[0]))
    layers = tuple(LayerWidths(heads, 6, neurons) for heads, neurons in ((4, 41), (2, 16)))
    sliced(student, plan_of(architecture, WidthPlan(24, layers)))
    folder = export_student(student, tmp_path / "standard")
    assert verify_export(folder).problems == ()
    converted = load_export(convert_export(folder, tmp_path / "compact", "compact"))
    assert widths_of(converted.config).layers == widths_of(student.config).layers
    inputs = {"input_ids": torch.arange(5, 20)[None]}
    assert_same_logits(logits_of(converted, inputs), logits_of(student, inputs))
