"""The public names, one line each: type checkers read this file, and `__init__.py` imports a name when it is used."""

from .data.blocks import tokenize_to_blocks as tokenize_to_blocks
from .data.corpus import load_text as load_text
from .data.lengths import by_length as by_length
from .data.masking import MaskedLMCollator as MaskedLMCollator
from .data.samples import unlabeled_batches as unlabeled_batches
from .embedding.cascade import Cascade as Cascade
from .embedding.model import load_embedding_model as load_embedding_model
from .embedding.multi_vector import load_multi_vector_model as load_multi_vector_model
from .embedding.multi_vector_trainer import MultiVectorDistilArguments as MultiVectorDistilArguments
from .embedding.multi_vector_trainer import MultiVectorDistilTrainer as MultiVectorDistilTrainer
from .embedding.reranker import RerankerDistilArguments as RerankerDistilArguments
from .embedding.reranker import RerankerDistilTrainer as RerankerDistilTrainer
from .embedding.reranker import tokenize_pairs as tokenize_pairs
from .embedding.sparse import load_sparse_model as load_sparse_model
from .embedding.sparse_trainer import SparseDistilArguments as SparseDistilArguments
from .embedding.sparse_trainer import SparseDistilTrainer as SparseDistilTrainer
from .embedding.texts import tokenize_texts as tokenize_texts
from .embedding.trainer import EmbeddingDistilArguments as EmbeddingDistilArguments
from .embedding.trainer import EmbeddingDistilTrainer as EmbeddingDistilTrainer
from .embedding.vectors import TeacherVectors as TeacherVectors
from .embedding.vectors import load_teacher_vectors as load_teacher_vectors
from .embedding.vectors import tokenize_vectors as tokenize_vectors
from .export.export_folder import export_student as export_student
from .homodistil_args import HomoDistilTrainingArguments as HomoDistilTrainingArguments
from .methods.baselines.one_shot import OneShotArguments as OneShotArguments
from .methods.baselines.one_shot import OneShotTrainer as OneShotTrainer
from .methods.binarization.binarizing import to_binary as to_binary
from .methods.binarization.bit_products import multiply_bits as multiply_bits
from .methods.binarization.folder import export_packed as export_packed
from .methods.binarization.stages import BinarizationArguments as BinarizationArguments
from .methods.binarization.stages import BinarizationTrainer as BinarizationTrainer
from .methods.formats import deploy_export as deploy_export
from .methods.formats import load_nested as load_nested
from .methods.formats import verify_export as verify_export
from .methods.gradient_free.pruning import GradientFreeSettings as GradientFreeSettings
from .methods.gradient_free.pruning import prune_gradient_free as prune_gradient_free
from .methods.self_distillation.rounds import self_distill as self_distill
from .methods.self_distillation.trainer import SelfDistillationArguments as SelfDistillationArguments
from .methods.self_distillation.trainer import SelfDistillTrainer as SelfDistillTrainer
from .models.architectures import max_tokens as max_tokens
from .models.architectures.modeling_homobert import HomoBertConfig as HomoBertConfig
from .models.architectures.modeling_homobert import HomoBertForMaskedLM as HomoBertForMaskedLM
from .models.architectures.modeling_homobert import HomoBertForQuestionAnswering as HomoBertForQuestionAnswering
from .models.architectures.modeling_homobert import (
    HomoBertForSequenceClassification as HomoBertForSequenceClassification,
)
from .models.architectures.modeling_homobert import HomoBertForTokenClassification as HomoBertForTokenClassification
from .models.architectures.modeling_homobert import HomoBertModel as HomoBertModel
from .models.widths import LayerWidths as LayerWidths
from .models.widths import WidthPlan as WidthPlan
from .plans.resolve import PRESETS as PRESETS
from .plans.resolve import resolve_plan as resolve_plan
from .trainer import HomoDistilTrainer as HomoDistilTrainer
from .training_args import DistillationArguments as DistillationArguments
from .version import __version__ as __version__
