"""The laboratory of the book: protocol, records, experiments, claims, figures. `mtl_core` never imports it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the checkout: results/, book/ and .runs/ lie beside this package
