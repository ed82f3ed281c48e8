"""`homodistil demo`: a teacher made on this machine, a student of it, a table."""
