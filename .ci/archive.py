"""Pack the committed results for a release: python3 .ci/archive.py FOLDER

writes FOLDER/conflicting-gradients-results-VERSION.zip: `results/` as the last commit has it, with CITATION.cff, the
licence and the SHA-256 of every file. The same commit gives the same bytes on any machine. A deposit with a DOI takes
it as it is. Standard library only.
"""

import hashlib
import io
import pathlib
import re
import subprocess
import sys
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
BESIDE = ("CITATION.cff", "LICENSE", "NOTICES")


def committed(root):
    """Name -> bytes of the files of the archive, in the last commit."""

    def git(*words):
        return subprocess.run(["git", "-C", str(root), *words], check=True, stdout=subprocess.PIPE).stdout

    names = git("ls-tree", "-r", "-z", "--name-only", "HEAD", "--", "results", *BESIDE).decode().split("\0")
    return {name: git("show", f"HEAD:{name}") for name in sorted(filter(None, names))}


def archive(files):
    """(name, bytes) of the zip file with these files, the same for the same files."""
    missing = [name for name in BESIDE if name not in files]
    if missing or not any(name.endswith(".jsonl") for name in files):
        raise SystemExit(
            f"the archive needs {', '.join(BESIDE)} and records; missing: {', '.join(missing) or 'records'}"
        )
    version = re.search(r"(?m)^version: (\S+)$", files["CITATION.cff"].decode())[1]
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    stem, made = f"conflicting-gradients-results-{version}", io.BytesIO()
    with zipfile.ZipFile(made, "w") as packed:
        for name, content in {**files, "SHA256SUMS": sums.encode()}.items():
            entry = zipfile.ZipInfo(f"{stem}/{name}", (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            packed.writestr(entry, content)
    return f"{stem}.zip", made.getvalue()


def main(folder):
    name, content = archive(committed(ROOT))
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    print(f"{folder / name}: {len(content) / 1e6:.1f} MB, SHA-256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
