"""What a run is made from: student, teacher, plan and optimizer, or a refusal before time is spent."""

from typing import Any

import pytest
import torch
from rows import each
from run_traces import differences, logs_of
from students import FULL, TASKS, UNIFORM, logits_of, make_batch, make_student, masked
from tiny_models import GRADUAL, make_teacher, tiny_config
from torch import nn
from transformers import (
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
)
from transformers.optimization import Adafactor

from homodistil_hf import HomoDistilTrainingArguments
from homodistil_hf.distillation.tasks import activation_name, sequence_task
from homodistil_hf.models.heads import with_fresh_head
from homodistil_hf.models.loading import default_activation, load_encoder_config
from homodistil_hf.models.widths import WidthPlan, widths_of
from homodistil_hf.pruning.compaction import compact
from homodistil_hf.training.pair import adopt_optimizer, prepare
from homodistil_hf.training.small_start import with_head_of

PLAN = {"hidden_size": 16, "num_attention_heads": 2, "head_dim": 5, "intermediate_size": 24}


def make_args(**settings: Any) -> HomoDistilTrainingArguments:
    defaults = {"output_dir": "out", "report_to": "none", "use_cpu": True, "student": PLAN, "teacher_dtype": "float32"}
    return HomoDistilTrainingArguments(**defaults | settings)


# What is made


