"""One training loop for every method: `fit` trains, `evaluate` measures, `Schedule` says how long and how fast."""

from mtl_core.training.loop import History, evaluate, fit
from mtl_core.training.schedule import Schedule

__all__ = ["History", "Schedule", "evaluate", "fit"]
