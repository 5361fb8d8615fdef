"""Midge boots OCI images as fast virtual machines on hardware you own."""

__version__ = "0.1.0"
