"""`homodistil demo`: a small teacher, two students of it, a table."""
