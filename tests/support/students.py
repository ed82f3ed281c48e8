"""Tiny students, batches, masks and checkpoints, and two slow references of a student without its dropped units."""

import copy
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_models import VOCAB_SIZE, make_teacher
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from homodistil_hf.distillation.projections import Projections
from homodistil_hf.export.facts import all_logits
from homodistil_hf.files.checkpoints import SCORES_FILE, STATE_FILE, write_manifest
from homodistil_hf.files.strict_json import write_json
from homodistil_hf.models.architectures.architecture import PROJECTIONS
from homodistil_hf.models.architectures.modeling_layerwise import LayerwiseModel
from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.saved_student import save_projections, weights_without_projections
from homodistil_hf.models.units import Group, Slice, UnitTensors, encoder_groups
from homodistil_hf.models.widths import LayerWidths, WidthPlan
from homodistil_hf.pruning.compaction import compact
from homodistil_hf.pruning.masks import choose_masks, full_masks
from homodistil_hf.pruning.pruner import Pruner

TASKS = ("masked_lm", "sequence_classification", "token_classification", "question_answering")
KINDS = ("hidden", "head", "query_key", "value_output", "ffn")
WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
NUM_TOKENS, NUM_PADDED = 12, 4

FULL = WidthPlan.uniform(32, 2, LayerWidths(4, 8, 64))
UNIFORM = WidthPlan.uniform(16, 2, LayerWidths(2, 5, 24))
UNEVEN = WidthPlan(19, (LayerWidths(3, 5, 16), LayerWidths(1, 8, 41)))


def make_student(task: str = "masked_lm", *, dtype: torch.dtype = torch.float32, init: str = "random", **config):
    """A student with projections and without dropout, noise on every parameter."""
    student = to_student(make_teacher(task, **WITHOUT_DROPOUT | config))
    size, num_layers = student.config.hidden_size, student.config.num_hidden_layers
    student.add_module(PROJECTIONS, Projections(size, size, num_hidden_layers=num_layers, init=init))
    return student.to(dtype)


