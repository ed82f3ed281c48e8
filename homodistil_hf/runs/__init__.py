"""Whole runs, a file a kind: one JSON in, a folder with a student and its results out."""
