"""Conflicting Gradients: models, gradients and methods of multi-task learning, thin on purpose."""

from importlib import import_module

__version__ = "0.2.0"
PUBLIC = {"Balancer": "balancer", "ConflictScores": "conflict", "METHODS": "methods", "RotoGrad": "methods"}
PUBLIC |= {"Task": "tasks", "fit": "training"}


def __getattr__(name: str):
    """The public names, imported when they are first used, since torch takes seconds."""
    if name not in PUBLIC:
        raise AttributeError(f"module 'mtl_core' has no attribute {name!r}")
    return getattr(import_module(f"mtl_core.{PUBLIC[name]}"), name)
