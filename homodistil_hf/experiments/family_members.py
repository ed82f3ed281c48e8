"""A finished member of a family as what the next one starts as."""

from collections.abc import Mapping
from pathlib import Path

import torch

from ..distillation.projections import Projections
from ..export.export_folder import load_export
from ..export.student_in_folder import STUDENT_FOLDER
from ..files.checkpoints import PROJECTIONS_FILE
from ..files.tensors import load_tensors
from ..models.architectures.architecture import PROJECTIONS
from ..models.architectures.modeling_layerwise import LayerwiseModel


def load_member(folder: Path) -> LayerwiseModel:
    """Load a finished member: its student, with the projections that it has learned."""
    student, tensors = load_export(folder / STUDENT_FOLDER), load_tensors(folder / PROJECTIONS_FILE)
    return with_projections(student, tensors) if tensors else student


def with_projections(student: LayerwiseModel, tensors: Mapping[str, torch.Tensor]) -> LayerwiseModel:
    """Give a student projections of these tensors: of hidden states, of embeddings, and others as they are named."""
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(("hidden.", "embedding."))}
    num_layers = sum(name.startswith("hidden.") for name in own)
    sizes = student.config.hidden_size, next(iter((own or tensors).values())).shape[0]
    projections = Projections(*sizes, num_hidden_layers=num_layers, with_embedding="embedding.weight" in own)
    projections.load_state_dict(own)
    for name in tensors.keys() - own.keys():
        projections.register_buffer(name.replace(".", "_"), tensors[name])
    student.add_module(PROJECTIONS, projections)
    return student
