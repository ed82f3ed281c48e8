"""The quality of students: scripts that measure, and page.py, which writes docs/results.md from records."""
