"""Our docstrings for `sphinx.ext.autodoc`, which reads reStructuredText: they are plain text with Markdown's marks.

`code`, $formula$ and $$formula$$ become what Sphinx has for them, and an aligned block

    name   what it is,
           over several lines
    other  …

becomes a list of definitions. What is not such a mark is shown as it stands.

    ```{names} api/balancer       a line for each name that this page describes: a link and its first sentence
    ```

Signatures have short names of types, and defaults as the source writes them. The list's lines have the ids of the
entries, members too: addresses from when all entries were on one page still lead there.
"""

import dataclasses
import importlib
import inspect
import pathlib
import re

import checkout  # noqa: F401 (before mtl_core)
from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

MARK = re.compile(r"`([^`]+)`|\$([^$]+)\$|\*(\w[^*]*\w|\w)\*")
ENTRY = re.compile(r"(\S.*?) {2,}(\S.*)")


def inline(text):
    """One paragraph."""
    found, end = [], 0
    for mark in [*MARK.finditer(text), None]:
        found.append(re.sub(r"([\\*|_`])", r"\\\1", text[end : mark and mark.start()]))
        if mark is not None:
            code, formula, stressed = mark.groups()
            found.append(f"\\ ``{code}``\\ " if code else f"\\ :math:`{formula}`\\ " if formula else f"*{stressed}*")
            end = mark.end()
    return "".join(found)


def paragraph(lines):
    """Lines without an empty one among them: aligned entries become definitions, the rest is text."""
    parts = []  # [name or None, text]
    for line in lines:
        entry = ENTRY.fullmatch(line)
        if entry and (not parts or parts[-1][0] or line is lines[0]):
            parts.append([entry[1], entry[2]])
        elif parts and (line[0] == " " or parts[-1][0] is None):
            parts[-1][1] += f"\n{line.strip()}"
        else:
            parts.append([None, line.strip()])
    shown = []
    for name, text in parts:
        words = inline(text).split("\n")
        shown += [_names(name), *(f"    {line}" for line in words), ""] if name else [*words, ""]
    return shown


def _names(text):
    return f"``{text}``" if re.fullmatch(r"[\w, ]+", text) else inline(text)


def restructured(lines):
    """The lines of a docstring as reStructuredText."""
    shown = []
    for n, part in enumerate("\n".join(lines).split("$$")):
        if n % 2:
            shown += ["", ".. math::", "", *(f"    {line.strip()}" for line in part.strip().split("\n")), ""]
            continue
        for block in re.split(r"\n\s*\n", part.strip("\n")):
            shown += paragraph([line for line in block.split("\n") if line.strip()])
    return shown


class names_of_page(nodes.General, nodes.Element):
    """Stands for the list until the page whose names it has is read."""


class Names(SphinxDirective):
    required_arguments = 1

    def run(self):
        page = self.arguments[0]
        source = pathlib.Path(self.env.doc2path(page))
        self.env.note_dependency(str(source))
        text = source.read_text(encoding="utf-8") if source.exists() else ""
        said = {}
        for kind, name, words in ENTRIES.findall(text):
            module, _, last = name.rpartition(".")
            found = importlib.import_module(module)
            self.env.note_dependency(found.__file__)
            said[name] = words if kind == "py:data" else inspect.getdoc(getattr(found, last)) or ""
        return [names_of_page("", page=page, said={name: sentence(words) for name, words in said.items()})]


ENTRIES = re.compile(r"^\.\. (auto\w+|py:data):: (\S+)$(?:\n\n {4}(\S.*)$)?", re.MULTILINE)


def sentence(text):
    """The first one of a docstring, without what follows a colon in it."""
    first = " ".join(re.split(r"\n\s*\n|\n\S+ {2,}", text.strip())[0].split()).replace("``", "`")
    return re.split(r"(?<=[.:;])\s", first + " ")[0].rstrip(".:; ") + "."


def marked(text):
    """Nodes of one sentence."""
    end = 0
    for mark in MARK.finditer(text):
        code, formula, stressed = mark.groups()
        yield nodes.Text(text[end : mark.start()])
        kind = nodes.literal if code else nodes.math if formula else nodes.emphasis
        yield kind(mark[0], code or formula or stressed)
        end = mark.end()
    yield nodes.Text(text[end:])


def listed(app, doctree, docname):
    """Put the list of names, with their links, where the directive was."""
    modules = set()
    for place in [*doctree.findall(names_of_page)]:
        page, lines = place["page"], nodes.bullet_list(classes=["names"])
        entries = {n: e for n, e in app.env.get_domain("py").objects.items() if e.docname == page and not e.aliased}
        if not place["said"] or not set(place["said"]) <= set(entries):
            raise ExtensionError(f"{docname}: {page} does not describe {sorted(set(place['said']) - set(entries))}")
        for name, words in place["said"].items():
            module = name.rpartition(".")[0]
            ids = [entries[n].node_id for n in entries if n == name or n.startswith(f"{name}.")]
            ids += [re.sub("[._]", "-", module)] * (module not in modules)
            modules.add(module)
            label = nodes.literal(text=name.removeprefix("mtl_core."), classes=["py"])
            link = make_refnode(app.builder, docname, page, entries[name].node_id, label)
            targets = [nodes.target("", "", ids=[one]) for one in ids]
            lines += nodes.list_item("", nodes.paragraph("", "", *targets, link, nodes.Text(": "), *marked(words)))
        place.replace_self(lines)


def short(thing, signature):
    """A signature that does not parse, since a default has no source text, is shown by Sphinx as it is: mend it.

    Defaults of fields become what `field(default_factory=...)` makes, or the function's name; types lose their modules.
    """
    made = [repr(f.default_factory()) for f in dataclass_fields(thing) if f.default_factory is not dataclasses.MISSING]
    signature = re.sub("<factory>", lambda found: made.pop(0) if made else found[0], signature or "")
    return re.sub(r"~(?:\w+\.)+", "", re.sub(r"<(?:built-in )?function (\w+)(?: at \w+)?>", r"\1", signature))


def dataclass_fields(thing):
    return dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ()


def shortened(app, what, name, thing, options, signature, returned):
    return short(thing, signature), short(None, returned) or None


def setup(app):
    app.connect("autodoc-process-signature", shortened)
    app.connect("autodoc-process-docstring", lambda a, what, name, thing, options, lines: _replace(lines))
    app.add_node(names_of_page)
    app.add_directive("names", Names)
    app.connect("doctree-resolved", listed)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _replace(lines):
    lines[:] = restructured(lines)
