"""Models of every architecture with fewer tokens: the same outputs, positions and files, for text of kept tokens."""

import copy
import json

import numpy as np
import pytest
import torch
from rows import each
from tiny_architectures import FAMILIES, tiny_architecture_teacher
from tiny_models import make_teacher
from tiny_tokenizers import paragraphs, trained_tokenizer
from transformers import AddedToken, AutoModelForMaskedLM, AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from homodistil_hf.data.masking import unmaskable_ids
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.conversion import to_student
from homodistil_hf.vocabulary.trimming import candidates, trim_tokenizer, trim_vocabulary, trimmed_config

TOKENIZER = trained_tokenizer("BPE")
SPECIAL = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
TEXTS = ["the teacher and the student", "hidden states of a layer"]


def teacher_of(architecture, head, **config):
    values = {"vocab_size": len(TOKENIZER), **SPECIAL, **config}
    return tiny_architecture_teacher(architecture, head, **values).double().eval()


def wanted_ids():
    return sorted({token for ids in TOKENIZER(TEXTS)["input_ids"] for token in ids})


def outputs_of(model, tokenizer, texts=TEXTS):
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return model(**encoded, output_hidden_states=True), encoded


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "heads", "config"), FAMILIES.values(), ids=FAMILIES)
@each("head", "heads")
def test_outputs_are_those_of_the_tokens_that_stay(architecture, head, config):
    model = teacher_of(architecture, head, **config)
    trimmed, tokenizer = trim_vocabulary(model, TOKENIZER, wanted_ids())
    assert trimmed.config.vocab_size == len(tokenizer) < len(TOKENIZER)
    (before, old), (after, new) = outputs_of(model, TOKENIZER), outputs_of(trimmed, tokenizer)
    kept = [TOKENIZER.convert_tokens_to_ids(token) for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    assert torch.equal(torch.tensor(kept)[new["input_ids"]], old["input_ids"])
    torch.testing.assert_close(after.hidden_states[-1], before.hidden_states[-1], rtol=0, atol=1e-12)
    if head.kind.name == "masked_lm":
        torch.testing.assert_close(after.logits, before.logits[..., kept], rtol=0, atol=1e-6)
    elif head.kind.name != "question_answering":
        torch.testing.assert_close(after.logits, before.logits, rtol=0, atol=1e-6)
    assert model.config.vocab_size == len(TOKENIZER)


@pytest.mark.slow
@each("architecture", ARCHITECTURES.values())
def test_pad_ids_that_address_positions_stay(architecture):
    head = architecture.heads[-1]
    model = teacher_of(architecture, head)
    trimmed, tokenizer = trim_vocabulary(model, TOKENIZER, wanted_ids())
    assert trimmed.config.pad_token_id == tokenizer.pad_token_id == 1
    moved = teacher_of(architecture, head, pad_token_id=4)
    _, required, _ = candidates(TOKENIZER, moved.config)
    assert set(range(5)) <= required


@pytest.mark.parametrize("tied", [True, False])
def test_decoders_stay_tied_or_untied(tied):
    model = make_teacher(vocab_size=len(TOKENIZER), tie_word_embeddings=tied, **SPECIAL)
    trimmed, _ = trim_vocabulary(model, TOKENIZER, wanted_ids())
    assert (trimmed.get_output_embeddings().weight is trimmed.get_input_embeddings().weight) is tied
    for name, tensor in trimmed.state_dict().items():
        assert tensor.shape[0] != len(TOKENIZER), name


def test_rows_without_a_token_go_and_students_are_trimmed_alike():
    model = make_teacher(vocab_size=len(TOKENIZER) + 27, **SPECIAL)
    everything = list(range(len(TOKENIZER)))
    trimmed, _ = trim_vocabulary(model, TOKENIZER, everything)
    assert trimmed.config.vocab_size == len(TOKENIZER)
    student, _ = trim_vocabulary(to_student(model), TOKENIZER, everything)
    batch = TOKENIZER(TEXTS, padding=True, return_tensors="pt")
    assert torch.equal(student.eval()(**batch).logits, trimmed.eval()(**batch).logits)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])
def test_saved_tokenizers_come_back_as_they_were(kind, tmp_path):
    whole = trained_tokenizer(kind)
    model = make_teacher(vocab_size=len(whole), pad_token_id=whole.pad_token_id)
    trimmed, tokenizer = trim_vocabulary(model, whole, range(200, 400))
    trimmed.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, model = AutoTokenizer.from_pretrained(tmp_path), AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert loaded(paragraphs())["input_ids"] == tokenizer(paragraphs())["input_ids"]
    assert max(map(max, loaded(paragraphs())["input_ids"])) < model.config.vocab_size == len(loaded)
    assert loaded.special_tokens_map == whole.special_tokens_map
    assert loaded.model_input_names == whole.model_input_names
    names = {path.name for path in tmp_path.iterdir()}
    assert names.isdisjoint({"vocab.txt", "vocab.json", "merges.txt", "spm.model", "sentencepiece.bpe.model"})
    assert "added_tokens_decoder" not in json.loads((tmp_path / "tokenizer_config.json").read_text())


