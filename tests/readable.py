"""What keeps a reader from a page of the built site, counted: folded code, raw prints, wide code, dense prose.

    python tests/readable.py           a line for each page, densest first
    python tests/readable.py --lower   write tests/readable.csv: each limit becomes today's count where that is lower

Sentences with three numbers or more and words of ours for ordinary things are held, page by page, to the limits of
tests/readable.csv, which only ever fall. A page that is not listed there is held to the goals, PER_THOUSAND.
"""

import argparse
import csv
import pathlib
import re
import sys
from typing import NamedTuple

from bs4 import BeautifulSoup

ROOT = pathlib.Path(__file__).resolve().parents[1]
SITE, LIMITS = ROOT / "_build" / "html", ROOT / "tests" / "readable.csv"
WIDEST = 78  # characters of a line of code that fit its box
PER_THOUSAND = {"dense": 2.5, "private": 3.0}  # goals, in a thousand words
NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:\.\d+)?(?:\s?%)?(?!\w)")
SENTENCE = re.compile(r"(?<=[.!?:])\s+(?=[A-Z])")
PRIVATE = re.compile(
    r"\brows?\b(?! of (?:the )?(?:matrix|J\b|Jacobian))|\bstands?\b|\b(?:drew|drawn|draws?)\b|\bmirror\b|\bdoses?\b"
    r"|\blen[td]s?\b|\bborrow\w*|\b(?:as it is|as they are)\b|\bat one (?:time|go)\b|\b(?:is|are) no\b|\bgoes? with\b"
    r"|\bcarr(?:y|ies) (?:the|a|what)\b|\bheld against\b|\b(?:un)?settled\b|\bof ours\b|\bthe exchange\b"
    r"|\bmade[ -]up\b|\b(?:is|are) to be\b|\bseen to\b|\bput down to\b|\bworth a name\b|\bopponent\b",
    re.IGNORECASE,
)
BLOCKS = ["p", "li", "figcaption", "dd", "td", "summary"]
NO_PROSE = "pre, script, style, svg, nav, button, form, mjx-container, .headerlink, .prev-next-area, .math"
APART = {"genindex.html", "search.html", "py-modindex.html"}


class Count(NamedTuple):
    """What one page has; `bars`, `prints` and `wide` are what is wrong with it, as texts."""

    words: int
    dense: list[str]
    private: list[str]
    bars: list[str]
    prints: list[str]
    wide: list[str]


def count(text):
    """The Count of a page, given as HTML."""
    soup = BeautifulSoup(text, "html.parser")
    article = soup.find("article") or soup

    def start(boxes):
        return [" ".join(box.get_text(" ").split())[:80] for box in boxes]

    bars = start(article.select("details.hide, details.above-input, details.below-input, details.above-output"))
    prints = start(article.select("div.output.text_plain, div.output.stream"))
    lines = [line for box in article.find_all("pre") for line in box.get_text().splitlines()]
    for box in article.select(NO_PROSE):
        box.decompose()
    blocks = [" ".join(box.get_text(" ").split()) for box in article.find_all(BLOCKS) if not box.find(BLOCKS)]
    prose = [block for block in blocks if len(block.split()) > 6]
    return Count(
        words=sum(len(block.split()) for block in prose),
        dense=[s for block in prose for s in SENTENCE.split(block) if len(NUMBER.findall(s)) >= 3],
        private=[found[0] for block in prose for found in PRIVATE.finditer(block)],
        bars=bars,
        prints=prints,
        wide=[line for line in lines if len(line) > WIDEST],
    )


def counts(site=SITE):
    """Page -> Count, for all pages of the site with prose."""
    found = {}
    for path in sorted(site.rglob("*.html")):
        if "_static" not in path.parts and path.name not in APART:
            page = count(path.read_text(encoding="utf-8"))
            if page.words >= 30:
                found[path.relative_to(site).as_posix()] = page
    return found


def limits(file=LIMITS):
    """Page -> {"dense": count, "private": count}."""
    with open(file, encoding="utf-8", newline="") as lines:
        return {line["page"]: {key: int(line[key]) for key in PER_THOUSAND} for line in csv.DictReader(lines)}


def allowed(name, page, held):
    """The limits of a page: those that are held, else the goals for as many words."""
    return held.get(name) or {key: goal * page.words / 1000 for key, goal in PER_THOUSAND.items()}


def too_many(found, held, spare=0):
    """Sentences on pages that have more than they may; `spare`: so many more, where computed numbers may differ."""
    wrong = []
    for name, page in found.items():
        for key, most in allowed(name, page, held).items():
            have = getattr(page, key)
            if len(have) > most + spare:
                wrong.append(f"{name}: {len(have)} {key}, at most {most:g} allowed; the last: {have[-1][:160]!r}")
    return wrong


def lower(found, file=LIMITS):
    """Write the limits anew: none rises, a page that is not listed comes in with what it has, one that is gone goes."""
    held = limits(file) if file.exists() else {}
    with open(file, "w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(["page", *PER_THOUSAND])
        for name, page in sorted(found.items()):
            today = {key: len(getattr(page, key)) for key in PER_THOUSAND}
            writer.writerow([name, *(min(today[key], held.get(name, today)[key]) for key in PER_THOUSAND)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", nargs="?", type=pathlib.Path, default=SITE)
    parser.add_argument("--lower", action="store_true", help="write tests/readable.csv")
    options = parser.parse_args()
    found = counts(options.site)
    if not found:
        sys.exit(f"no pages in {options.site}: run `make book`")
    keys = Count._fields
    print(f"{'page':<52}" + "".join(f"{key:>9}" for key in keys))
    sizes = {name: [page.words, *map(len, page[1:])] for name, page in found.items()}
    sizes["all pages"] = [sum(column) for column in zip(*sizes.values(), strict=True)]
    for name, size in sorted(sizes.items(), key=lambda item: -(3 * item[1][1] + item[1][2]) / item[1][0]):
        print(f"{name:<52}" + "".join(f"{n:>9}" for n in size))
    if options.lower:
        lower(found)


if __name__ == "__main__":
    main()
