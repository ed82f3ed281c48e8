"""First weights of a text and of an image model, and arguments of a short run."""

import pytest
from pretraining_cases import IMAGES, TEXT, make_image_model
from tiny_files import write_teacher

from homodistil_hf.methods.self_distillation.trainer import SelfDistillationArguments


@pytest.fixture
def initial(tmp_path):
    return str(write_teacher(tmp_path / "initial"))


@pytest.fixture
def image_initial(tmp_path):
    make_image_model().save_pretrained(tmp_path / "images")
    return str(tmp_path / "images")


@pytest.fixture
def arguments(tmp_path):
    def make(folder="run", **settings):
        shared = {"per_device_train_batch_size": 8, "max_steps": 6, "logging_steps": 1, "save_strategy": "no"}
        shared |= {"learning_rate": 1e-3, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
        return SelfDistillationArguments(output_dir=str(tmp_path / folder), **shared | settings)

    return make


@pytest.fixture
def source(initial, image_initial):
    return {TEXT: initial, IMAGES: image_initial}
