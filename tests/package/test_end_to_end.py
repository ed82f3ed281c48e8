"""From text and a teacher on disk to a smaller model that stock transformers load, in this process and in others."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_dataset
from run_traces import Interrupt, SaveAt, logs_of
from students import assert_same_logits, logits_of
from tiny_models import GRADUAL, make_teacher, tiny_tokenizer
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM, BertForSequenceClassification

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments, load_text, tokenize_to_blocks
from homodistil_hf.training import publishing as pushing_module

INPUT_IDS = torch.randint(5, 96, (3, 12), generator=torch.Generator().manual_seed(3))
UNEVEN = {
    "hidden_size": 24,
    "layers": [
        {"num_attention_heads": 3, "head_dim": 5, "intermediate_size": 40},
        {"num_attention_heads": 2, "head_dim": 5, "intermediate_size": 24},
    ],
}
LOADER = """
import sys
import torch

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "homodistil_hf":
            raise ImportError("this process has no homodistil_hf")

sys.meta_path.insert(0, Blocked())
from transformers import AutoModelForMaskedLM
for folder in sys.argv[1:]:
    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=folder.endswith("compact")).eval()
    with torch.no_grad():
        logits = model(torch.load(f"{folder}.inputs.pt", weights_only=True)).logits
    torch.save(logits, f"{folder}.logits.pt")
    print(type(model).__name__)
"""


@pytest.mark.slow
def test_text_and_a_teacher_folder_become_a_stock_student(tmp_path):
    teacher, tokenizer = make_teacher(), tiny_tokenizer()
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    generator = torch.Generator().manual_seed(0)
    lines = [" ".join(f"w{i}" for i in torch.randint(5, 96, (30,), generator=generator)) for _ in range(60)]
    (tmp_path / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "teacher")
    blocks = tokenize_to_blocks(load_text(str(tmp_path / "train.txt")), tokenizer, max_seq_length=16)
    args = HomoDistilTrainingArguments(
        output_dir=str(tmp_path / "run"),
        student="macs=0.3",
        max_steps=12,
        per_device_train_batch_size=8,
        eval_strategy="steps",
        eval_steps=6,
        report_to="none",
        disable_tqdm=True,
        bf16=True,
    )
    trainer = HomoDistilTrainer(
        model=str(tmp_path / "teacher"),
        args=args,
        train_dataset=blocks.select(range(64)),
        eval_dataset=blocks.select(range(64, 80)),
        processing_class=tokenizer,
    )
    trainer.train()
    folder = trainer.export(tmp_path / "student")
    student = AutoModelForMaskedLM.from_pretrained(folder)
    assert type(student) is BertForMaskedLM
    assert student.config.hidden_size < 32
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()
    assert not list(folder.glob("*.bin"))
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    assert facts["training"]["num_steps"] == 12
    assert facts["evaluation"]["kl"] == [entry["eval_kl"] for entry in logs_of(trainer) if "eval_kl" in entry][-1]
    assert facts["settings"]["student"] == "macs=0.3"


@pytest.mark.slow
def test_exports_load_where_this_package_cannot_be_imported(make_trainer, forked_python, tmp_path):
    folders = []
    for name, plan in (("uniform", None), ("uneven", UNEVEN)):
        settings = {"output_dir": str(tmp_path / f"run-{name}"), "max_steps": 6} | ({"student": plan} if plan else {})
        trainer = make_trainer(**settings)
        trainer.train()
        expected = logits_of(trainer.model, {"input_ids": INPUT_IDS})
        for form in ("standard", "compact"):
            folder = trainer.export(tmp_path / f"{name}-{form}", form)
            torch.save(INPUT_IDS, f"{folder}.inputs.pt")
            folders.append((str(folder), expected))
    finished = forked_python.run(
        [sys.executable, "-c", LOADER, *(folder for folder, _ in folders)], check=False, cwd=tmp_path
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.split() == ["BertForMaskedLM", "HomoBertForMaskedLM"] * 2
    for folder, expected in folders:
        assert_same_logits(torch.load(f"{folder}.logits.pt", weights_only=True), expected)


def test_a_fine_tuned_head_on_an_export_trains(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=4)
    trainer.train()
    model = BertForSequenceClassification.from_pretrained(trainer.export(tmp_path / "student"), num_labels=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(INPUT_IDS, labels=torch.tensor([0, 1, 0])).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_a_run_that_stopped_early_exports_only_if_asked_to(make_trainer, tmp_path):
    trainer = make_trainer(
        callbacks=[Interrupt(3), SaveAt(3)], width_multiple=1, **GRADUAL | {"pruning_interval_steps": 1}
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    with pytest.raises(ValueError, match="not reached its plan yet.*allow_partial"):
        trainer.export(tmp_path / "student")
    assert not (tmp_path / "student").exists()
    compact = AutoModelForMaskedLM.from_pretrained(trainer.export(tmp_path / "c", "compact", allow_partial=True))
    assert_same_logits(logits_of(compact), logits_of(trainer.model))
    standard = AutoModelForMaskedLM.from_pretrained(trainer.export(tmp_path / "s", allow_partial=True))
    assert type(standard) is BertForMaskedLM
    assert 16 < standard.config.hidden_size <= trainer.kept.hidden_size < 32


def test_exporting_again_replaces_an_export_and_nothing_else(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=2)
    trainer.train()
    folder = trainer.export(tmp_path / "student")
    assert trainer.export(folder, "compact") == folder
    assert (folder / "modeling_homobert.py").is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("words", encoding="utf-8")
    with pytest.raises(ValueError, match="mine"):
        trainer.export(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").is_file()


@pytest.mark.slow
def test_a_student_can_be_a_teacher_again(make_trainer, tmp_path):
    first = make_trainer(max_steps=4, student={"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40})
    first.train()
    folder = first.export(tmp_path / "first", "compact")
    second = make_trainer(
        model=str(folder),
        output_dir=str(tmp_path / "second"),
        max_steps=4,
        student={"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24},
    )
    assert_same_logits(logits_of(second.model), logits_of(first.model))
    second.train()
    assert second.evaluate()["eval_kept_fraction_hidden"] == pytest.approx(16 / 24)


# Pushing


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was pushed to the Hub, instead of pushing it."""
    calls: list[dict[str, Any]] = []

    def push(folder: Path, repo_id: str, **kwargs: Any) -> str:
        calls.append({"repo": repo_id, "files": sorted(path.name for path in folder.iterdir()), **kwargs})
        return "commit"

    monkeypatch.setattr(pushing_module, "push_export", push)

    def name_repository(self: Any, token: str | None = None, **kwargs: Any) -> None:
        self.hub_model_id = self.args.hub_model_id

    monkeypatch.setattr(HomoDistilTrainer, "init_hf_repo", name_repository)
    return calls


