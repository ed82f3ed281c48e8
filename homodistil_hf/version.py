"""The package's version; setup.cfg, the exports and the model card read it from here."""

__version__ = "0.1.0"
