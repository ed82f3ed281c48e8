"""Encoders: loading a teacher, widths and costs, copying into a student, resizing; it trains nothing."""
