"""Rows of a task, of any kind: files, columns, labels and words become tokenized rows."""
