"""Folders of sentence-transformers, old and new: what is read, what is refused, and the vectors that come out."""

import json
import re

import pytest
import torch
from rows import each
from safetensors.torch import load_file, save_file
from tiny_architectures import tiny_architecture_config
from tiny_embeddings import OLD, make_reranker, make_sentence_folder, write
from tiny_files import change_json
from tiny_models import VOCAB_SIZE, randomized, tiny_config, tiny_tokenizer
from torch.nn import functional as F
from transformers import BertModel, RobertaModel

from homodistil_hf.embedding.folder import write_model
from homodistil_hf.embedding.model import SCORE_KEYS, load_embedding_model, name_unused, reduced
from homodistil_hf.files.tensors import WEIGHTS_FILE
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.runs.embedding import planned_config

TEXTS = ["w7 w8 w9", "w10", "w11 w12 w13 w14 w15 w16"]


@pytest.mark.slow
@each("pooling", ["mean", "cls", "max", "lasttoken"])
def test_both_forms_give_the_same_model(tmp_path, pooling):
    shared = {"pooling": pooling, "dense": 5, "similarity_fn_name": "dot"}
    folders = [make_sentence_folder(tmp_path / str(is_new), is_new=is_new, **shared) for is_new in (False, True)]
    models = [load_embedding_model(folder) for folder in folders]
    for model in models:
        settings = model.settings
        assert (settings.pooling, settings.normalizes, settings.max_seq_length) == (pooling, True, 12)
        assert (model.dimension, settings.similarity, model.dense[0].activation) == (5, "dot", "Tanh")
    assert torch.equal(*(model.encode(TEXTS) for model in models))
    assert_as_the_library(folders[0])


@each(
    ("change", "message"),
    [
        (lambda found: found[:1], "has the modules Transformer; expected Transformer, Pooling"),
        (lambda found: [found[0], found[2], found[1]], "has the modules Transformer, Normalize, Pooling"),
        (lambda found: [found[0] | {"type": OLD.format("WordWeights")}, *found[1:]], "has the modules WordWeights"),
        (lambda found: [found[0] | {"path": "../x"}, *found[1:]], r"path='\.\./x'; expected a folder beside it"),
        (lambda found: [found[0], found[1] | {"type": "evil.Pooling"}], "has the modules Transformer, evil.Pooling; "),
        (lambda found: {"modules": found}, "expected a list of modules"),
        (lambda found: [{"idx": 0}], "expected a list of modules, each with type and path"),
    ],
)
def test_modules_that_a_student_could_not_repeat_are_refused(tmp_path, change, message):
    folder = make_sentence_folder(tmp_path / "model")
    write(folder / "modules.json", change(json.loads((folder / "modules.json").read_text())))
    with pytest.raises(ValueError, match=message):
        load_embedding_model(folder)


