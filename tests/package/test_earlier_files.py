"""Files made by commit 47ff2b4: its exports are loaded and verified, its checkpoints, with masks in them, refused.

The script that made them is `tests/support/earlier_run.py` of commit 3e09752.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM

from homodistil_hf import export_student, verify_export
from homodistil_hf.export.facts import read_facts
from homodistil_hf.methods.formats import export_from
from homodistil_hf.models.loading import load_encoder
from homodistil_hf.models.saved_student import read_state

EARLIER = Path(__file__).with_name("earlier")
CHECKPOINT = EARLIER / "checkpoint-6"
FORMATS = ("standard", "compact")
REFUSED = "earlier version, which kept masks in it; export it with that version, or start anew"


def test_a_checkpoint_is_refused(tmp_path):
    for action in (lambda: read_state(CHECKPOINT), lambda: export_from(CHECKPOINT, tmp_path / "student")):
        with pytest.raises(ValueError, match=f"was saved by an {REFUSED}"):
            action()


@pytest.mark.parametrize("load", [AutoModelForMaskedLM.from_pretrained, load_encoder])
def test_a_checkpoint_with_masked_channels_does_not_load_as_something_else(load):
    with pytest.raises(
        ValueError, match=rf"dropped_hidden_channels=\[1, 3, 8\]: a training checkpoint of an {REFUSED}"
    ):
        load(str(CHECKPOINT))


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_an_export_is_verified(tmp_path, format):
    """In a fresh process, without this package: the logits are those of its facts."""
    report = verify_export(shutil.copytree(EARLIER / format, tmp_path / format))
    assert report.problems == ()
    assert report.ok


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_loads_by_its_auto_class_and_gives_the_logits_of_its_facts(format):
    model = AutoModelForMaskedLM.from_pretrained(EARLIER / format).eval()
    assert type(model).__name__ == {"compact": "HomoBertForMaskedLM", "standard": "BertForMaskedLM"}[format]
    probe = read_facts(EARLIER / format)["probe"]
    inputs = {name: torch.tensor(probe[name]) for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        logits = model(**inputs).logits.flatten()[probe["positions"]]
    torch.testing.assert_close(logits, torch.tensor(probe["logits"]), rtol=1e-4, atol=1e-4)


def test_an_export_written_anew_names_the_same_classes(tmp_path):
    folder = export_student(load_encoder(str(EARLIER / "compact")), tmp_path / "compact", "compact")
    configs = [json.loads((where / "config.json").read_text()) for where in (folder, EARLIER / "compact")]
    assert configs[0]["auto_map"] == configs[1]["auto_map"]
    assert configs[1].keys() - configs[0].keys() == {"dropped_hidden_channels"}
