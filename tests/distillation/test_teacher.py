import pytest
import torch
from rows import each
from students import TASKS, logits_of, make_batch, unlabelled
from tiny_models import make_teacher
from torch import nn

from homodistil_hf.distillation.teacher import FrozenTeacher, multiplies_bfloat16, resolve_teacher_dtype
from homodistil_hf.models.architectures.modeling_layerwise import encoder_layers
from homodistil_hf.models.compiling import compile_layers, compiling_problem
from homodistil_hf.models.conversion import to_student

CPU = torch.device("cpu")
HALF = each("dtype", [torch.bfloat16, torch.float16])


def make_frozen(task: str = "masked_lm", dtype: torch.dtype = torch.float32, **config: object) -> FrozenTeacher:
    return FrozenTeacher(to_student(make_teacher(task, **config)), dtype=dtype)


def called(teacher: FrozenTeacher, **settings: object):
    return lambda **inputs: teacher(**inputs, **settings)


# Types


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_named_type_is_taken(name):
    assert resolve_teacher_dtype(name, CPU) == resolve_teacher_dtype(name, CPU, fp16=True) == getattr(torch, name)


@pytest.mark.parametrize("native", [True, False])
def test_each_device_is_asked_its_own_question(native, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native
    )
    assert multiplies_bfloat16(CPU) is native
    assert resolve_teacher_dtype("auto", CPU) == (torch.bfloat16 if native else torch.float32)
    assert resolve_teacher_dtype("auto", CPU, fp16=True) == torch.float16
    assert multiplies_bfloat16(torch.device("cuda")) is native
    assert multiplies_bfloat16(torch.device("meta")) is False


# The two forms


@pytest.mark.slow
@HALF
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_the_fast_form_is_autocast_of_the_exact_one(task, tied, dtype):
    teacher, inputs = make_frozen(task, dtype, tie_word_embeddings=tied), make_batch(task)
    with torch.autocast("cpu", dtype=dtype):
        expected = logits_of(teacher.exact, inputs)
    fast, exact = logits_of(called(teacher), inputs), logits_of(called(teacher, exact=True), inputs)
    assert torch.equal(fast, expected)
    assert fast.dtype == expected.dtype
    assert exact.dtype == torch.float32
    assert 0 < float((fast.float() - exact).abs().max()) < 0.1


@pytest.mark.slow
@each("task", TASKS)
def test_the_exact_form_is_the_model_whatever_stands_around_it(task):
    inputs = make_batch(task)
    expected = logits_of(make_teacher(task), inputs)
    for teacher in (make_frozen(task), make_frozen(task, torch.bfloat16)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(logits_of(called(teacher, exact=True), inputs), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(logits_of(called(make_frozen(task)), inputs), expected)


def test_only_matrices_change_their_type_and_the_rest_is_shared():
    teacher = make_frozen(dtype=torch.bfloat16)
    exact = dict(teacher.exact.named_parameters(remove_duplicate=False))
    linear = {name for name, module in teacher.fast.named_modules() if isinstance(module, nn.Linear)}
    halved = set()
    for name, parameter in teacher.fast.named_parameters(remove_duplicate=False):
        assert exact[name].dtype == torch.float32
        if parameter.dtype == torch.bfloat16:
            halved.add(name)
            assert torch.equal(parameter, exact[name].bfloat16())
        else:
            assert parameter is exact[name]
    assert halved == {f"{name}.{part}" for name in linear for part in ("weight", "bias")}
    assert "cls.predictions.decoder.weight" in halved


def test_in_float32_there_is_one_form():
    teacher = make_frozen()
    assert teacher.fast is teacher.exact


def test_to_moves_both_forms_and_returns_the_teacher():
    teacher = make_frozen(dtype=torch.bfloat16)
    assert teacher.to(torch.device("meta")) is teacher
    devices = {p.device.type for form in (teacher.exact, teacher.fast) for p in form.parameters()}
    assert devices == {"meta"}
    embeddings = [form.bert.embeddings.word_embeddings.weight for form in (teacher.exact, teacher.fast)]
    assert embeddings[0].dtype == embeddings[1].dtype == torch.float32


# Frozen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_teacher_never_learns(dtype):
    model = to_student(make_teacher(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)).train()
    teacher = FrozenTeacher(model, dtype=dtype)
    for form in (teacher.exact, teacher.fast):
        assert not any(parameter.requires_grad for parameter in form.parameters())
        assert not any(module.training for module in form.modules())
    with torch.enable_grad():
        outputs = teacher(**unlabelled(make_batch()), output_hidden_states=True)
    assert not outputs.logits.requires_grad
    assert not any(state.requires_grad for state in outputs.hidden_states)
    assert outputs.logits.is_inference()
    assert torch.equal(teacher(**unlabelled(make_batch())).logits, outputs.logits)


@pytest.mark.slow
@pytest.mark.skipif(compiling_problem() is not None, reason=str(compiling_problem()))
def test_a_compiled_teacher_says_the_same():
    plain, compiled = make_frozen(dtype=torch.bfloat16), make_frozen(dtype=torch.bfloat16)
    compile_layers(compiled.fast, backend="aot_eager")
    inputs = unlabelled(make_batch())
    torch.testing.assert_close(compiled(**inputs).logits, plain(**inputs).logits)
    layers = [
        [layer._compiled_call_impl for layer in encoder_layers(form)] for form in (compiled.fast, compiled.exact)
    ]
    assert None not in layers[0]
    assert layers[1] == [None] * len(layers[0])