@pytest.mark.slow
@each("from_folder", [False, True])
@each("task", TASKS)
def test_student_and_teacher_start_as_the_model(task, from_folder, tmp_path):
    model = make_teacher(task, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if from_folder:
        model.save_pretrained(tmp_path)
    student, frozen, plan = prepare(str(tmp_path) if from_folder else model, make_args())
    assert plan == UNIFORM
    assert widths_of(student.config) == FULL
    inputs = make_batch(task)
    for made in (student.train(), frozen.exact):
        assert torch.equal(logits_of(made, inputs), logits_of(model, inputs))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    pointers = {id(p) for m in (model, student, frozen.exact) for p in m.parameters()}
    assert len(pointers) == sum(len(list(m.parameters())) for m in (model, student, frozen.exact))
    assert all(parameter.requires_grad for parameter in student.parameters())


@pytest.mark.slow
def test_a_student_with_projections_goes_on_with_its_teacher():
    earlier = prepare(make_teacher(), make_args())[0]
    for parameter in earlier.projections.parameters():
        torch.nn.init.normal_(parameter)
    learned = earlier.projections.state_dict()
    own = prepare(earlier, make_args(), teacher=make_teacher())[0].projections.state_dict()
    assert differences(own, learned) == []
    others = [
        prepare(earlier, make_args()),  # the student is the teacher now
        prepare(earlier, make_args(), teacher=make_teacher(hidden_size=48, intermediate_size=40)),
        prepare(earlier, make_args(embedding_weight=0), teacher=make_teacher()),
    ]
    for weight in (student.projections.hidden[0].weight for student, _, _ in others):
        assert torch.equal(weight, torch.eye(*weight.shape))


def test_a_teacher_of_its_own_may_be_given(tmp_path):
    other = make_teacher(hidden_size=48, intermediate_size=40)
    other.save_pretrained(tmp_path)
    for teacher in (other, str(tmp_path)):
        student, frozen, _ = prepare(make_teacher(), make_args(), teacher=teacher)
        assert torch.equal(logits_of(frozen.exact, make_batch()), logits_of(other, make_batch()))
        assert student.projections.embedding.weight.shape == (48, 32)
        assert student.config.hidden_size == 32


def test_half_precision_models_are_trained_in_float32():
    student, frozen, _ = prepare(
        make_teacher().to(torch.bfloat16), make_args(), teacher=make_teacher().to(torch.float16)
    )
    assert {p.dtype for m in (student, frozen.exact) for p in m.parameters()} == {torch.float32}


def test_a_compacted_student_can_be_pruned_further():
    model = make_student()
    groups, masks = masked(model, UNIFORM)
    compact(model, groups, masks, plan=UNIFORM)
    student, _, plan = prepare(model, make_args(student=PLAN | {"hidden_size": 12}))
    assert widths_of(student.config) == UNIFORM
    assert plan == WidthPlan(12, UNIFORM.layers)
    assert torch.equal(logits_of(student, make_batch()), logits_of(model, make_batch()))


@pytest.mark.slow
@each(
    ("settings", "names"),
    [
        ({}, {"embedding", "hidden.0", "hidden.1"}),
        ({"hidden_weight": 0.0}, {"embedding"}),
        ({"embedding_weight": 0.0}, {"hidden.0", "hidden.1"}),
        ({"hidden_weight": 0.0, "embedding_weight": 0.0}, set()),
    ],
)
def test_only_projections_with_a_loss_are_made(settings, names):
    student = prepare(make_teacher(), make_args(**settings))[0]
    assert set(student.projections.state_dict()) == {f"{name}.weight" for name in names}


@pytest.mark.slow
def test_random_projections_follow_the_seed_and_leave_the_generator_alone():
    def made(seed: int) -> torch.Tensor:
        return prepare(make_teacher(), make_args(seed=seed), projection_init="random")[0].projections.hidden[1].weight

    torch.manual_seed(123)
    first = made(1)
    torch.manual_seed(456)
    assert torch.equal(made(1), first)
    assert not torch.equal(made(2), first)
    embeddings, drawn_after = [], []
    for init, seed in (("identity", 1), ("random", 1), ("random", 2)):
        model = make_teacher()
        torch.manual_seed(9)
        student = prepare(model, make_args(seed=seed), projection_init=init)[0]
        embeddings.append(student.projections.embedding.weight)
        drawn_after.append(float(torch.rand(())))
    assert torch.equal(embeddings[0], torch.eye(32))
    assert not torch.equal(embeddings[1], torch.eye(32))
    assert drawn_after == drawn_after[:1] * 3


@pytest.mark.parametrize(("rate", "expected"), [(None, {0.3, 0.2}), (0.0, {0.0}), (0.1, {0.1})])
def test_dropout_is_set_on_modules_not_in_the_configuration(rate, expected):
    model = make_teacher(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2)
    student = prepare(model, make_args(student_dropout=rate))[0]
    assert {module.p for module in student.modules() if isinstance(module, nn.Dropout)} == expected
    assert (student.config.hidden_dropout_prob, student.config.attention_probs_dropout_prob) == (0.3, 0.2)


@pytest.mark.slow
@each(
    ("settings", "dtype", "attention"),
    [
        ({"teacher_dtype": "float32"}, torch.float32, "sdpa"),
        ({"teacher_dtype": "bfloat16"}, torch.bfloat16, "sdpa"),
        ({"teacher_dtype": "auto", "fp16": True}, torch.float16, "sdpa"),
        ({"teacher_dtype": "float32", "fp16": True}, torch.float32, "sdpa"),
        ({"teacher_dtype": "bfloat16", "bf16": True}, torch.bfloat16, "eager"),
        ({"teacher_dtype": "float32", "bf16": True}, torch.float32, "eager"),
    ],
)
def test_types_and_attention_fit_the_hardware(settings, dtype, attention):
    student, frozen, _ = prepare(make_teacher(), make_args(**settings))
    assert frozen.dtype == dtype
    for model in (student, frozen.exact, frozen.fast):
        assert model.config._attn_implementation == attention


# What is refused


UNSUPPORTED = {
    "GPT2LMHeadModel": lambda: GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=96)),
    "BertModel": lambda: BertModel(tiny_config()),
    "Linear": lambda: nn.Linear(2, 2),
}


