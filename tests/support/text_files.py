"""Files of text for tests of data, and their documents as they are read."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from homodistil_hf.data.corpus import load_text

BOTH = pytest.mark.parametrize("streaming", [False, True], ids=["table", "stream"])


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table(content), path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def json_lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def texts(source, **settings):
    dataset = load_text(source, **settings)
    assert list(dataset.features) == ["text"]
    assert isinstance(dataset, datasets.IterableDataset) == settings.get("streaming", False)
    return [row["text"] for row in dataset]
