"""Further pre-training on texts and on images: tiny data of both, a tiny ViT-MAE, and equality of weights."""

import pytest
import torch
from tiny_models import make_blocks, randomized, tiny_tokenizer
from transformers import ViTMAEConfig, ViTMAEForPreTraining


def make_image_model():
    """8 × 8 pixels in 16 patches, 2 layers × 32 hidden, decoder 1 × 16."""
    sizes = {"image_size": 8, "patch_size": 2, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    torch.manual_seed(1)
    config = ViTMAEConfig(
        **sizes, **decoder, intermediate_size=64, decoder_intermediate_size=32, norm_pix_loss=True, mask_ratio=0.75
    )
    return randomized(ViTMAEForPreTraining(config))


def make_images(num_images=32):
    generator = torch.Generator().manual_seed(0)
    return [{"pixel_values": torch.randn(3, 8, 8, generator=generator), "label": 0} for _ in range(num_images)]


TEXT, IMAGES = "text", "images"
KINDS = pytest.mark.parametrize("kind", [TEXT, IMAGES])


def data_of(kind):
    if kind == IMAGES:
        return {"train_dataset": make_images()}
    return {"train_dataset": make_blocks(), "processing_class": tiny_tokenizer()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def differs(one, other):
    return any(not torch.equal(one[name], other[name]) for name in one)
