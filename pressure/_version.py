"""The one place that holds the version; read without importing the package's dependencies."""

__version__ = "1.0.0.dev0"
