"""Sibling methods: baselines that share the data, the losses and the evaluation of HomoDistil."""
