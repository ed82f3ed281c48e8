"""Files made by commit 47ff2b4, when every module lay at the top of the package: resumed, loaded, verified."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from earlier_run import FORMATS, NUM_STEPS, SAVED_STEP, earlier_trainer, losses_of
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from homodistil_hf import verify_export
from homodistil_hf.export.card import HOMODISTIL, render_card
from homodistil_hf.export.facts import read_facts
from homodistil_hf.files.checkpoints import file_digest

EARLIER = Path(__file__).with_name("earlier")
TOLERANCE = 1e-4  # the files may have been made on another processor


@pytest.mark.slow
def test_a_checkpoint_resumes_to_the_same_end(tmp_path):
    checkpoint = shutil.copytree(EARLIER / f"checkpoint-{SAVED_STEP}", tmp_path / "run" / f"checkpoint-{SAVED_STEP}")
    trainer = earlier_trainer(tmp_path)
    trainer.train(str(checkpoint))
    losses = {int(step): loss for step, loss in json.loads((EARLIER / "losses.json").read_text()).items()}
    assert losses.keys() == set(range(1, NUM_STEPS + 1))
    assert losses_of(trainer) == pytest.approx(losses, rel=TOLERANCE)
    for format in FORMATS:
        found = load_file(trainer.export(tmp_path / format, format=format) / "model.safetensors")
        expected = load_file(EARLIER / format / "model.safetensors")
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_checkpoint_loads_by_its_auto_class():
    model = AutoModelForMaskedLM.from_pretrained(EARLIER / f"checkpoint-{SAVED_STEP}")
    assert type(model).__name__ == "HomoBertForMaskedLM"


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_an_export_is_verified(tmp_path, format):
    """In a fresh process, without this package: the logits are those of its facts."""
    report = verify_export(shutil.copytree(EARLIER / format, tmp_path / format))
    assert report.problems == ()
    assert report.ok


@pytest.mark.parametrize("format", FORMATS)
def test_a_card_written_anew_says_how_the_student_was_made(format):
    """Its facts carry no words of the method, as those of today do."""
    facts = read_facts(EARLIER / format)
    assert "card" not in facts
    assert HOMODISTIL.how in render_card(facts)


def test_the_modelling_file_of_then_is_that_of_today(tmp_path):
    trainer = earlier_trainer(tmp_path)
    folder = trainer.export(tmp_path / "compact", format="compact", allow_partial=True)
    name = "modeling_homobert.py"
    assert file_digest(folder / name) == file_digest(EARLIER / "compact" / name)
    auto_maps = [
        json.loads((where / "config.json").read_text())["auto_map"] for where in (folder, EARLIER / "compact")
    ]
    assert auto_maps[0] == auto_maps[1]
