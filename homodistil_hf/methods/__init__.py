"""Other ways to a student, one file a paper; HomoDistil itself is `trainer.py`, and none imports another."""