@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])
def test_special_tokens_of_ones_own_stay_special(kind, tmp_path):
    whole = copy.deepcopy(trained_tokenizer(kind))
    own = ["<e1>", AddedToken("<e2>", lstrip=True)]
    whole.add_special_tokens({"extra_special_tokens": own})
    whole.add_tokens([AddedToken("<marked>", special=True)], special_tokens=True)
    small, _ = trim_tokenizer(whole, make_teacher(vocab_size=len(whole), pad_token_id=whole.pad_token_id).config, [])
    small.save_pretrained(tmp_path)
    text = "the <e1> teacher  <e2> of <marked> a layer"
    for tokenizer in (small, AutoTokenizer.from_pretrained(tmp_path)):
        assert tokenizer.all_special_tokens == whole.all_special_tokens
        assert "<e1>" in tokenizer.all_special_tokens
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True).split() == [
            *("the", "teacher", "of", "a", "layer")
        ]
        for token in ("<e1>", "<e2>", "<marked>"):
            old, new = (each.added_tokens_decoder[each.convert_tokens_to_ids(token)] for each in (whole, tokenizer))
            assert old.__getstate__() == new.__getstate__()
        ids = np.array([tokenizer.convert_tokens_to_ids(token) for token in ("<e1>", "<e2>")])
        assert np.isin(ids, unmaskable_ids(tokenizer)).all()


def test_named_special_tokens_of_ones_own_stay_named():
    whole = copy.deepcopy(TOKENIZER)
    whole.add_tokens([AddedToken("<entity>", special=True)], special_tokens=True)
    named = PreTrainedTokenizerFast(
        tokenizer_object=whole.backend_tokenizer, entity_token="<entity>", **whole.special_tokens_map
    )
    small, _ = trim_tokenizer(named, make_teacher(vocab_size=len(named), **SPECIAL).config, [])
    assert small.entity_token == "<entity>"
    assert small.all_special_tokens == named.all_special_tokens


def test_trimming_twice_is_trimming_once():
    model = make_teacher(vocab_size=len(TOKENIZER), **SPECIAL)
    wide, tokenizer = trim_vocabulary(model, TOKENIZER, range(200, 600))
    wanted = [tokenizer.convert_tokens_to_ids(TOKENIZER.convert_ids_to_tokens(old)) for old in wanted_ids()]
    twice, last = trim_vocabulary(wide, tokenizer, [token for token in wanted if token != tokenizer.unk_token_id])
    once, at_once = trim_vocabulary(model, TOKENIZER, [old for old in wanted_ids() if 200 <= old < 600])
    assert last.get_vocab() == at_once.get_vocab()
    for one, other in zip(twice.state_dict().values(), once.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_tokenizers_that_can_not_be_trimmed_are_refused():
    model = make_teacher(vocab_size=len(TOKENIZER), **SPECIAL)
    with pytest.raises(ValueError, match=r"kept=\[5000\] are ids that the tokenizer doesn't have"):
        trim_vocabulary(model, TOKENIZER, [5000])

    class Slow:
        pass

    with pytest.raises(ValueError, match="tokenizer=Slow has no tokenizer.json"):
        trim_vocabulary(model, Slow(), [5])


@pytest.mark.slow
def test_a_real_vocabulary_keeps_its_text(real_data):
    tokenizer = AutoTokenizer.from_pretrained(real_data / "teacher")
    assert isinstance(tokenizer, BertTokenizer)
    config = make_teacher(vocab_size=len(tokenizer)).config
    small, kept = trim_tokenizer(tokenizer, config, range(2000, 9000))
    known = set(kept)
    texts = [text for text in paragraphs() if set(tokenizer(text)["input_ids"]) <= known]
    assert len(texts) > 5
    for text in texts:
        assert [kept[token] for token in small(text)["input_ids"]] == tokenizer(text)["input_ids"]


def test_ids_with_gaps_that_would_be_numbered_anew_are_refused():
    vocab = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 10, "b": 12, "ab": 20}
    tokenizer = BertTokenizer(vocab=vocab)
    tokenizer.add_tokens(["zz"])
    with pytest.raises(ValueError, match=r"can't be trimmed: 'zz' would have other ids"):
        trim_tokenizer(tokenizer, make_teacher(vocab_size=24).config, [8, 10, 20])


def test_settings_of_a_tokenizer_and_lists_of_ids_stay(tmp_path):
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.split_special_tokens, tokenizer.chat_template = True, "{{ messages }}"
    config = make_teacher(vocab_size=len(tokenizer), **SPECIAL | {"eos_token_id": [3, 40]}).config
    trimmed, kept = trim_tokenizer(tokenizer, config, [20, 30])
    assert (trimmed.split_special_tokens, trimmed.chat_template) == (True, "{{ messages }}")
    assert {3, 40} <= {*kept}
    assert trimmed_config(config, kept).eos_token_id == [kept.index(3), kept.index(40)]
