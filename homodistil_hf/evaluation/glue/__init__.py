"""The nine GLUE tasks: data, metrics, one evaluation; fine-tuning itself is shared with SQuAD."""
