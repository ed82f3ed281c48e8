import json
import re
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest
from datasets import Dataset, Features, Value
from rows import each
from task_rows import KINDS, rows_of_kind, write_kind
from tiny_embeddings import make_reranker, make_sentence_folder
from tiny_files import write_config, write_teacher, write_text
from transformers import AutoConfig, BertConfig, BertForMaskedLM

from homodistil_hf import PRESETS, resolve_plan
from homodistil_hf.cli import main
from homodistil_hf.embedding.model import load_embedding_model
from homodistil_hf.evaluation.fine_tuning import OwnTaskSettings, settings_from
from homodistil_hf.methods.binarization.bit_products import compiled
from homodistil_hf.methods.binarization.stages import BinarizationSettings
from homodistil_hf.models.cost import count_parameters, encoder_macs
from homodistil_hf.models.widths import widths_of
from homodistil_hf.runs.config import parse_run

EXAMPLES = Path(__file__).parents[2] / "examples"
FINE_TUNING = EXAMPLES / "configs" / "finetune.json"
BINARIZATION = EXAMPLES / "configs" / "bit.json"
CONFIGS = sorted(set((EXAMPLES / "configs").glob("*.json")) - {FINE_TUNING, BINARIZATION})
PAPER_CONFIGS = [path for path in CONFIGS if path.stem in PRESETS]
LONGER_THAN_POSITIONS = [f"w{5 + i % 40} w{6 + i % 50} w9 " * 20 for i in range(32)]
PAPER_LEARNING_RATES = {"homobert-base": 3e-4, "homobert-small": 6e-4, "homobert-xsmall": 6e-4, "homobert-tiny": 6e-4}


def run_script(monkeypatch, name, *words):
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@each("path", CONFIGS)
def test_every_config_is_valid(path, tmp_path):
    settings = parse_run([str(path), "--bf16", "false", "--use_cpu"])
    assert settings.training.output_dir == f"runs/{path.stem}"
    assert settings.given["student"]
    assert settings.training.report_to == []


def test_the_configs_of_fine_tunings_are_valid():
    values = json.loads(FINE_TUNING.read_text(encoding="utf-8"))
    assert settings_from(OwnTaskSettings, values).text_columns == ("sentence1", "sentence2")
    docs = (EXAMPLES.parent / "docs" / "guides" / "pretrained_encoder.md").read_text(encoding="utf-8")
    assert FINE_TUNING.read_text(encoding="utf-8") in docs
    values = json.loads(BINARIZATION.read_text(encoding="utf-8"))
    assert settings_from(BinarizationSettings, values).stages == (4,)


