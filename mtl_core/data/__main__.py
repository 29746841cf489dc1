"""Bring, check and list data sets: `python -m mtl_core.data fetch mnist fashion_mnist [--root R]`."""

import argparse
import sys

from . import DATASETS, DataError, data_root, fetch, qm9_files
from .downloads import FETCHERS
from .embedded import embed
from .files import verify


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mtl_core.data", description=__doc__)
    sets = ", ".join(FETCHERS)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("fetch", "bring sets into the root, each file checked"),
        ("list", "say what is in the root, and what can be loaded"),
        ("embed", "build the mini sets of the package again (for developers)"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--root", help="folder of all data sets (else $MTL_DATA, else the user's cache)")
        if name == "fetch":
            command.add_argument("names", nargs="+", choices=list(FETCHERS), metavar="NAME", help=sets)
            command.add_argument("--quiet", action="store_true", help="no progress bar")
    given = parser.parse_args(arguments)
    try:
        if given.command == "fetch":
            for name, folder in fetch(given.names, given.root, progress=not given.quiet).items():
                print(f"{name}: verified in {folder}")
        elif given.command == "embed":
            for name, sha256 in embed(given.root).items():
                print(f"{name}: SHA-256 {sha256}")
        else:
            _list(given.root)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _list(root):
    print(f"root: {data_root(root)}")
    for name in FETCHERS:
        try:
            qm9_files.read(root) if name == "qm9" else verify(name, root)
            print(f"  {name}: complete, checksums right")
        except DataError as error:
            found = "\n    ".join(str(error).splitlines()[1:4])
            print(f"  {name}: not usable\n    {found}")
    print(f"problems: {', '.join(DATASETS)}")


if __name__ == "__main__":
    sys.exit(main())
