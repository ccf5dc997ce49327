"""vitray: train and tune Vision Transformers on a Ray cluster."""

__all__ = ["__version__"]
__version__ = "0.1.0"