@each("path", PAPER_CONFIGS)
def test_paper_configs_are_the_papers_recipe(path):
    training = parse_run([str(path), "--bf16", "false", "--use_cpu"]).training
    assert resolve_plan(training.student, BertConfig()) == PRESETS[path.stem]
    assert training.learning_rate == PAPER_LEARNING_RATES[path.stem]
    assert (training.adam_beta1, training.adam_beta2, training.adam_epsilon) == (0.9, 0.999, 1e-6)
    assert training.max_steps == 28_000
    assert 8 * training.per_device_train_batch_size * training.gradient_accumulation_steps == 4096
    assert 0.5 <= training.pruning_end_fraction <= 0.9
    weights = {name: getattr(training, f"{name}_weight") for name in ("mlm", "kl", "hidden", "embedding", "attention")}
    assert min(weights.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("path", [*PAPER_CONFIGS, EXAMPLES / "configs" / "smoke.json"], ids=lambda path: path.stem)
def test_configs_run_with_a_tiny_teacher(path, tmp_path):
    write_config(tmp_path)  # for its teacher and text
    substitutes = {
        "teacher": tmp_path / "teacher",
        "student": "macs=0.5,layers=2",
        "train_data": tmp_path / "train.txt",
        "eval_data": tmp_path / "eval.txt",
        "output_dir": tmp_path / "run",
        "max_seq_length": 16,
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "preprocessing_num_workers": 1,
        "dataloader_num_workers": 0,
        "bf16": "false",
    }
    words = [word for name, value in substitutes.items() for word in (f"--{name}", str(value))]
    assert main(["distill", str(path), *words, "--use_cpu"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["num_steps"] == 4
    student = BertForMaskedLM.from_pretrained(tmp_path / "run" / "student")
    assert student.config.hidden_size == results["plan"]["hidden_size"] < 32


@pytest.mark.slow
def test_masked_lm_script(tmp_path, monkeypatch, capsys):
    teacher = write_teacher(tmp_path / "teacher")
    text = write_text(tmp_path / "text.txt")
    words = ["--output_dir", tmp_path / "out", "--max_steps", 4, "--batch_size", 4]
    run_script(
        monkeypatch, "distill_masked_lm.py", "--teacher", teacher, "--text", text, "--student", "macs=0.5", *words
    )
    assert BertForMaskedLM.from_pretrained(tmp_path / "out" / "student").config.num_hidden_layers == 1
    assert "KL to the teacher" in capsys.readouterr().out


def test_text_is_drawn_from_a_model(tmp_path, monkeypatch):
    model = write_teacher(tmp_path / "model")
    words = ["--model", model, "--output", tmp_path / "text.parquet", "--num_rows", 5, "--lengths", 4, 6]
    run_script(monkeypatch, "sample_text.py", *words, "--rounds", 2, "--batch_size", 2)
    texts = Dataset.from_parquet(str(tmp_path / "text.parquet"), cache_dir=str(tmp_path / "cache"))["text"]
    assert [4 <= len(text.split()) <= 6 for text in texts] == [True] * 5
    assert not {"[PAD]", "[MASK]", "[UNK]"} & set(" ".join(texts).split())
    # as long as fits by default, and no longer when asked
    del words[-3:]
    run_script(monkeypatch, "sample_text.py", *words, "--rounds", 1, "--batch_size", 4)
    with pytest.raises(SystemExit):
        run_script(monkeypatch, "sample_text.py", *words, "--lengths", 4, 400)


def test_rows_are_filled_in_anew(tmp_path, monkeypatch, capsys):
    model = write_teacher(tmp_path / "model")
    rows = {"one": ["w5 w6 w7 w8 w9 w10"] * 4, "other": [" ".join(["w11"] * 300)] * 3 + [None], "label": [0, 1, 1, 0]}
    # large strings, as pandas writes them
    features = Features({"one": Value("large_string"), "other": Value("string"), "label": Value("int64")})
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    words = ["--model", model, "--rows", tmp_path / "rows.parquet", "--output", tmp_path / "more.parquet"]
    words += ["--text_columns", "one", "other", "--num_copies", 2, "--batch_size", 2]
    run_script(monkeypatch, "augment_rows.py", *words)
    assert capsys.readouterr().out.endswith("more.parquet: 10 rows, 4 of them as they were\n")
    found = pd.read_parquet(tmp_path / "more.parquet")
    assert found["label"].isna().tolist() == 4 * [False] + 6 * [True]
    assert found["one"].tolist()[:4] == rows["one"]
    copies = found[4:]
    assert (copies["one"] + copies["other"]).nunique() > 3
    assert copies["other"].str.count("w11").between(1, 31).all()
    assert not {"[PAD]", "[MASK]", "[SEP]", "[UNK]"} & set(" ".join(copies["one"] + " " + copies["other"]).split())


def test_rows_without_the_named_column_are_refused(tmp_path, monkeypatch, capsys):
    Dataset.from_dict({"question": ["w5 w6"]}).to_parquet(tmp_path / "rows.parquet")
    words = ["--model", "unread", "--rows", tmp_path / "rows.parquet", "--output", tmp_path / "more.parquet"]
    with pytest.raises(SystemExit):
        run_script(monkeypatch, "augment_rows.py", *words)
    assert "rows.parquet has ['question']; name one or two of these" in capsys.readouterr().err


@pytest.mark.slow
def test_further_pretraining_script(tmp_path, monkeypatch, capsys):
    model = write_teacher(tmp_path / "model")
    text = write_text(tmp_path / "text.txt")
    words = ["--output_dir", tmp_path / "out", "--max_steps", 4, "--batch_size", 4]
    run_script(monkeypatch, "further_pretraining.py", "--model", model, "--text", text, *words)
    assert BertForMaskedLM.from_pretrained(tmp_path / "out" / "student").config.hidden_size == 32
    out = capsys.readouterr().out
    assert "round 1: held-out masked loss" in out
    run_script(monkeypatch, "further_pretraining.py", "--model", model, "--text", text, *words, "--resume")
    assert capsys.readouterr().out.splitlines() == out.splitlines()[-3:]


@pytest.mark.slow
def test_nested_script(tmp_path, monkeypatch, capsys):
    folder, text = make_sentence_folder(tmp_path / "model"), write_text(tmp_path / "text.txt")
    settings = {
        "teacher": str(folder),
        "train_data": str(text),
        "student": '["macs=0.5", "macs=0.25"]',
        "max_steps": 2,
    }
    settings |= {"output_dir": str(tmp_path / "run"), "per_device_train_batch_size": 8, "width_multiple": 4}
    words = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    assert main(["distill", *words, "--nested", "--use_cpu"]) == 0
    capsys.readouterr()
    run_script(monkeypatch, "nested_sizes.py", "--folder", tmp_path / "run", "--texts", text)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "1 waiting: macs=0.5",
        "32 waiting: macs=0.25",
        "128 waiting: macs=0.25",
    ]


@pytest.mark.slow
def test_binarize_script(tmp_path, monkeypatch, capsys):
    model = write_teacher(tmp_path / "model", task="sequence_classification")
    rows = {"sentence": LONGER_THAN_POSITIONS}
    Dataset.from_dict(rows).to_parquet(tmp_path / "train.parquet")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    words = ["--output_dir", tmp_path / "out", "--max_steps", 3]
    run_script(monkeypatch, "binarize.py", "--model", model, "--train", tmp_path / "train.parquet", *words)
    out = capsys.readouterr().out
    assert "ms with float32 products" in out
    assert ("ms with products of bits" in out) == (compiled() is not None)
    with pytest.raises(SystemExit):  # before it trains again
        run_script(monkeypatch, "binarize.py", "--model", model, "--train", tmp_path / "train.parquet", *words)
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(kind for kind in KINDS if kind not in ("pairs", "two values"))])
def test_a_script_for_each_kind_of_task(tmp_path, monkeypatch, capsys, name):
    write_kind(tmp_path, name)
    rows_of_kind(name).to_parquet(tmp_path / "rows.parquet")
    words = ["--rows", tmp_path / "rows.parquet", "--output_dir", tmp_path / "out", "--max_steps", 2]
    run_script(monkeypatch, f"distill_{name.replace(' ', '_')}.py", "--teacher", tmp_path / "teacher", *words)
    assert AutoConfig.from_pretrained(tmp_path / "out" / "student").num_hidden_layers == 1
    assert "to the teacher 0." in capsys.readouterr().out


