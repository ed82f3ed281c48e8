"""Names and files that stay inside a folder, whatever a record lists and wherever links lead."""

import os
import shutil

import pytest

from homodistil_hf.files.inside import files_inside, is_inside, links_out, links_to_folders, refuse_links_out


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "export"
    (folder / "onnx").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "onnx" / "model.onnx").write_text("graph")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("secret")
    return folder


def test_files_of_a_folder_are_named_from_it(folder):
    assert files_inside(folder) == {
        "config.json": folder / "config.json",
        "onnx/model.onnx": folder / "onnx" / "model.onnx",
    }
    assert links_out(folder) == []
    refuse_links_out(folder)


@pytest.mark.parametrize("target", ("../secret/key", "../secret", "missing", "{secret}", "loop"))
def test_a_link_that_leads_out_is_named_and_no_file(folder, target):
    os.symlink(target.format(secret=folder.parent / "secret" / "key"), folder / "loop")
    assert links_out(folder) == ["loop"]
    assert files_inside(folder).keys() == {"config.json", "onnx/model.onnx"}
    with pytest.raises(ValueError, match="has the link 'loop' to .*; put the file itself there, or remove the link"):
        refuse_links_out(folder)


def test_a_file_behind_a_linked_folder_is_outside(folder):
    os.symlink("../secret", folder / "sub")
    assert (folder / "sub" / "key").is_file()
    assert not is_inside(folder, "sub/key")
    assert is_inside(folder, "onnx/model.onnx")


def test_a_link_inside_counts_as_its_file(folder):
    os.symlink("onnx/model.onnx", folder / "graph")
    assert files_inside(folder).keys() == {"config.json", "graph", "onnx/model.onnx"}


def test_links_of_the_hubs_cache_lead_to_its_blobs(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    (tmp_path / "models--a--b" / "blobs" / "123").write_text("{}")
    (tmp_path / "models--a--b" / "key").write_text("secret")
    os.symlink("../../blobs/123", snapshot / "config.json")
    assert files_inside(snapshot).keys() == {"config.json"}
    os.symlink("../config.json", (snapshot / "sub").mkdir() or snapshot / "sub" / "config.json")
    assert is_inside(snapshot / "sub", "config.json")
    os.symlink("../../blobs/../key", snapshot / "key")
    assert links_out(snapshot) == ["key"]


def test_a_copy_goes_round_in_no_link(folder):
    for name in ("loop", "onnx/up"):
        os.symlink("..", folder / name)
    os.symlink("../config.json", folder / "onnx" / "config.json")
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy, ignore=links_to_folders)
    assert files_inside(copy).keys() == {"config.json", "onnx/config.json", "onnx/model.onnx"}
    assert sorted(os.listdir(copy)) == ["config.json", "onnx"]
