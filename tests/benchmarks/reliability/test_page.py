"""The page on reliability counts on paper the parameters that a run trains."""

from benchmarks.reliability.page import trained_parameters
from homodistil_hf.models.widths import widths_of


def test_parameters_on_paper_are_those_that_are_trained(make_trainer):
    trainer = make_trainer()
    teacher = trainer.distillation.teacher.exact.config
    trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    assert trained_parameters(teacher, widths_of(trainer.model.config)) == trained
