"""Encoders: loading, widths and costs, copying into a student, resizing. Nothing here is trained."""
