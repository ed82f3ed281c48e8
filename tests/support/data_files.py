"""Files of text and rows, written for a test, and their documents as a table or a stream has them."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from rows import each

from homodistil_hf.data.corpus import load_text

BOTH = each("streaming", [False, True])


def write(path: Path, content: Any) -> Path:
    """Write text, bytes, or the columns of a parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table(content), path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def json_lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def texts(source: Any, **settings: Any) -> list[str]:
    """Read documents as a table, or with `streaming` as a stream."""
    dataset = load_text(source, **settings)
    assert list(dataset.features) == ["text"]
    assert isinstance(dataset, datasets.IterableDataset) == settings.get("streaming", False)
    return [row["text"] for row in dataset]
