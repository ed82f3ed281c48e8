r"""Serve one file of vectors in several sizes: by load, queries are encoded by a smaller or a larger member.

    homodistil distill --teacher my-embedding-model --train_data my.txt --nested \
      --student '["macs=0.5", "macs=0.25", "macs=0.125"]' --output_dir nested
    python examples/nested_sizes.py --folder nested --texts my.txt

The index is made once, by the largest; all sizes are in one space, so any of them may ask.
"""

import argparse
import json
import time
from pathlib import Path

from torch.nn.functional import normalize

from homodistil_hf import load_nested


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="output_dir of the nested run")
    parser.add_argument("--texts", required=True, help="file with a text a line")
    options = parser.parse_args()
    table = json.loads(Path(options.folder, "student", "nested.json").read_text(encoding="utf-8"))
    names = [member["name"] for member in table["members"]]
    sizes = {name: load_nested(options.folder, name) for name in names}  # the file is the same for all
    texts = [line for line in Path(options.texts).read_text(encoding="utf-8").splitlines() if line.strip()]
    if not texts:
        parser.error(f"--texts {options.texts}: no line has text")
    index = normalize(sizes[names[0]].encode(texts))

    # few queries at once are asked by the largest, many by the smallest
    for waiting in (1, 32, 128):
        name, queries = names[min(len(names) - 1, waiting // 32)], (texts * waiting)[:waiting]
        since = time.perf_counter()
        found = (normalize(sizes[name].encode(queries)) @ index.T).argmax(1)
        ms = 1000 * (time.perf_counter() - since) / waiting
        right = sum(texts[place] == query for place, query in zip(found.tolist(), queries, strict=True))
        print(f"{waiting} waiting: {name}, {ms:.1f} ms a query, {right} of {waiting} texts found again")


if __name__ == "__main__":
    main()
