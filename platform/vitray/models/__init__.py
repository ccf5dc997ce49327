"""The Vision Transformer and its parts: pure torch, importable without Ray, MLflow or a dataset."""

from vitray.models.vit import VisionTransformer

__all__ = ["VisionTransformer"]
