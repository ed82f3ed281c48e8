"""Files, settings and messages; nothing here depends on models.

Files are written as a whole or not at all, and read within bounds. Words and JSON become settings. Values and names
become parts of error messages.
"""
