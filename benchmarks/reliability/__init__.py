"""Fuzzing, kills and load: scripts that record, and the one that writes docs/reliability.md."""
