"""What transformers' Trainer lacks: setup, checks, exact checkpoints, ranks, evaluation loop, publishing."""
