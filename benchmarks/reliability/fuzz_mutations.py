"""Valid input → hostile input: the same draw gives the same damage, on any machine.

Structure is damaged rather than bytes: values change type or size, keys are lost or doubled, names lead elsewhere.
"""

import contextlib
import copy
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.csv
import pyarrow.parquet
import safetensors.torch
import torch

from homodistil_hf.export.facts import FACTS_FILE, file_facts
from homodistil_hf.files import checkpoints

PATHS = (
    "../../escaped", "/etc/passwd", "~", "~no_such_user/x", "C:\\x", "a\0b", ".", "..", "", "x" * 300, "a/../../b",
)  # fmt: skip
STRINGS = (
    *PATHS, " ", "x" * 10_000, "\ud800", "🙂" * 100, "𝔘𝔫𝔦", "e\u0301\u202e", "true", "1e9", "NaN", "-1", "None",
    "${HOME}", "%s%n", "{0}", "<script>", "---\nlicense: evil", "a,b;c", "__class__", "torch.load", "evil/repo--x.Y",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 3, 7, 8, 255, 4096, 10**6, 2**31 - 1, 2**31, 2**63, -(2**63), 10**30, 10**399, 0.0, -0.0, 0.5, -0.5,
    1.5, 1e-300, 1e300, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip


def hostile_value(draw: Random) -> Any:
    """A value that stands where another type or size is expected."""
    kind = draw.randrange(10)
    if kind < 3:
        return draw.choice(STRINGS)
    if kind < 7:
        return draw.choice(NUMBERS)
    if kind == 7:
        return draw.choice((None, True, False))
    if kind == 8:
        return draw.choice(([], {}, [[]], {"": None}, [None] * 50, ["x"], [1, "a", None], {"a": {"b": []}}))
    return nested(draw.choice((5, 200)), draw)


def nested(depth: int, draw: Random) -> Any:
    """Lists or objects, one in the other."""
    value: Any = None
    in_list = draw.random() < 0.5
    for _ in range(depth):
        value = [value] if in_list else {"a": value}
    return value


def mutated(value: Any, draw: Random) -> Any:
    """A copy of a JSON value, damaged in one to four places."""
    root = [copy.deepcopy(value)]
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        holder, key = draw.choice(list(places(root)))
        draw.choice(_OPERATIONS)(holder, key, draw)
    return root[0] if root else None


def places(holder: Any) -> Iterator[tuple[Any, Any]]:
    """Each key or number of a JSON value, with the object or list that holds it."""
    items = holder.items() if isinstance(holder, dict) else enumerate(holder)
    for key, value in list(items)[:200]:
        yield holder, key
        if isinstance(value, dict | list):
            yield from places(value)


def _replace(holder: Any, key: Any, draw: Random) -> None:
    leads_elsewhere = isinstance(holder[key], str) and draw.random() < 0.5
    holder[key] = draw.choice(PATHS) if leads_elsewhere else hostile_value(draw)


def _swap_type(holder: Any, key: Any, draw: Random) -> None:
    value = holder[key]
    choices: list[Callable[[], Any]] = [lambda: [value], lambda: {"value": value}, lambda: str(value)]
    if isinstance(value, int | float) and abs(value) < 1e300:
        choices += [lambda: -value, lambda: value + 1, lambda: value * 1000, lambda: float(value), lambda: bool(value)]
    if isinstance(value, str):
        choices += [lambda: value + "x", lambda: value.upper(), lambda: value * 50, lambda: value[:-1]]
    if isinstance(value, list):
        choices += [lambda: value * 3, lambda: value[1:], lambda: dict(enumerate(map(str, value)))]
    holder[key] = draw.choice(choices)()


def _delete(holder: Any, key: Any, draw: Random) -> None:
    if isinstance(holder, dict):
        del holder[key]
    elif len(holder) > 1:
        holder.pop(key)


def _rename(holder: Any, key: Any, draw: Random) -> None:
    if isinstance(holder, dict):
        name = str(key)
        holder[draw.choice((name + "s", name.upper(), draw.choice(STRINGS), "to_dict", "__class__"))] = holder.pop(key)


def _add(holder: Any, key: Any, draw: Random) -> None:
    if isinstance(holder, dict):
        name = draw.choice(
            ("attn_implementation", "dtype", "quantization_config", *map(draw.choice, (PATHS, STRINGS)))
        )
        holder[name] = hostile_value(draw)
    else:
        holder.insert(0, hostile_value(draw))


def _exchange(holder: Any, key: Any, draw: Random) -> None:
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    other = draw.choice(keys)
    holder[key], holder[other] = holder[other], holder[key]


_OPERATIONS = (_replace, _replace, _replace, _swap_type, _swap_type, _delete, _rename, _add, _exchange)


def json_bytes(value: Any, draw: Random) -> bytes:
    """JSON text of a value, one time in five damaged as text."""
    text = json.dumps(value, ensure_ascii=draw.random() < 0.5)
    content = text.encode("utf-8", "surrogatepass")
    return draw.choice(_TEXT_DAMAGES)(content, draw) if draw.random() < 0.2 else content


_TEXT_DAMAGES: tuple[Callable[[bytes, Random], bytes], ...] = (
    lambda content, draw: content[: draw.randrange(len(content) + 1)],
    lambda content, draw: b"\xef\xbb\xbf" + content,
    lambda content, draw: content.decode("utf-8", "replace").encode("utf-16"),
    lambda content, draw: content[: len(content) // 2] + b"\xff\xfe" + content[len(content) // 2 :],
    lambda content, draw: content.replace(b"{", b'{"a": 1, "a": 2, ', 1),
    lambda content, draw: content.replace(b": ", b": " + b"[" * draw.choice((3, 100_000)), 1),
    lambda content, draw: content.replace(b": ", b": " + b"9" * draw.choice((500, 5000)), 1),
    lambda content, draw: content.replace(b": ", b": 1e999, ", 1),
    lambda content, draw: content.replace(b'"', b'"\x00', 1),
    lambda content, draw: content + b"}",
    lambda content, draw: b"",
    lambda content, draw: b" \n",
    lambda content, draw: flipped(content, draw),
)


def flipped(content: bytes, draw: Random) -> bytes:
    """A few bytes replaced."""
    damaged = bytearray(content)
    for _ in range(min(len(damaged), draw.choice((1, 3, 20)))):
        damaged[draw.randrange(len(damaged))] = draw.randrange(256)
    return bytes(damaged)


def write_hostile(path: Path, content: bytes, draw: Random) -> None:
    """Write a file, or now and then something else in its place: nothing, a folder, a link, a pipe."""
    removed(path)
    kind = draw.random()
    if kind < 0.96:
        path.write_bytes(content)
    elif kind < 0.97:
        path.mkdir()
    elif kind < 0.98:
        os.mkfifo(path)
    elif kind < 0.99:
        path.symlink_to(draw.choice((path.name, "/dev/zero", "/etc/passwd", "missing")))


def safetensors_bytes(content: bytes, draw: Random) -> bytes:
    """A safetensors file with another tensor, another header, another length of it, or other bytes behind it."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    kind = draw.randrange(8 if names else 2)
    if kind == 0:
        return content[: draw.randrange(len(content))]
    if kind == 1:
        return draw.choice((2**63, 2**64 - 1, 10**8, length + 1, 0, length - 1)).to_bytes(8, "little") + content[8:]
    if kind < 4:
        return safetensors.torch.save(damaged_tensors(safetensors.torch.load(content), draw))
    if kind == 4:
        data = draw.choice((data + b"\0" * 8, data[:-8], b"", flipped(data, draw)))
    elif kind == 5:
        _damage_entry(header[draw.choice(names)], draw)
    else:
        header = mutated(header, draw)
    text = json_bytes(header, draw)
    return len(text).to_bytes(8, "little") + text + data


def _damage_entry(entry: dict[str, Any], draw: Random) -> None:
    (begin, end), shape = entry["data_offsets"], entry["shape"]
    others = {
        "data_offsets": ([begin - 4, end], [0, end - begin], [end, begin], [begin, end + 2**40]),
        "dtype": ("I32", "U32", "F16", "F64", "BOOL", "F4", "X", "f32", "C64", "F8_E4M3"),
        "shape": (shape[::-1], [*shape, 1], [], [2**40, 2**40], [-1], [0]),
    }
    name = draw.choice(list(others))
    entry[name] = draw.choice(others[name])


def damaged_tensors(tensors: dict[str, torch.Tensor], draw: Random) -> dict[str, torch.Tensor]:
    """The tensors but for one, which is lost, or has another name, type, size or value."""
    name = draw.choice(sorted(tensors))
    tensor = tensors.pop(name)
    value, flat = draw.choice((0.0, float("nan"), float("inf"), -1e30)), tensor.flatten()
    others = [tensor.double(), tensor.long(), tensor.bool(), tensor.half(), tensor.to(torch.int8)]
    others += [tensor[None], flat[:-1], flat[:0], torch.cat([flat, flat]), torch.full(tensor.shape, value)]
    names = (name, name, name, f"{name}9", "hidden.0", name.replace("0", "7"))
    return draw.choice((tensors, *[tensors | {draw.choice(names): draw.choice(others).clone()}] * 8))


def hostile_text(draw: Random) -> str:
    """Text of every unpleasant kind, up to a hundred thousand characters."""
    word = draw.choice(
        ("w7", "w8 ", "unknown", " ", "\n\n", "\0", "\ud800", "\r\n", "\u2028", "[MASK]", "🙂", "e\u0301", "\ufeff")
    )
    return word * draw.choice((0, 1, 30, 1000, 40_000)) + draw.choice(STRINGS)


_MAGIC = (b"\x1f\x8b\x08\0", b"PK\x03\x04", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"PAR1")
_BYTES = (b"", b" ", b"\n\n\n\n", b"\0" * 5000, b"\xff\xfe" * 50, b"\r\n" * 100, b"\xed\xa0\x80")


def file_content(draw: Random) -> bytes:
    """Bytes of a file that calls itself text."""
    kind = draw.randrange(7)
    if kind == 0:
        return draw.randbytes(draw.choice((1, 100, 5000)))
    if kind == 1:
        return draw.choice(_MAGIC) + draw.randbytes(200)
    if kind == 2:
        return draw.choice(_BYTES)
    if kind in (3, 4):
        rows = [{"text": "w7 w8 " * 30, "n": [1, {"a": 2}]}] * 5
        return table_bytes(rows, draw.choice((".jsonl", ".parquet")), draw)
    return hostile_text(draw).encode("utf-8", "surrogatepass")


def table_bytes(rows: list[Any], suffix: str, draw: Random) -> bytes:
    """A file of damaged rows; JSON instead where no table can hold them."""
    damaged = mutated(rows, draw)
    if suffix == ".jsonl" and isinstance(damaged, list):
        return b"\n".join(json_bytes(row, draw) for row in damaged)
    if suffix in (".csv", ".parquet"):
        with contextlib.suppress(Exception):
            buffer, table = io.BytesIO(), pyarrow.Table.from_pylist(damaged)
            (pyarrow.csv.write_csv if suffix == ".csv" else pyarrow.parquet.write_table)(table, buffer)
            return flipped(buffer.getvalue(), draw) if draw.random() < 0.3 else buffer.getvalue()
    return json_bytes(damaged, draw)


def write_mutated(path: Path, values: Any, draw: Random) -> None:
    """Write a damaged copy of a JSON value."""
    write_hostile(path, json_bytes(mutated(values, draw), draw), draw)


def folder_damaged(folder: Path, draw: Random, files: str = "*") -> None:
    """Damage one of the files that match a pattern; mostly, digests then agree, as a careful forger would see to."""
    path = draw.choice([path for path in sorted(folder.rglob(files)) if path.suffix in _DAMAGES])
    write_hostile(path, _DAMAGES[path.suffix](path.read_bytes(), draw), draw)
    if draw.random() < 0.25:
        return
    if (path.parent / checkpoints.MANIFEST_NAME).is_file() and path.name != checkpoints.MANIFEST_NAME:
        checkpoints.write_manifest(path.parent)
    facts_file = folder / FACTS_FILE
    if facts_file.is_file() and path != facts_file:
        values = json.loads(facts_file.read_text(encoding="utf-8"))
        facts_file.write_text(json.dumps(values | {"files": file_facts(folder)}), encoding="utf-8")


_DAMAGES: dict[str, Callable[[bytes, Random], bytes]] = {
    ".json": lambda content, draw: json_bytes(mutated(json.loads(content), draw), draw),
    ".safetensors": safetensors_bytes,
    ".py": flipped,
    ".md": flipped,
}


def removed(path: Path) -> Path:
    """A path where nothing is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    return path


def emptied(folder: Path) -> Path:
    """A folder without content."""
    removed(folder).mkdir(parents=True)
    return folder
