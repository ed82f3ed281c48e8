"""Many runs of one file: a sweep's cells are trained one after the other, recorded, laid side by side and drawn."""
