"""Fuzzing, kills and scaling: scripts that record, and the one that writes docs/reliability.md."""
