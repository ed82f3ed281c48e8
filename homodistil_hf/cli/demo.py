"""`homodistil demo` and `homodistil cache`, the two that take no model. What they do isn't here."""

import logging
from dataclasses import asdict, dataclass, field
from typing import ClassVar

from .parsing import show_logs


@dataclass
class Demo:
    """Distil the small teacher that comes with the package to a quarter of its cost, and print what came out."""

    example: ClassVar[str] = "homodistil demo --output_dir runs/demo"
    output_dir: str = field(default="runs/demo", metadata={"help": "folder to write (default: runs/demo)"})
    seed: int = field(default=0, metadata={"help": "the same seed gives the same student (default: 0)"})
    max_steps: int = field(default=250, metadata={"help": "steps of each student, at least 10 (default: 250)"})

    def run(self) -> int:
        """Run the demo."""
        from ..experiments.demo.run import DemoSettings, run_demo

        show_logs()
        logging.getLogger("homodistil_hf").setLevel(logging.WARNING)  # its own lines are enough
        run_demo(DemoSettings(**asdict(self)))
        return 0


@dataclass
class Cache:
    """Say where caches are and how large, or remove them."""

    example: ClassVar[str] = "homodistil cache --clear"
    clear: bool = field(default=False, metadata={"help": "remove tokenized texts and latency tables"})

    def run(self) -> int:
        """Print the caches, or what their removal freed."""
        from ..files.caches import cache_folder, cache_sizes, clear_caches

        if self.clear:
            print(f"freed {clear_caches():,} bytes in {cache_folder()}")
            return 0
        for kind, size_bytes in cache_sizes().items():
            print(f"{cache_folder() / kind}: {size_bytes:,} bytes")
        return 0
