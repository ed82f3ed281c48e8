"""How fast a run is, measured side by side with what a careful user would write; `homodistil bench` runs it."""

import os

# Before torch is imported: its profiler would tell about every start and stop; and large pages, as with `homodistil`.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