@pytest.mark.slow
def test_prune_without_labels_script(tmp_path, monkeypatch, capsys):
    model = write_teacher(tmp_path / "model", task="sequence_classification", intermediate_size=256)
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(LONGER_THAN_POSITIONS))
    words = ["--output_dir", tmp_path / "out", "--macs", 0.7, "--num_samples", 20]
    run_script(monkeypatch, "prune_without_labels.py", "--model", model, "--text", text, *words)
    facts = json.loads((tmp_path / "out" / "facts.json").read_text())
    # of its unpadded layers
    assert 0.69 < facts["forms"]["compact"]["encoder_macs"] / facts["teacher"]["encoder_macs"] <= 0.7
    assert facts["training"]["num_samples"] == 20
    assert "with the same logits" in capsys.readouterr().out


@pytest.mark.slow
def test_distill_embeddings_script(tmp_path, monkeypatch, capsys):
    teacher = make_sentence_folder(tmp_path / "teacher")
    write_text(tmp_path / "text.txt")
    words = ["--output_dir", tmp_path / "run", "--max_steps", 2, "--batch_size", 4]
    paths = ["--teacher", teacher, "--text", tmp_path / "text.txt"]
    run_script(monkeypatch, "distill_embeddings.py", *paths, *words)
    told = capsys.readouterr().out
    assert 0.99 < float(re.search(r"cosine to the teacher (\d\.\d{3})\n", told)[1]) <= 1
    assert "The cat sat on the mat." in told
    assert load_embedding_model(tmp_path / "run" / "student").dimension == 32


@pytest.mark.slow
def test_distill_reranker_script(tmp_path, monkeypatch, capsys):
    teacher = make_reranker(tmp_path / "teacher")
    texts = [f"w{5 + row % 40} w{6 + row % 50}" for row in range(60)]
    Dataset.from_dict({"query": texts, "passage": texts[::-1]}).to_parquet(tmp_path / "pairs.parquet")
    words = ["--rows", tmp_path / "pairs.parquet", "--output_dir", tmp_path / "out", "--max_steps", 2]
    run_script(monkeypatch, "distill_reranker.py", "--teacher", teacher, *words)
    told = capsys.readouterr().out
    assert re.search(r"correlation with the teacher -?[01]\.\d{3}\n", told)
    assert "The cat sat on the mat." in told
    student = AutoConfig.from_pretrained(tmp_path / "out" / "student")
    assert (student.num_labels, student.num_hidden_layers) == (1, 1)


def test_the_json_of_the_first_page_is_a_config(tmp_path):
    page = (EXAMPLES.parent / "docs" / "index.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL)
    path = tmp_path / "config.json"
    path.write_text(text)
    settings = parse_run([str(path), "--bf16", "false", "--use_cpu"])
    assert resolve_plan(settings.training.student, BertConfig()) == PRESETS["homobert-tiny"]


@each("name", PRESETS)
def test_the_table_of_presets_is_what_the_formulas_give(name):
    plan = PRESETS[name]
    page = (EXAMPLES.parent / "docs" / "guides" / "sizes.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    widths = plan.layers[0]
    macs = encoder_macs(widths_of(BertConfig())) / encoder_macs(plan)
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == [
        str(plan.hidden_size),
        f"{widths.num_attention_heads} × {widths.head_dim}",
        str(widths.intermediate_size),
        f"{count_parameters(plan, BertConfig()) / 1e6:.1f} M",
        f"1/{macs:.1f}",
    ]
