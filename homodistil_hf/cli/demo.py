"""`homodistil demo` and `homodistil cache`, the two commands that take no model."""

from dataclasses import asdict, dataclass
from typing import ClassVar

from ..files.settings import flag
from .command import Command, show_logs


@dataclass
class Demo(Command):
    """Distil the small teacher that comes with the package to a sixteenth of its MACs, and print what came out."""

    example: ClassVar[str] = "homodistil demo --output_dir runs/demo"
    output_dir: str = flag("folder to write (default: runs/demo)", default="runs/demo")
    seed: int = flag("the same seed gives the same student (default: 0)", default=0)
    max_steps: int = flag("steps of each student, at least 10 (default: 250)", default=250)

    def run(self) -> int:
        """Run the demo."""
        from ..runs.demo.run import DemoSettings, run_demo

        show_logs(is_main_process=False)  # warnings alone: its own lines are enough
        run_demo(DemoSettings(**asdict(self)))
        return 0


@dataclass
class Cache(Command):
    """Print the cache's folder and size, or remove it."""

    example: ClassVar[str] = "homodistil cache --clear"
    clear: bool = flag("remove tokenized texts", default=False)

    def run(self) -> int:
        """Print the cache, or what its removal freed."""
        from ..files.caches import cache_folder, cache_size, clear_cache

        if self.clear:
            print(f"freed {clear_cache():,} bytes in {cache_folder()}")
        else:
            print(f"{cache_folder() / 'datasets'}: {cache_size():,} bytes")
        return 0
