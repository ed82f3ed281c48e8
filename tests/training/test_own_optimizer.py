"""A user's own optimizer holds the student's parameters, or is refused when the trainer is made."""

import pytest
import torch
from homodistil_hf.training.own_optimizer import adopt_optimizer, check_optimizer
from run_traces import logs_of, state_of
from tiny_models import make_teacher
from torch import nn
from transformers.optimization import Adafactor

ELEMENTWISE = {
    "AdamW": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "AdamW, fused": (torch.optim.AdamW, {"fused": True}),
    "AdamW, amsgrad": (torch.optim.AdamW, {"amsgrad": True}),
    "SGD": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "Adagrad": (torch.optim.Adagrad, {}),
    "RMSprop": (torch.optim.RMSprop, {"centered": True, "momentum": 0.5}),
    "RAdam": (torch.optim.RAdam, {}),
}


class RootMeanSquare(torch.optim.Optimizer):
    """Every step is as long as its matrix has weights, so zeros count."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= group["lr"] * parameter.grad / parameter.grad.square().mean().sqrt()


class NeedsClosure(torch.optim.Optimizer):
    """Can't be stepped without a closure."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    def step(self, closure):
        return closure()


REFUSED = {
    "Adafactor": (Adafactor, {"lr": 1e-3, "relative_step": False}, "updates a weight by what other weights"),
    "Adafactor, relative": (Adafactor, {}, "updates a weight by what other weights"),
    "Adafactor, unscaled": (
        Adafactor,
        {"lr": 1e-3, "relative_step": False, "scale_parameter": False, "clip_threshold": 1e9},
        "(updates a weight by what other weights|keeps exp_avg_sq_row of another shape)",
    ),
    "root mean square": (RootMeanSquare, {}, "updates a weight by what other weights"),
    "closure": (NeedsClosure, {}, r"could not be tried \(TypeError"),
}


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(3))]


@pytest.mark.parametrize("case", ELEMENTWISE)
def test_elementwise_optimizers_are_fine_and_untouched(case):
    optimizer_class, settings = ELEMENTWISE[case]
    own = parameters()
    optimizer = optimizer_class(own, **settings)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    before = optimizer.state_dict()
    check_optimizer(optimizer)
    assert optimizer.state_dict() == before
    assert all(torch.equal(parameter, torch.ones_like(parameter)) and parameter.grad is None for parameter in own)


@pytest.mark.parametrize("case", REFUSED)
def test_optimizers_that_mix_weights_are_refused(case):
    optimizer_class, settings, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"optimizer {optimizer_class.__name__} {message}.*e.g. optim='adamw_torch'"):
        check_optimizer(optimizer_class(parameters(), **settings))


@pytest.mark.parametrize("case", REFUSED)
def test_they_are_refused_when_the_trainer_is_made(make_trainer, case):
    optimizer_class, settings, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        make_trainer(optimizer_cls_and_kwargs=(optimizer_class, settings))
    teacher = make_teacher()
    with pytest.raises(ValueError, match=message):
        make_trainer(model=teacher, optimizers=(optimizer_class(teacher.parameters(), **settings), None))


class Student(nn.Module):
    """Names as in a model, one part less, and projections."""

    def __init__(self, *, with_extra: bool = False):
        super().__init__()
        self.body = nn.Linear(3, 3)
        if with_extra:
            self.extra = nn.Linear(3, 1)
        else:
            self.projections = nn.Linear(3, 3, bias=False)


def test_parameters_are_matched_by_name():
    model, student = Student(with_extra=True), Student()
    optimizer = torch.optim.AdamW(
        [
            {"params": [model.extra.weight, model.body.bias], "weight_decay": 0.0},
            {"params": [model.body.weight, model.extra.bias], "lr": 0.5},
        ]
    )
    model.extra(model.body(torch.ones(2, 3))).sum().backward()
    optimizer.step()
    moment = optimizer.state[model.body.weight]["exp_avg"]
    adopt_optimizer(optimizer, model, student)
    held = [[id(parameter) for parameter in group["params"]] for group in optimizer.param_groups]
    assert held == [[id(student.body.bias), id(student.projections.weight)], [id(student.body.weight)]]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.01]
    assert optimizer.param_groups[1]["lr"] == 0.5
    assert optimizer.state[student.body.weight]["exp_avg"] is moment


def test_an_optimizer_of_another_model_is_refused(make_trainer, tmp_path):
    optimizer = torch.optim.AdamW(make_teacher().parameters())
    with pytest.raises(ValueError, match=r"optimizers\[0\] holds 42 parameters that are not those of model"):
        make_trainer(model=make_teacher(), optimizers=(optimizer, None))
    teacher = make_teacher()
    teacher.save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match="make it from the parameters of the loaded model that you pass"):
        make_trainer(model=str(tmp_path / "teacher"), optimizers=(torch.optim.AdamW(teacher.parameters()), None))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["AdamW", "SGD", "Adagrad"])
def test_a_users_optimizer_trains_like_trainers_own(make_trainer, case):
    optimizer_class, settings = ELEMENTWISE[case]
    settings = {"lr": 1e-3, **settings}
    teacher = make_teacher()
    optimizer = optimizer_class(teacher.parameters(), **settings)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    own = make_trainer(model=teacher, max_steps=10, optimizers=(optimizer, scheduler))
    named = make_trainer(
        max_steps=10,
        lr_scheduler_type="constant",
        learning_rate=settings["lr"],
        optimizer_cls_and_kwargs=(optimizer_class, settings | {"weight_decay": settings.get("weight_decay", 0.0)}),
        weight_decay=settings.get("weight_decay", 0.0),
        warmup_steps=0,
    )
    own.train()
    named.train()
    assert own.pruner.present == own.plan
    assert own.optimizer.optimizer is optimizer
    teacher_weights = make_teacher().state_dict()
    assert all(torch.equal(tensor, teacher_weights[name]) for name, tensor in teacher.state_dict().items())
    if case == "SGD":  # without weight decay, groups make no difference
        assert [entry["loss"] for entry in logs_of(own)[:-1]] == [entry["loss"] for entry in logs_of(named)[:-1]]
    weights = state_of(own)
    assert all(value.isfinite().all() for name, value in weights.items() if name.startswith("weight."))
