"""Fewer tokens: the choice of the tokens that stay, and a model and a tokenizer with these tokens alone."""
