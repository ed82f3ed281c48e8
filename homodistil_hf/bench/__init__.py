"""How fast a run is, measured side by side with what a careful user would write; `homodistil bench` runs it."""

import os

# Before torch is imported: its profiler would tell about every start and stop.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
