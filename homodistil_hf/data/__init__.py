"""Text becomes blocks, blocks become masked batches; distillation/ compares models on them."""