def make_batch(task: str = "masked_lm", *, num_rows: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tokens, the first row padded, with the labels of a task."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int, shape: tuple[int, ...], low: int = 0) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator)

    tokens_BT = draw(VOCAB_SIZE, (num_rows, NUM_TOKENS), low=5)
    mask_BT = torch.ones_like(tokens_BT)
    mask_BT[0, -NUM_PADDED:] = 0
    tokens_BT[mask_BT == 0] = 0
    chosen_BT = (draw(4, tokens_BT.shape) == 0) & (mask_BT == 1)
    labels = {
        "masked_lm": {"labels": draw(VOCAB_SIZE, tokens_BT.shape).masked_fill(~chosen_BT, -100)},
        "sequence_classification": {"labels": draw(2, (num_rows,))},
        "token_classification": {"labels": draw(2, tokens_BT.shape).masked_fill(mask_BT == 0, -100)},
        "replaced_tokens": {"labels": draw(2, tokens_BT.shape).masked_fill(mask_BT == 0, -100)},
        "question_answering": {name: draw(8, (num_rows,)) for name in ("start_positions", "end_positions")},
    }
    return {"input_ids": tokens_BT, "attention_mask": mask_BT} | labels[task]


def unlabelled(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a model reads; the rest is what it is trained and scored by."""
    return {name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in inputs}


def make_batches(num_batches: int = 3) -> list[dict[str, torch.Tensor]]:
    """Batches of random tokens without labels."""
    return [unlabelled(make_batch(seed=seed)) for seed in range(num_batches)]


def make_inputs(config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """Random tokens and segments without labels, the first row padded."""
    inputs = unlabelled(make_batch())
    generator = torch.Generator().manual_seed(1)
    shape = inputs["input_ids"].shape
    return inputs | {"token_type_ids": torch.randint(config.type_vocab_size, shape, generator=generator)}


@torch.no_grad()
def logits_of(model: nn.Module, inputs: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
    """The logits of any head in evaluation mode, by default on [`make_inputs`]."""
    inputs = make_inputs(model.config) if inputs is None else unlabelled(inputs)
    # Past the autocast of training; a `FrozenTeacher` is no module.
    outputs = type(model).forward(model.eval(), **inputs) if isinstance(model, nn.Module) else model(**inputs)
    return outputs["prediction_logits"] if "prediction_logits" in outputs else all_logits(outputs)


def assert_same_logits(found: torch.Tensor, expected: torch.Tensor) -> None:
    """DESIGN tolerance: 1e-5 × max(1, largest |logit|) in float32, 1e-9 in float64."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    tolerance = 1e-5 * max(1.0, float(expected.abs().max())) if expected.dtype == torch.float32 else 1e-9
    assert float((found - expected).abs().max()) <= tolerance


def random_scores(groups: Mapping[str, Group], seed: int = 0) -> UnitTensors:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(group.num_units, generator=generator) for name, group in groups.items()}


def masked(student: LayerwiseModel, plan: WidthPlan, seed: int = 0) -> tuple[dict[str, Group], UnitTensors]:
    """Groups, and masks that keep random units; the student stays as it is."""
    groups = encoder_groups(student)
    return groups, choose_masks(random_scores(groups, seed), full_masks(groups), plan=plan)


def kept_plan(masks: UnitTensors) -> WidthPlan:
    """The widths that masks leave."""
    layers = []
    for layer in range(sum(name.startswith("head.") for name in masks)):
        num_heads, num_channels, num_neurons = (
            int(masks[f"{kind}.{layer}"].sum()) for kind in ("head", "query_key", "ffn")
        )
        layers.append(LayerWidths(num_heads, num_channels // num_heads, num_neurons))
    return WidthPlan(int(masks["hidden"].sum()), tuple(layers))


def sliced(student: LayerwiseModel, plan: WidthPlan, seed: int = 0) -> UnitTensors:
    """Remove random units, down to a plan; the masks."""
    groups, masks = masked(student, plan, seed)
    compact(student, groups, masks, plan=plan)
    return masks


def write_checkpoint(folder: Path, pruner: Pruner, **state: Any) -> Path:
    """What a run leaves, as far as it is the student's and the pruner's."""
    model, layers = pruner.model, pruner.full.layers
    model.save_pretrained(folder, state_dict=weights_without_projections(model))
    save_projections(folder, model)
    save_file(pruner.state_tensors(), folder / SCORES_FILE)
    values = {
        "method": "homodistil",
        "student": None,
        "card": {},
        "full": pruner.full.to_dict(),
        "plan": pruner.target.to_dict(),
        "is_finished": pruner.plan_reached,
        "kept_heads": [list(range(layer.num_attention_heads)) for layer in layers],
        "settings": {},
        "logs": {},
        "pruner": pruner.state_dict(),
    }
    write_json(folder / STATE_FILE, values | state)
    write_manifest(folder)
    return folder


def indices_of(piece: Slice, unit: int) -> torch.Tensor:
    """Where a unit lies along the dimension of one of its slices."""
    return torch.tensor([unit]) if piece.units is None else (piece.units.unit_of_index == unit).nonzero().flatten()


@torch.no_grad()
def zero_dropped(tensors: Mapping[str, torch.Tensor], groups: Mapping[str, Group], masks: UnitTensors) -> None:
    """Zero what belongs to dropped units, unit by unit."""
    for name, group in groups.items():
        for unit in (~masks[name]).nonzero().flatten().tolist():
            for piece in group.slices:
                if piece.parameter in tensors:
                    tensors[piece.parameter].index_fill_(piece.dim, indices_of(piece, unit), 0.0)


def zeroed_copy(student: LayerwiseModel, masks: UnitTensors) -> LayerwiseModel:
    """The same student, as wide as before: dropped units are zero, statistics are those of the kept channels."""
    zeroed = copy.deepcopy(student)
    zero_dropped(dict(zeroed.named_parameters()), encoder_groups(student), masks)
    for norm in zeroed.modules():
        if isinstance(norm, nn.LayerNorm):
            kept = next(masks[name] for name in ("hidden", "embedding") if len(masks[name]) == len(norm.weight))
            norm.forward = partial(_norm_of_kept, norm, kept)
        elif type(norm).__name__.endswith("RMSNorm"):
            # over hidden channels, or over those of a head, which are two of every pair
            is_hidden = len(norm.weight) == len(masks["hidden"])
            kept = masks["hidden"] if is_hidden else masks["query_key.all"].repeat(2)
            norm.forward = partial(_rms_norm_of_kept, norm, kept)
    return zeroed


def _norm_of_kept(norm: nn.LayerNorm, kept: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    centred = x[..., kept] - x[..., kept].mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    indices = kept.nonzero().flatten()
    bias = 0.0 if norm.bias is None else norm.bias[kept]
    return torch.zeros_like(x).index_copy(-1, indices, normed * norm.weight[kept] + bias)


def _rms_norm_of_kept(norm: nn.Module, kept: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    x = x.masked_fill(~kept, 0.0)
    mean_square = x.square().sum(-1, keepdim=True) / kept.sum()
    if hasattr(norm, "eps"):  # Gemma's weights count from 1
        return (1.0 + norm.weight) * x / (mean_square + norm.eps).sqrt()
    return norm.weight * x / (mean_square + norm.variance_epsilon).sqrt()


def slow_logits(
    weights: Mapping[str, torch.Tensor], inputs: Mapping[str, torch.Tensor], masks: UnitTensors, *, head_dim: int
) -> torch.Tensor:
    """BERT for masked words, written out unit by unit: what is dropped is never touched.

    `weights` are those of the whole student, `masks` may keep any units. The logits of all tokens.
    """
    kept = masks["hidden"]

    def linear(x: torch.Tensor, name: str, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        return x @ weights[f"{name}.weight"][rows][:, columns].T + weights[f"{name}.bias"][rows]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return normed * weights[f"{name}.weight"][kept] + weights[f"{name}.bias"][kept]

    tokens_BT, mask_BT = inputs["input_ids"], inputs["attention_mask"].bool()
    words, positions, types = (
        weights[f"bert.embeddings.{name}_embeddings.weight"][:, kept] for name in ("word", "position", "token_type")
    )
    x = norm(words[tokens_BT] + positions[: tokens_BT.shape[1]] + types[0], "bert.embeddings.LayerNorm")
    for index in range(sum(name.startswith("head.") for name in masks)):
        layer = f"bert.encoder.layer.{index}"
        attended = weights[f"{layer}.attention.output.dense.bias"][kept]
        for head in masks[f"head.{index}"].nonzero().flatten().tolist():
            in_head = torch.arange(len(masks[f"query_key.{index}"])) // head_dim == head
            compared, carried = (masks[f"{kind}.{index}"] & in_head for kind in ("query_key", "value_output"))
            query, key = (linear(x, f"{layer}.attention.self.{name}", compared, kept) for name in ("query", "key"))
            scores_BTT = query @ key.transpose(1, 2) / head_dim**0.5
            scores_BTT = scores_BTT.masked_fill(~mask_BT[:, None, :], -torch.inf)
            value = linear(x, f"{layer}.attention.self.value", carried, kept)
            output = weights[f"{layer}.attention.output.dense.weight"][kept][:, carried]
            attended = attended + scores_BTT.softmax(-1) @ value @ output.T
        x = norm(x + attended, f"{layer}.attention.output.LayerNorm")
        neurons = F.gelu(linear(x, f"{layer}.intermediate.dense", masks[f"ffn.{index}"], kept))
        x = x + linear(neurons, f"{layer}.output.dense", kept, masks[f"ffn.{index}"])
        x = norm(x, f"{layer}.output.LayerNorm")
    x = F.gelu(linear(x, "cls.predictions.transform.dense", kept, kept))
    x = norm(x, "cls.predictions.transform.LayerNorm")
    return x @ words.T + weights["cls.predictions.bias"]
