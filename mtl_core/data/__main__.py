"""Bring, check and list data sets: `python -m mtl_core.data status`, `… fetch mnist`, `… check nyuv2 --root FOLDER`."""

import argparse
import io
import sys
from collections.abc import Iterable, Iterator, Sequence

from . import CHECKS, DATASETS, FILES, DataError, data_root, fetch
from .catalogue import status
from .embed import embed
from .embedded import CHECKSUMS
from .held import check


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mtl_core.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    fetching = commands.add_parser("fetch", help="bring sets into the root, each file checked")
    fetching.add_argument("names", nargs="+", choices=list(FILES), metavar="NAME", help=", ".join(FILES))
    fetching.add_argument("--quiet", action="store_true", help="do not say what is downloaded")
    listing = commands.add_parser("list", help="check what is in the root, and say what can be loaded")
    showing = commands.add_parser("status", help="each set of the papers: whether it is there, how to get it")
    checking = commands.add_parser("check", help="read and judge every file of a set, and hold later loads to them")
    checking.add_argument("name", choices=[*FILES, *CHECKS], metavar="NAME", help=", ".join([*FILES, *CHECKS]))
    checking.add_argument("--partial", action="store_true", help="accept a part of the set, and record it as one")
    embedding = commands.add_parser("embed", help="build the embedded sets of the package again (for developers)")
    embedding.add_argument("names", nargs="*", choices=[*CHECKSUMS, []], metavar="NAME", help=", ".join(CHECKSUMS))
    for command in (fetching, listing, showing, checking, embedding):
        command.add_argument("--root", help="folder of all data sets (else $MTL_DATA, else the user's cache)")
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows a question mark
    try:
        if options.command == "fetch":
            for name, folder in fetch(options.names, options.root, progress=not options.quiet).items():
                print(f"{name}: checked, in {folder}")
        elif options.command == "check":
            _check(options.name, options.root, options.partial)
        elif options.command == "status":
            for entry in status(options.root, FILES, CHECKS):
                print(f"{entry['name']}: {entry['title']} ({entry['papers']})\n  {entry['state']}")
                print(f"  where: {entry['where']}\n  get it: {entry['get']}")
                print(f"  licence: {entry['licence']}; size: {entry['size']}")
        elif options.command == "embed":
            for name, sha256 in embed(options.root, options.names or CHECKSUMS).items():
                print(f"{name}: SHA-256 {sha256}")
        else:
            _list(options.root)
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk is noticed here
    except (DataError, ImportError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _check(name: str, root: str | None, partial: bool) -> None:
    if name in FILES:
        FILES[name].check(root)
        print(f"{name}: complete, checksums right")
        return
    held = check(name, CHECKS[name], root, partial, _shown)
    what = "complete" if held.complete else "a part of the set"
    print(f"{name}: {what}, {len(held.sums):,} files right; later loads are held to {held.folder / held.manifest}")


def _shown(items: Iterable) -> Iterator:
    """The items, with their number on stderr at each hundredth."""
    items = list(items)
    for number, item in enumerate(items):
        if sys.stderr and sys.stderr.isatty() and number % max(len(items) // 100, 1) == 0:
            print(f"\r{number:,} of {len(items):,}", end="", file=sys.stderr, flush=True)
        yield item


def _list(root: str | None) -> None:
    print(f"root: {data_root(root)}")
    for name, files in FILES.items():
        try:
            files.check(root)
            print(f"  {name}: complete, checksums right")
        except DataError as error:
            print(f"  {name}: not usable: {error}")
    print(f"problems: {', '.join(DATASETS)}")


if __name__ == "__main__":
    sys.exit(main())
