"""Whole runs: one JSON in, a folder with a student, tables and plots out."""