def test_settings_that_a_student_could_not_repeat_are_refused(tmp_path):
    folder = make_sentence_folder(tmp_path / "model", dense=4)
    write(folder / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True})
    for read in (load_embedding_model, lambda folder: planned_config(str(folder))):
        with pytest.raises(ValueError, match=r"pools by \['cls', 'mean'\]; expected one of cls, mean"):
            read(folder)
    write(folder / "1_Pooling" / "config.json", {"pooling_mode": "mean", "include_prompt": False})
    with pytest.raises(ValueError, match="include_prompt=false"):
        load_embedding_model(folder)
    write(folder / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    write(folder / "2_Dense" / "config.json", {"activation_function": "os.system"})
    with pytest.raises(ValueError, match="activation_function='os.system' in 2_Dense; expected one of Identity"):
        load_embedding_model(folder)


@each(
    ("place", "values", "said"),
    [
        ("", {"requirements": ["x"]}, r"requirements=\['x'\] of config_sentence_transformers"),
        ("1_Pooling", {"scale": 2}, "scale=2 of 1_Pooling/config.json"),
        ("config_setfit.json", {"labels": ["a"]}, r"SetFit's config_setfit\.json"),
        ("chat_template.jinja", {}, "the tokenizer's chat_template"),
        ("1_Pooling", {"include_prompt": True, "scale": None}, None),
        ("2_Dense", {"module_input_name": "sentence_embedding", "use_residual": False}, None),
    ],
)
def test_what_is_not_used_is_named(tmp_path, caplog, place, values, said):
    folder = make_sentence_folder(tmp_path / "model", dense=5)
    if "." in place:
        write(folder / place, values)
    else:
        change_json(folder / place / ("config.json" if place else "config_sentence_transformers.json"), **values)
    for read in (load_embedding_model, lambda folder: planned_config(str(folder))):
        caplog.clear()
        read(folder)
        found = re.search(f"model': not used, and left out of the student: {said}", caplog.text)
        assert not caplog.text if said is None else found


def test_what_the_library_saves_is_known(tmp_path, caplog):
    library_model(make_sentence_folder(tmp_path / "model", dense=5)).save_pretrained(str(tmp_path / "saved"))
    assert load_embedding_model(tmp_path / "saved").dimension == 5
    library = pytest.importorskip("sentence_transformers")
    library.CrossEncoder(str(make_reranker(tmp_path / "pairs"))).save_pretrained(str(tmp_path / "ranks"))
    name_unused(str(tmp_path / "ranks"), [""], "teacher", read=SCORE_KEYS)
    assert "not used" not in caplog.text
    change_json(tmp_path / "ranks" / "config_sentence_transformers.json", prompts={"query": "w7"})
    name_unused(str(tmp_path / "ranks"), [""], "teacher", read=SCORE_KEYS)
    assert "not used, and left out of the student: prompts={'query': 'w7'} of config_sentence_tr" in caplog.text


@each("normalizes", [False, True])
@each("dense", [None, 20])
def test_vectors_are_cut_as_the_library_cuts_them(tmp_path, dense, normalizes):
    folder = make_sentence_folder(tmp_path / "model", dense=dense, normalizes=normalizes, truncate_dim=8)
    model = load_embedding_model(folder)
    assert model.dimension == 8
    (tmp_path / "written").mkdir()
    write_model(model, tmp_path / "written")
    for one in (folder, tmp_path / "written"):
        assert_as_the_library(one)
    # along axes, a layer selects the channels
    along = reduced(model, torch.eye(8)[2:5]).encode(TEXTS)
    expected = model.encode(TEXTS)[:, 2:5]
    assert torch.allclose(along, F.normalize(expected, dim=-1) if normalizes else expected, atol=1e-6)


@each(
    ("folder", "values"),
    [("2_Dense", {"use_residual": True}), ("3_Normalize", {"module_output_name": "token_embeddings_normed"})],
)
def test_keys_that_make_other_vectors_are_refused(tmp_path, folder, values):
    model = make_sentence_folder(tmp_path / "model", dense=32)
    write(model / folder / "config.json", {"in_features": 32, "out_features": 32} | values)
    with pytest.raises(
        ValueError, match=f"has {next(iter(values))}=.* in {folder}/config.json, which a student could"
    ):
        load_embedding_model(model)


def test_other_folders_are_refused(tmp_path):
    BertModel(tiny_config()).save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"has no modules.json; name a folder that sentence-transformers has written"):
        load_embedding_model(tmp_path / "plain")
    folder = make_sentence_folder(tmp_path / "model")
    change_json(folder / "config.json", model_type="gpt2")
    with pytest.raises(ValueError, match="model_type='gpt2'; expected one of bert"):
        load_embedding_model(folder)


@each(
    ("values", "message"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000; expected a whole number from 1 to 1024"),
        ({"vocab_size": 1 << 23, "hidden_size": 1 << 12}, "its config.json describes"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "brings its own modelling code"),
        ({"is_decoder": True}, "only encoders are supported"),
    ],
)
def test_configurations_are_checked_before_weights_are_read(tmp_path, values, message):
    folder = make_sentence_folder(tmp_path / "teacher")
    change_json(folder / "config.json", **values)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_embedding_model(folder)


