"""Bring, check and list data sets: `python -m mtl_core.data fetch mnist fashion_mnist [--root FOLDER]`."""

import argparse
import io
import sys
from collections.abc import Sequence

from . import DATASETS, FILES, DataError, data_root, fetch
from .embed import embed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mtl_core.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    fetching = commands.add_parser("fetch", help="bring sets into the root, each file checked")
    fetching.add_argument("names", nargs="+", choices=list(FILES), metavar="NAME", help=", ".join(FILES))
    fetching.add_argument("--quiet", action="store_true", help="do not say what is downloaded")
    listing = commands.add_parser("list", help="check what is in the root, and say what can be loaded")
    embedding = commands.add_parser("embed", help="build the embedded sets of the package again (for developers)")
    for command in (fetching, listing, embedding):
        command.add_argument("--root", help="folder of all data sets (else $MTL_DATA, else the user's cache)")
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows a question mark
    try:
        if options.command == "fetch":
            for name, folder in fetch(options.names, options.root, progress=not options.quiet).items():
                print(f"{name}: checked, in {folder}")
        elif options.command == "embed":
            for name, sha256 in embed(options.root).items():
                print(f"{name}: SHA-256 {sha256}")
        else:
            _list(options.root)
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk is noticed here
    except (DataError, ImportError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


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
