"""Width pruning of BERT-family encoders while they are distilled, as a `transformers.Trainer` extension."""
