"""The trainers below HomoDistil's and their parts: checks, exact checkpoints, ranks, evaluation loop, publishing."""
