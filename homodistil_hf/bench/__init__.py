"""How fast a run is, measured side by side with what a careful user would write; `homodistil bench` runs it."""
