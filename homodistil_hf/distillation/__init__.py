"""The frozen teacher, the loss terms and their sum. No optimizer, no pruning."""
