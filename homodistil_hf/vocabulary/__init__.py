"""Fewer tokens: the choice of those that stay, and the model and tokenizer that have only them."""
