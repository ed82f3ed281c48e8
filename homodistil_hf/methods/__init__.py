"""Other ways to a student: one file a paper."""
