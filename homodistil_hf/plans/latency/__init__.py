"""How long a forward pass takes on this machine: teacher and students side by side, and what a plan would take."""
