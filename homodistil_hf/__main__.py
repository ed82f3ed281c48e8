"""`python -m homodistil_hf …` is `homodistil …`; torchrun and accelerate launch it that way."""

import sys

from .cli import main

sys.exit(main())