@pytest.mark.slow
@each(
    ("file", "values", "message"),
    [
        ("config_sentence_transformers.json", {"prompts": ["query: "]}, "expected an object: name → text"),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}, "expected an object: name → text or null"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "angle"}, "expected one of cosine, dot, euclid"),
        ("config_sentence_transformers.json", {"default_prompt_name": ["query"]}, "expected a name"),
        ("config_sentence_transformers.json", {"truncate_dim": 0}, "truncate_dim=0; expected a whole number of at"),
        ("sentence_bert_config.json", {"max_seq_length": "12"}, "expected a whole number"),
        ("sentence_bert_config.json", {"max_seq_length": -1}, "max_seq_length=-1; expected a whole number of at"),
        ("sentence_bert_config.json", {"do_lower_case": "no"}, "expected true or false"),
    ],
)
def test_settings_of_other_types_are_refused(tmp_path, file, values, message):
    folder = make_sentence_folder(tmp_path / "teacher")
    change_json(folder / file, **values)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_embedding_model(folder)


def test_a_folder_without_vocabulary_is_refused(tmp_path):
    folder = make_sentence_folder(tmp_path / "teacher")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="teacher': its tokenizer has no vocabulary beside special tokens; copy it"):
        load_embedding_model(folder)
    words = tiny_tokenizer().convert_ids_to_tokens(range(VOCAB_SIZE))
    (folder / "vocab.txt").write_text("\n".join(words))
    assert load_embedding_model(folder).tokenizer("w7")["input_ids"] == [2, 7, 3]


