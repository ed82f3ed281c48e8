"""Is further pre-training worth it, and self-distillation more? Three arms, fine-tuned, on text and on images."""
