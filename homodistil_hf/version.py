"""The package's version, in the one place that setup.cfg, the exports and the model card read it from."""

__version__ = "0.1.0"
