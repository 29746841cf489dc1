"""Conflicting Gradients: models, gradients and methods of multi-task learning, thin on purpose."""

__version__ = "0.1.0"
