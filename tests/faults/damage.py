"""What may happen to a file or a text."""

import json

BYTES = ("emptied", "cut", "a block of zeros", "a flipped bit", "garbage in it")  # of any file
WAYS = (
    *BYTES,
    *(
        "not UTF-8",
        "a line lost",
        "a line twice",
        "another value",
        "a field lost",
        "nested deeply",
        "a byte order mark",
    ),
)
VALUES = (
    None,
    True,
    -1,
    0,
    1e308,
    "",
    "x",
    [],
    {},
    [[]],
    {"a": {}},
    "9" * 30,
    10**30,
    float("nan"),
    "../..",
    ["x"] * 3,
)


def garbled(text: str, random) -> str:
    """The text with a few characters lost, doubled or replaced."""
    letters = list(text)
    for _ in range(random.randint(1, 4)):
        if letters:
            at = random.randrange(len(letters))
            letters[at : at + 1] = random.choice(([], [letters[at]] * 2, [random.choice("=,[]{}()'\"#\\ \n$-:.0aé")]))
    return "".join(letters)


def damaged(content: bytes, random, way: str) -> bytes:
    """The content after `way`, one of `WAYS`; as it was where that does not apply."""
    size = len(content)
    at = random.randrange(size) if size else 0
    lines = content.splitlines(keepends=True)
    match way:
        case "emptied":
            return b""
        case "cut":
            return content[:at]
        case "a block of zeros":
            block = content[at : at + random.choice((1, 16, 4096))]
            return content[:at] + bytes(len(block)) + content[at + len(block) :]
        case "a flipped bit":
            return (
                content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :] if size else content
            )
        case "garbage in it":
            return content[:at] + random.randbytes(random.choice((1, 8, 300))) + content[at:]
        case "not UTF-8":
            return content[:at] + b"\xff\xfe" + content[at:]
        case "a line lost" | "a line twice" if lines:
            n = random.randrange(len(lines))
            return b"".join(lines[:n] + lines[n : n + 1] * (2 * (way == "a line twice")) + lines[n + 1 :])
        case "nested deeply":
            return b"[" * 100_000 + content
        case "a byte order mark":
            return b"\xef\xbb\xbf" + content
        case "another value" | "a field lost":
            return _elsewhere(content, random, way == "a field lost")
    return content


def _elsewhere(content, random, lose):
    """JSON, JSON lines or YAML with one value replaced, or one field lost; other content as it was."""
    for load, dump in FORMATS:
        try:
            value = load(content.decode())
        except Exception:
            continue
        holders = list(_holders(value))
        if holders:
            holder = random.choice(holders)
            where = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            if lose:
                del holder[where]
            else:
                holder[where] = random.choice(VALUES)
            return dump(value).encode()
    return content


def _holders(value):
    if isinstance(value, dict | list) and value:
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _holders(inner)


def _lines(text):
    return [json.loads(line) for line in text.splitlines()]


def _yaml(text):
    import yaml

    value = yaml.safe_load(text)
    if not isinstance(value, dict | list):
        raise ValueError
    return value


def _to_yaml(value):
    import yaml

    return yaml.safe_dump(value, allow_unicode=True)


FORMATS = (
    (json.loads, json.dumps),
    (_lines, lambda lines: "".join(json.dumps(line) + "\n" for line in lines)),
    (_yaml, _to_yaml),
)