def test_the_finished_student_is_pushed_without_pickles(make_trainer, pushed):
    trainer = make_trainer(max_steps=2, hub_model_id="me/student", hub_token="hf_secret")
    trainer.train()
    assert trainer.push_to_hub(commit_message="Done") == "commit"
    (call,) = pushed
    assert call["repo"] == "me/student"
    assert call["token"] == "hf_secret"
    assert call["commit_message"] == "Done"
    assert {"model.safetensors", "config.json", "facts.json", "README.md"} <= set(call["files"])
    assert not [name for name in call["files"] if name.endswith((".bin", ".pt", ".pth"))]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "expected"), [("every_save", ["6", "8"]), ("end", [])])
def test_saves_are_pushed_once_the_plan_is_reached(make_trainer, pushed, strategy, expected):
    trainer = make_trainer(
        max_steps=8,
        save_strategy="steps",
        save_steps=2,
        pruning_end_fraction=0.6,
        push_to_hub=True,
        hub_strategy=strategy,
        hub_model_id="me/student",
    )
    trainer.train()
    assert [call["commit_message"] for call in pushed] == [f"Training in progress, step {step}" for step in expected]
    assert all(not name.endswith((".bin", ".pt", ".pth")) for call in pushed for name in call["files"])


def test_a_push_that_fails_during_training_stops_nothing(make_trainer, monkeypatch, pushed, caplog):
    def fail(*args: Any, **kwargs: Any) -> str:
        raise ConnectionError("the Hub is away")

    monkeypatch.setattr(pushing_module, "push_export", fail)
    trainer = make_trainer(
        max_steps=4, save_strategy="steps", save_steps=4, push_to_hub=True, hub_model_id="me/student"
    )
    with caplog.at_level(logging.WARNING, "homodistil_hf"):
        trainer.train()
    assert "a push during training failed (ConnectionError: the Hub is away)" in caplog.text
    with pytest.raises(ConnectionError, match="the Hub is away"):
        trainer.push_to_hub()


def test_an_unfinished_student_is_not_pushed(make_trainer, pushed):
    trainer = make_trainer(hub_model_id="me/student")
    with pytest.raises(ValueError, match="not reached its plan yet"):
        trainer.push_to_hub()
    assert pushed == []


# The real teacher


@pytest.mark.slow
@pytest.mark.real_data
def test_a_real_teacher_is_pruned_without_losing_its_mind(real_data, tmp_path):
    """8 steps on Wikipedia, to three quarters of a real encoder's MACs."""
    tokenizer = AutoTokenizer.from_pretrained(real_data / "teacher")
    text = load_dataset("parquet", data_files=str(real_data / "corpora/wikipedia/validation.parquet"), split="train")
    blocks = tokenize_to_blocks(text.select(range(40)), tokenizer, max_seq_length=64)
    args = HomoDistilTrainingArguments(
        output_dir=str(tmp_path / "run"),
        student="macs=0.75",
        max_steps=8,
        per_device_train_batch_size=4,
        num_scoring_batches=4,
        pruning_interval_steps=1,
        pruning_end_fraction=0.7,
        learning_rate=2e-4,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = HomoDistilTrainer(
        model=str(real_data / "teacher"),
        args=args,
        train_dataset=blocks.select(range(64)),
        eval_dataset=blocks.select(range(64, 80)),
        processing_class=tokenizer,
    )
    teacher = trainer.evaluate()
    trainer.train()
    student = trainer.evaluate()
    assert teacher["eval_kl"] == 0.0
    assert 0.1 < student["eval_kl"] < 1.0
    assert student["eval_mlm_accuracy"] > 0.6 * teacher["eval_mlm_accuracy"] > 0.2
    stock = AutoModelForMaskedLM.from_pretrained(trainer.export(tmp_path / "student")).eval()
    input_ids = torch.tensor(blocks.select(range(2))["input_ids"])
    with torch.no_grad():
        assert_same_logits(stock(input_ids).logits, trainer.model.eval()(input_ids).logits)
