"""The laboratory of the book: protocol, records, experiments, claims, figures. `mtl_core` never imports it."""

from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the checkout: results/, book/ and .runs/ lie beside this package
if _missing := [name for name in ("filelock", "matplotlib", "tqdm", "typer", "yaml") if find_spec(name) is None]:
    raise ImportError(
        f'the laboratory needs {", ".join(_missing)}, not installed here: pip install "conflicting-gradients[lab]"'
    )