@each(
    ("weights", "values", "message"),
    [
        (str, {"vocab_size": VOCAB_SIZE - 6}, r"word_embeddings.weight of the shape .*describes .*; mend config.json"),
        (str, {"num_labels": 3, "type_vocab_size": 3}, r"token_type_.*describes \(3, .*; mend config.json"),
        (lambda name: name.replace("layer.1", "layer.7"), {}, r"has no weights for .*layer\.1\..*download it again"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, caplog, weights, values, message):
    folder = make_sentence_folder(tmp_path / "teacher")
    change_json(folder / "config.json", **values)
    tensors = load_file(folder / "model.safetensors")
    save_file({weights(name): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=rf"teacher=.*{message}"):
        load_embedding_model(folder)
    assert "LOAD REPORT" not in caplog.text


@each(
    "tensors",
    [
        {},
        {"linear.weight": torch.zeros(5)},
        {"linear.weight": torch.zeros(5, 32, 1)},
        {"linear.weight": torch.zeros(5, 32), "linear.bias": torch.zeros(5, 1)},
        {"linear.weight": torch.zeros(5, 32), "other": torch.zeros(5)},
    ],
)
def test_layers_of_other_shapes_are_named(tmp_path, tensors):
    folder = make_sentence_folder(tmp_path / "x", dense=5)
    save_file(tensors, folder / "2_Dense" / "model.safetensors")
    with pytest.raises(ValueError, match=r"has tensors of the shapes .* in 2_Dense; expected linear.weight \(outputs"):
        load_embedding_model(folder)


def test_a_pooler_may_be_missing(tmp_path):
    folder = make_sentence_folder(tmp_path / "teacher")
    tensors = load_file(folder / "model.safetensors")
    assert any(name.startswith("pooler.") for name in tensors)
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
    whole = load_embedding_model(folder).encode(TEXTS)
    save_file(rest, folder / "model.safetensors")
    assert torch.equal(load_embedding_model(folder).encode(TEXTS), whole)


def test_a_model_of_one_segment_is_given_none(tmp_path):
    encoder = randomized(BertModel(tiny_config(type_vocab_size=1)))
    model = load_embedding_model(make_sentence_folder(tmp_path / "model", encoder=encoder))
    assert "token_type_ids" not in model.tokenizer.model_input_names
    assert model.tokenizer("w5", "w6").keys() == {"input_ids", "attention_mask"}


def test_an_embedding_model_with_inf_is_named(tmp_path):
    folder = make_sentence_folder(tmp_path / "model", dense=8)
    tensors = load_file(folder / "2_Dense" / WEIGHTS_FILE)
    tensors["linear.weight"][0, 0] = float("-inf")
    save_file(tensors, folder / "2_Dense" / WEIGHTS_FILE)
    with pytest.raises(ValueError, match="^teacher='.*' has 1 × Inf among the 256 values of weight"):
        load_embedding_model(folder)


def library_model(folder):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    return library.SentenceTransformer(str(folder))


def assert_as_the_library(folder):
    expected = library_model(folder).encode(TEXTS, convert_to_tensor=True)
    assert torch.allclose(load_embedding_model(folder).encode(TEXTS), expected, atol=1e-6)


@pytest.mark.slow
@each("name", ["roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"])
def test_settings_have_seven_names(tmp_path, name):
    folder = make_sentence_folder(tmp_path / "model")
    (folder / "sentence_bert_config.json").unlink()
    write(folder / f"sentence_{name}_config.json", {"max_seq_length": 4, "do_lower_case": True})
    settings = load_embedding_model(folder).settings
    assert (settings.max_seq_length, settings.lowers) == (4, True)
    assert_as_the_library(folder)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 5, "do_lower_case": False})
    assert load_embedding_model(folder).settings.max_seq_length == library_model(folder).max_seq_length == 5


def test_prompts_may_be_null(tmp_path):
    folder = make_sentence_folder(tmp_path / "model", prompts={"query": None, "document": "w8 "})
    model, stock = load_embedding_model(folder), library_model(folder)
    assert model.settings.prompts == stock.prompts == {"query": "", "document": "w8 "}
    for name, encode in (("query", stock.encode_query), ("document", stock.encode_document)):
        expected = encode(TEXTS, convert_to_tensor=True)
        assert torch.allclose(model.encode(TEXTS, prompt_name=name), expected, atol=1e-6)


def pickle_layer(folder, content=None):
    weights = folder / "2_Dense" / "model.safetensors"
    torch.save(load_file(weights) if content is None else content, folder / "2_Dense" / "pytorch_model.bin")
    weights.unlink()


def test_layers_may_be_pickled(tmp_path):
    folder = make_sentence_folder(tmp_path / "model", dense=5)
    whole = load_embedding_model(folder).encode(TEXTS)
    pickle_layer(folder)
    assert torch.equal(load_embedding_model(folder).encode(TEXTS), whole)
    assert_as_the_library(folder)


@each("content", [torch.nn.Linear(3, 2), [1, 2], {"linear.weight": 3}])
def test_pickles_of_other_things_are_refused(tmp_path, content):
    folder = make_sentence_folder(tmp_path / "model", dense=5)
    pickle_layer(folder, content)
    with pytest.raises(ValueError, match=r"pytorch_model.bin' is cut off or no pickle of tensors alone"):
        load_embedding_model(folder)


def test_another_padding_in_the_configuration_is_taken_where_positions_do_not_depend_on_it(tmp_path):
    """As in multilingual-e5-small, whose configuration names the token that begins every text."""
    folder = make_sentence_folder(tmp_path / "model")
    change_json(folder / "config.json", pad_token_id=2)
    model = load_embedding_model(folder)
    padding = model.encoder.get_input_embeddings().padding_idx
    assert padding == model.encoder.config.pad_token_id == model.tokenizer.pad_token_id == 0
    assert_as_the_library(folder)


def test_another_padding_is_refused_where_positions_begin_behind_it(tmp_path):
    encoder = randomized(RobertaModel(tiny_architecture_config(ARCHITECTURES["roberta"], pad_token_id=1)))
    folder = make_sentence_folder(tmp_path / "model", encoder=encoder)
    with pytest.raises(ValueError, match="pad_token_id=1 in its config.json, but its tokenizer pads with 0, and posi"):
        load_embedding_model(folder)


def test_a_pooler_that_no_file_has_is_the_same_in_every_process(tmp_path):
    folder = make_sentence_folder(tmp_path / "model")
    (file,) = folder.glob("**/model.safetensors")
    weights = {name: tensor for name, tensor in load_file(file).items() if "pooler" not in name}
    save_file(weights, file, metadata={"format": "pt"})
    digests = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        digests.add(load_embedding_model(folder).sha256)
    assert len(digests) == 1
