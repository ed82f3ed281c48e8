"""All methods but HomoDistil (`trainer.py`), each in a folder or a file of `baselines/`; and code that they share."""
