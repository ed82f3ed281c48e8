"""Text becomes blocks, blocks become masked batches; what the model learns from them is not here."""
