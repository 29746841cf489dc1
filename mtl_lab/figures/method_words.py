"""What each method does, in half a sentence, for readers who meet its name in a figure: book/papers/methods.yml."""

from collections.abc import Iterable

from mtl_lab.claims import printed_tables
from mtl_lab.files import read_yaml


def who(names: Iterable[str]):
    """A folded list of these methods, in the file's order; a name without words is left out."""
    from IPython.display import Markdown

    words = read_yaml(printed_tables.ROOT / "methods.yml")
    asked = set(names)
    listed = "\n".join(f"- **{name}**: {said}." for name, said in words.items() if name in asked)
    return Markdown(f"<details><summary>What each method does, in half a sentence</summary>\n\n{listed}\n\n</details>")
