"""What the tests of all methods take from pruning without gradients: see tests/support/methods_here.py."""

PUBLIC_NAMES = ["GradientFreeSettings", "prune_gradient_free"]