@pytest.mark.slow
@each("name", UNSUPPORTED)
@each("student", ["macs=0.5", PLAN, "homobert-tiny"])
def test_unsupported_models_are_refused(name, student):
    message = f"^{{argument}} class {name} is not supported; expected …ForMaskedLM, .* of bert, .*; "
    remedy = "it has no head to compare logits with" if name == "BertModel" else "choose a stock encoder"
    with pytest.raises(ValueError, match=message.format(argument="model") + remedy):
        prepare(UNSUPPORTED[name](), make_args(student=student))
    with pytest.raises(ValueError, match=message.format(argument="teacher") + remedy):
        prepare(make_teacher(), make_args(), teacher=UNSUPPORTED[name]())


def test_folders_are_refused_before_their_weights_are_read(tmp_path):
    GPT2Config().save_pretrained(tmp_path / "gpt2")
    make_teacher().save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").write_bytes(b"no weights")
    for folder, student, message in (
        ("gpt2", PLAN, "^model='.*' has model_type='gpt2'; supported: bert, .*. Choose"),
        ("bert", PLAN | {"hidden_size": 64}, "student hidden_size=64 .*teacher"),
        ("bert", "macs=3", "student='macs=3'"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(str(tmp_path / folder), make_args(student=student))


def test_decoders_and_models_that_are_frozen_as_a_whole_are_refused():
    with pytest.raises(ValueError, match="model config has is_decoder=True, .*; only encoders are supported"):
        prepare(BertForMaskedLM(tiny_config(is_decoder=True)), make_args())
    frozen = make_teacher().requires_grad_(False)
    message = r"^model has \d+ parameters, all of them frozen, so .* not learn; call model.requires_grad_\("
    with pytest.raises(ValueError, match=message):
        prepare(frozen, make_args())
    prepare(make_teacher(), make_args(), teacher=frozen)


TASK, TAGS, ANSWERS = "sequence_classification", "token_classification", "question_answering"
DEEPER, SHORT = {"num_hidden_layers": 3}, {"max_position_embeddings": 16}
SEVERAL = "multi_label_classification"
NAMES = {"id2label": {0: "no", 1: "yes", 2: "perhaps"}, "label2id": {"no": 0, "yes": 1, "perhaps": 2}}
OTHERS = {"id2label": {0: "no", 1: "perhaps", 2: "yes"}, "label2id": {"no": 0, "perhaps": 1, "yes": 2}}
SWAPPED = r"id2label\[1\]=perhaps, the student yes; both must agree, .*, or set it in teacher.config whe"


@pytest.mark.slow
@each(
    ("model", "teacher", "settings", "message"),
    [
        ({}, {"vocab_size": 100}, {}, "vocab_size=100, the student 96; both must agree, choose another"),
        ({}, DEEPER, {}, "num_hidden_layers=3, the student 2; both must agree"),
        ({}, DEEPER, {"hidden_weight": 0.0, "attention_weight": 1.0}, "num_hidden_layers=3, the student 2; both must"),
        ({}, {"task": TAGS}, {}, "class=HomoBertForTokenClassification, the student HomoBertForMaskedLM; both"),
        ({"task": TASK}, {"num_labels": 3}, {}, "num_labels=3, the student 2; both must agree"),
        ({"task": TASK} | NAMES, OTHERS, {}, SWAPPED),
        ({"task": TAGS} | NAMES, OTHERS, {}, SWAPPED),
        ({"task": TASK}, {"problem_type": SEVERAL}, {}, f"problem_type={SEVERAL}, the student None; both must agree"),
        ({}, SHORT, {}, "max_position_embeddings=16, fewer than the student's 32, so it .*; choose another teacher,"),
        ({}, {"type_vocab_size": 1}, {}, "type_vocab_size=1, fewer than the student's 2, so it .*; choose another t"),
    ],
)
def test_teachers_that_can_not_be_compared_are_refused(model, teacher, settings, message):
    with pytest.raises(ValueError, match=f"teacher has {message}"):
        prepare(make_teacher(**model), make_args(**settings), teacher=make_teacher(**model | teacher))


def test_attentions_of_other_heads_are_not_compared():
    message = r"attention_weight > 0 needs the same heads in teacher \[2, 2\] and student \[4, 4\]; set it to 0"
    with pytest.raises(ValueError, match=message):
        prepare(make_teacher(), make_args(attention_weight=1.0), teacher=make_teacher(num_attention_heads=2))


@pytest.mark.slow
@each(
    ("model", "teacher", "settings"),
    [
        ({}, DEEPER, {"hidden_weight": 0.0}),
        ({}, {"num_attention_heads": 2}, {}),
        (SHORT, {}, {}),
        ({"type_vocab_size": 1}, {}, {}),
        ({"task": TASK} | NAMES, {"task": TASK} | NAMES, {}),
        ({"task": TASK}, {"task": TASK, "problem_type": "single_label_classification"}, {}),
        # Labels without a meaning
        ({}, {"num_labels": 3, "problem_type": "regression"}, {}),
        ({"task": ANSWERS}, {"task": ANSWERS, "id2label": {0: "start", 1: "end"}}, {}),
        ({"task": TASK, "num_labels": 1}, {"task": TASK, "num_labels": 1, "id2label": {0: "stars"}}, {}),
    ],
)
def test_teachers_may_differ_in_what_is_not_compared(model, teacher, settings):
    student, frozen, _ = prepare(make_teacher(**model), make_args(**settings), teacher=make_teacher(**teacher))
    for made, config in ((student, model), (frozen.exact, teacher)):
        assert made.config.num_hidden_layers == config.get("num_hidden_layers", 2)


# What stays frozen


@pytest.mark.parametrize("tied", [True, False])
def test_frozen_parameters_stay_frozen(tied):
    model = make_teacher(tie_word_embeddings=tied)
    model.bert.embeddings.requires_grad_(False)
    student = prepare(model, make_args())[0]
    frozen = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
    embeddings = {name for name, _ in model.named_parameters() if name.startswith("bert.embeddings.")}
    assert frozen == embeddings | (set() if tied else {"cls.predictions.bias"})  # no gradient ever reaches that one


def test_frozen_layers_are_refused():
    for part, unit in (("encoder.layer.1", "head.1"), ("encoder", "head.0")):
        model = make_teacher()
        model.bert.get_submodule(part).requires_grad_(False)
        with pytest.raises(
            ValueError, match=rf"^model has frozen layers: no .* '{unit}' trains.*requires_grad_\(True"
        ):
            prepare(model, make_args())


# Optimizers of the user's own


class Student(nn.Module):
    """Names as in a model, one part less, and projections."""

    def __init__(self, *, with_extra: bool = False):
        super().__init__()
        self.body = nn.Linear(3, 3)
        self.add_module(*(("extra", nn.Linear(3, 1)) if with_extra else ("projections", nn.Linear(3, 3, bias=False))))


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
    with pytest.raises(ValueError, match=r"optimizers\[0\] holds 42 parameters that are not those of the copied"):
        make_trainer(model=make_teacher(), optimizers=(optimizer, None))
    teacher = make_teacher()
    teacher.save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match="make it from the parameters of the loaded model that you pass"):
        make_trainer(model=str(tmp_path / "teacher"), optimizers=(torch.optim.AdamW(teacher.parameters()), None))


@pytest.mark.slow
def test_a_users_optimizer_trains_like_trainers_own(trained):
    settings = {"lr": 0.1, "momentum": 0.9, "nesterov": True}
    teacher = make_teacher()
    optimizer = torch.optim.SGD(teacher.parameters(), **settings)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    own = trained(model=teacher, max_steps=10, optimizers=(optimizer, scheduler), **GRADUAL)
    named = trained(
        **GRADUAL,
        max_steps=10,
        lr_scheduler_type="constant",
        learning_rate=settings["lr"],
        optimizer_cls_and_kwargs=(torch.optim.SGD, settings),
        warmup_steps=0,
    )
    assert own.kept == own.plan
    assert own.optimizer.optimizer is optimizer
    teacher_weights = make_teacher().state_dict()
    assert all(torch.equal(tensor, teacher_weights[name]) for name, tensor in teacher.state_dict().items())
    assert [entry["loss"] for entry in logs_of(own)[:-1]] == [entry["loss"] for entry in logs_of(named)[:-1]]


def test_an_optimizer_whose_state_can_not_be_sliced_stops_at_the_first_slicing(make_trainer):
    settings = {"lr": 1e-3, "relative_step": False}
    trainer = make_trainer(max_steps=8, optimizer_cls_and_kwargs=(Adafactor, settings), **GRADUAL)
    with pytest.raises(
        ValueError, match="^Adafactor keeps 'exp_avg_sq_row' of shape .*, which can't be pruned alike; use an"
    ):
        trainer.train()
    assert trainer.state.global_step == 2


# What stands behind a value


@each(
    ("of_teacher", "of_student", "expected"),
    [
        ("Sigmoid", None, "Sigmoid"),
        ("Tanh", "Sigmoid", "Tanh"),
        (None, "Sigmoid", None),
        ("Identity", None, "Identity"),
    ],
)
def test_a_student_of_one_value_has_its_teachers_activation(of_teacher, of_student, expected):
    teacher, model = (make_teacher("sequence_classification", num_labels=1) for _ in range(2))
    model.config.problem_type = "regression"  # as fine-tuning writes it; None means the same
    for one, name in ((teacher, of_teacher), (model, of_student)):
        if name is not None:
            one.config.sentence_transformers = {"activation_fn": f"torch.nn.{name}"}
    student, frozen, _ = prepare(model, make_args(), teacher=teacher)
    found = [getattr(one.config, "sentence_transformers", None) for one in (student, frozen.exact)]
    assert found == [expected and {"activation_fn": f"torch.nn.{expected}"}] * 2
    assert sequence_task(student.config).activation == sequence_task(teacher.config).activation
    # what was given stays as it was
    assert getattr(model.config, "sentence_transformers", None) == (
        of_student and {"activation_fn": f"torch.nn.{of_student}"}
    )


def test_a_general_start_gets_its_teachers_activation():
    teacher = make_teacher("sequence_classification", num_labels=1)
    teacher.config.sentence_transformers = {"activation_fn": "torch.nn.Sigmoid"}
    student, _, _ = prepare(with_head_of(teacher, make_teacher(), seed=0), make_args(), teacher=teacher)
    assert student.config.sentence_transformers == teacher.config.sentence_transformers


def test_a_fresh_head_of_a_value_is_behind_none():
    model = make_teacher("sequence_classification", num_labels=1)
    for told in ({"activation_fn": "torch.nn.Sigmoid"}, None):
        if told:
            model.config.sentence_transformers = told
        else:
            del model.config.sentence_transformers
        fresh = with_fresh_head(model.base_model, 1, dropout=0.0, seed=0)
        identity = {"activation_fn": "torch.nn.modules.linear.Identity"} if told else None
        assert getattr(fresh.config, "sentence_transformers", None) == identity
        assert not hasattr(with_fresh_head(model.base_model, 2, dropout=0.0, seed=0).config, "sentence_transformers")


def test_the_former_name_of_an_activation_is_read(tmp_path):
    model = make_teacher("sequence_classification", num_labels=1)
    model.config.sbert_ce_default_activation_function = "torch.nn.modules.activation.Tanh"
    model.save_pretrained(tmp_path)
    for source in (str(tmp_path), model):
        assert default_activation(source) == "torch.nn.modules.activation.Tanh"
    assert activation_name(load_encoder_config(str(tmp_path))) == "tanh"
