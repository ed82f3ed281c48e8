"""Milliseconds of a forward pass on this machine: measured side by side, and predicted for a plan."""
