"""What the student learns from: teacher, terms, losses and their sum; no optimizer, no pruning."""
