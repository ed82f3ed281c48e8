"""What a model is worth: official metrics of GLUE and SQuAD, and the fine-tuning that measures them."""
