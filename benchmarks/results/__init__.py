"""What students are worth: scripts that measure, and those that write docs/results.md from records."""
