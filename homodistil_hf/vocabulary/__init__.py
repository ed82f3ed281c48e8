"""Fewer tokens: which are worth a row of the table, and the model and tokenizer that have only those."""
