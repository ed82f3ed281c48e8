"""Graphs of a student for other runtimes, each compared with the student in that runtime."""
