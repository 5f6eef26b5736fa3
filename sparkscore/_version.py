"""The version of sparkscore, in one place."""

__version__ = "0.1.0"
