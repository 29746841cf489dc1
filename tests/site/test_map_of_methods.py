"""The map's own file beside the registry: complete, nothing else, and its pages exist."""

import pathlib
import re

import nbformat
import pytest
import yaml

from mtl_core.methods import METHODS

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTES = yaml.safe_load((ROOT / "notebooks" / "methods" / "methods.yml").read_text(encoding="utf-8"))
FIELDS = {"rule", "guarantee", "page", "control"}


def faults(notes, methods, root=ROOT):
    found = [f"{name}: no entry in notebooks/methods/methods.yml" for name in methods if name not in notes]
    found += [f"{name}: no such method" for name in notes if name not in methods]
    for name, entry in notes.items():
        found += [f"{name}: no {field}" for field in ("rule", "guarantee") if not entry.get(field)]
        found += [f"{name}: unknown field {field!r}" for field in set(entry) - FIELDS]
        found += [f"{name}: an odd number of $ in {entry[f]!r}" for f in entry if str(entry[f]).count("$") % 2]
        page = entry.get("page")
        sources = [root / "book" / page, root / page] if page else []
        if page and not any(source.exists() for source in sources):
            found.append(f"{name}: there is no page {page}")
    return found


def test_every_method_has_its_line():
    assert len(NOTES) > 20 and faults(NOTES, METHODS) == []


def test_faults_are_found():
    notes = {"a": {"rule": "$x$", "guarantee": "–"}}
    assert faults(notes, ["a"]) == []
    assert "no entry" in faults(notes, ["a", "b"])[0]
    assert "no such method" in faults(notes, [])[0]
    assert "no rule" in faults({"a": {"guarantee": "–"}}, ["a"])[0]
    assert "unknown field" in faults({"a": notes["a"] | {"colour": "red"}}, ["a"])[0]
    assert "odd number" in faults({"a": notes["a"] | {"rule": "$x"}}, ["a"])[0]
    assert "no page" in faults({"a": notes["a"] | {"page": "nowhere.md"}}, ["a"])[0]
    assert faults({"a": notes["a"] | {"page": "playground.md"}}, ["a"]) == []


def without(text):
    """What a reader lacks who wants to go from the equation to the line that computes it."""
    equation = "$$" in text or re.search(r"^1\. \$", text, re.MULTILINE)
    code = re.search(r"\{code-of\}|\{literalinclude\}|library_code\(|show\(\"\w+\", \w|one shown above", text)
    return [what for what, there in (("equation", equation), ("code", code)) if not there]


@pytest.mark.parametrize("name", METHODS)
def test_equation_and_code_stand_in_one_section_of_the_methods_page(name):
    page = NOTES[name]["page"]
    if page.endswith(".md"):
        text = (ROOT / "book" / page).read_text(encoding="utf-8")
    else:
        text = "\n\n".join(cell.source for cell in nbformat.read(ROOT / page, 4).cells)
        called = re.search(rf'(facts|show)\("{name}".*', text)  # ends the section of a method of a family
        if called:
            start = [heading.start() for heading in re.finditer(r"^##+ ", text[: called.start()], re.MULTILINE)][-1]
            text = text[start : called.end()]
    assert without(text) == []


def test_what_is_lacking_is_found():
    assert without("words") == ["equation", "code"] and without("$$ x $$\n") == ["code"]
    assert without("```{code-of} a.b\n```\n$x$ in a line") == ["equation"]
