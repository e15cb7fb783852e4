"""The version of rft: of the package, of datasets and of questions that it writes."""

__version__ = "0.2.0"
