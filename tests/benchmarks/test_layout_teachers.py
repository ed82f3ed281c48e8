import pytest
from datasets import Dataset

from benchmarks.studies.layout_teachers import SHAPES, new_model, trained_tokenizer
from homodistil_hf.models.widths import LayerWidths, widths_of


@pytest.mark.parametrize("layout", SHAPES)
def test_a_teacher_has_the_sizes_of_its_layout(layout):
    tokenizer = trained_tokenizer(Dataset.from_dict({"text": ["the cat sat on the mat", "a dog ran"]}))
    config = new_model(layout, tokenizer).config
    layer = LayerWidths(8, 32, SHAPES[layout]["intermediate_size"])
    assert (widths_of(config).hidden_size, widths_of(config).layers) == (256, (layer,) * 6)
    assert config.vocab_size == len(tokenizer)
    assert config.pad_token_id == tokenizer.pad_token_id
