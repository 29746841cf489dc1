"""Puts the checkout onto Python's path: the laboratory lies beside the book and is not installed."""

import pathlib
import sys

ROOT = str(pathlib.Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)
