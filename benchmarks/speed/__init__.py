"""How fast training and students are, beside what a careful user would write; docs/performance.md, docs/latency.md."""
