"""Files of text and rows, written for a test, and a mark that reads them as a table and as a stream."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

BOTH = pytest.mark.parametrize("streaming", [False, True], ids=["table", "stream"])


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
