"""Measurements and the pages written from them: speed, results, reliability; not part of the wheel."""
