"""Other ways to a student: a file a paper, and what several of them share; HomoDistil itself is the trainer."""
