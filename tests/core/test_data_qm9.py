"""QM9: files, targets, descriptors, splits. A wheel of three molecules stands in for the full one."""

import hashlib
import io
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mtl_core import data
from mtl_core.data import DataError, downloads, embed, embedded, files, qm9, qm9_descriptors, qm9_files
from mtl_core.data.problem import higher_is_better, regression
from mtl_core.data.qm9_descriptors import descriptors

HEADER = "XYZ_file,Index,SMILES,N_atoms,Elements,XYZ_Ang," + ",".join(qm9_files.COLUMNS)
METHANE, AMMONIA, WATER = (
    """"a.xyz",1,"C",5,"['C','H','H','H','H']","[[-0.0126981359,1.0858041578,0.0080009958],[0.002150416,"""
    """-0.0060313176,0.0019761204],[1.0117308433,1.4637511618,0.0002765748],[-0.540815069,1.4475266138,"""
    """-0.8766437152],[-0.5238136345,1.4379326443,0.9063972942]]","""
    """0.,13.21,-0.3877,0.1171,35.3641,0.044749,-40.47893,-40.476062,-40.475117,-40.498597,6.469""",
    """"b.xyz",2,"N",4,"['N','H','H','H']","[[-0.0404260543,1.0241077531,0.0625637998],[0.0172574639,"""
    """0.0125452063,-0.0273771593],[0.9157893661,1.3587451948,-0.0287577581],[-0.5202777357,1.3435321258,"""
    """-0.7755426124]]",1.6256,9.46,-0.257,0.0829,26.1563,0.034358,-56.525887,-56.523026,-56.522082,"""
    """-56.544961,6.316""",
    """"c.xyz",3,"O",3,"['O','H','H']","[[-0.0343604951,0.9775395708,0.0076015923],[0.0647664923,"""
    """0.0205721989,0.0015346341],[0.8717903737,1.3007924048,0.0006931336]]",1.8511,6.31,-0.2928,0.0687,"""
    """19.0002,0.021375,-76.404702,-76.401867,-76.400922,-76.422349,6.002""",
)


def wheel(*parts) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("qm9pack/__init__.py", "raise SystemExit('never imported')")
        for number, row in enumerate(parts or (METHANE, AMMONIA, WATER), 1):
            archive.writestr(f"qm9pack/data/qm9_part{number}.csv", f"{HEADER}\n{row}\n")
    return buffer.getvalue()


@pytest.fixture
def read_wheel(tmp_path):
    """Function from CSV lines to the arrays of a wheel with these."""

    def read(*parts):
        (tmp_path / "some.whl").write_bytes(wheel(*parts))
        return qm9_files.read_wheel(tmp_path / "some.whl")

    return read


@pytest.fixture
def three(monkeypatch, tmp_path, read_wheel):
    """The wheel of three molecules is the right one; pip brings nothing until `client.content` is set."""
    client = SimpleNamespace(content=None, ran=[], right=wheel())

    def by_client(url, output_file, _):
        client.ran.append(url)
        if client.content is None:
            raise OSError("no such package")
        Path(output_file).write_bytes(client.content)

    monkeypatch.setattr(qm9_files, "WHEEL_SHA256", hashlib.sha256(client.right).hexdigest())
    monkeypatch.setattr(qm9_files, "CONTENT_SHA256", qm9_files.identity(read_wheel()))
    monkeypatch.setattr(downloads, "_by_client", by_client)
    return client


@pytest.fixture
def fetched(three, tmp_path):
    """The file qm9.npz in a root, made from the wheel of three molecules."""
    three.content = three.right
    return data.fetch("qm9", tmp_path / "root", progress=False)["qm9"] / "qm9.npz"


def write(path, content):
    """Write qm9.npz with the sidecar that belongs to it."""
    path.write_bytes(content)
    path.with_name("qm9.npz.sha256").write_text(f"{hashlib.sha256(content).hexdigest()}  qm9.npz\n")


# files


def test_the_csv_files_are_read_as_they_are(read_wheel):
    molecules = read_wheel()
    assert molecules["index"].tolist() == [1, 2, 3] and molecules["atoms"].tolist() == [5, 4, 3]
    assert molecules["elements"].tolist() == [6, 1, 1, 1, 1, 7, 1, 1, 1, 8, 1, 1]
    first, last = [-0.0126981359, 1.0858041578, 0.0080009958], [0.8717903737, 1.3007924048, 0.0006931336]
    np.testing.assert_array_equal(molecules["positions"][[0, 11]], np.float32([first, last]))
    assert molecules["properties"].shape == (3, 11)
    assert molecules["properties"][1, [0, 4, 10]].tolist() == [1.6256, 26.1563, 6.316]


def test_fetch_through_pip_then_from_the_root(three, fetched, read_wheel, tmp_path):
    assert three.ran == ["pip:qm9pack==1.0.3"]
    arrays, expected = qm9_files.read(tmp_path / "root"), read_wheel()
    for key, array in expected.items():
        np.testing.assert_array_equal(arrays[key], array)
    np.testing.assert_array_equal(arrays["descriptors"], descriptors(expected))
    assert sorted(path.name for path in fetched.parent.iterdir()) == ["qm9.npz", "qm9.npz.sha256"]
    data.fetch("qm9", tmp_path / "root", progress=False)
    assert len(three.ran) == 1


def test_a_wheel_in_the_root_needs_no_pip(three, tmp_path):
    (tmp_path / "qm9").mkdir()
    (tmp_path / "qm9" / qm9_files.WHEEL).write_bytes(three.right)
    data.fetch("qm9", tmp_path, progress=False)
    assert three.ran == [] and qm9_files.read(tmp_path)["index"].tolist() == [1, 2, 3]


def changed(path, **arrays):
    with np.load(path) as archive:
        kept = dict(archive) | arrays
    buffer = io.BytesIO()
    np.savez(buffer, **{key: array for key, array in kept.items() if array is not None})
    write(path, buffer.getvalue())


def one_zeroed(path):
    with np.load(path) as archive:
        values = archive["descriptors"]
    values[1] = 0
    changed(path, descriptors=values)


def eigenvalues_in_another_order(path):
    with np.load(path) as archive:
        values = archive["descriptors"]
    values[:, [5, 6]] = values[:, [6, 5]]
    changed(path, descriptors=values)


DAMAGES = {  # how, what the message says; the sidecar is made to fit, where there is one
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "qm9.npz with SHA-256"),
    "truncated, with its sidecar": (lambda path: write(path, path.read_bytes()[:-99]), "BadZipFile"),
    "empty": (lambda path: write(path, b""), "BadZipFile"),
    "no sidecar": (lambda path: path.with_name("qm9.npz.sha256").unlink(), "qm9.npz.sha256 .*no such file"),
    "sidecar not UTF-8": (
        lambda path: path.with_name("qm9.npz.sha256").write_bytes(b"\xff\xfe"),
        "with SHA-256 \ufffd",
    ),
    "a key missing": (lambda path: changed(path, atoms=None), "KeyError: 'atoms"),
    "no format": (lambda path: changed(path, format=None), "KeyError: 'format'"),
    "older format": (lambda path: changed(path, format=np.array(0)), "format 0"),
    "objects": (lambda path: changed(path, atoms=np.array([{}] * 3)), "Object arrays cannot be loaded"),
    "other numbers": (lambda path: changed(path, properties=np.ones((3, 11))), "arrays with SHA-256"),
    "descriptors zeroed": (lambda path: changed(path, descriptors=np.zeros((3, 74), np.float32)), "the descriptors of"),
    "descriptors of one molecule zeroed": (one_zeroed, "the descriptors of its molecules"),
    "descriptors in another order": (eigenvalues_in_another_order, "the descriptors of its molecules"),
    "descriptors of another shape": (lambda path: changed(path, descriptors=np.zeros(3)), "the descriptors of"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_arrays_are_refused_and_fetched_again(three, fetched, tmp_path, case):
    damage, said = DAMAGES[case]
    whole = fetched.read_bytes()
    damage(fetched)
    with pytest.raises(DataError, match=said) as error:
        data.load("qm9", root=tmp_path / "root", profile="small")
    assert "fetch qm9" in str(error.value) and 'profile="tiny"' in str(error.value)
    data.fetch("qm9", tmp_path / "root", progress=False)
    assert fetched.read_bytes() == whole and len(three.ran) == 2


def test_every_source_is_named_when_none_has_it(three, tmp_path):
    three.content = wheel(METHANE, AMMONIA, AMMONIA)
    with pytest.raises(DataError) as error:
        data.fetch("qm9", tmp_path, progress=False)
    other = hashlib.sha256(three.content).hexdigest()
    for said in (
        "found no such file",
        f"expected sha256:{hashlib.sha256(three.right).hexdigest()} but got {other}",
        f"put {qm9_files.WHEEL} there by hand",
        str(tmp_path / "qm9"),
    ):
        assert said in str(error.value)
    assert not (tmp_path / "qm9").exists()


def test_arrays_that_differ_from_those_known_are_not_kept(three, tmp_path, monkeypatch):
    three.content = three.right
    monkeypatch.setattr(qm9_files, "CONTENT_SHA256", "another")
    with pytest.raises(DataError, match="arrays with SHA-256 another"):
        data.fetch("qm9", tmp_path, progress=False)
    assert not (tmp_path / "qm9").exists()


def test_a_damaged_wheel_is_refused(read_wheel, tmp_path, monkeypatch):
    for parts, said in (
        ((METHANE, AMMONIA, WATER.replace(',"O",3,', ',"O",4,')), "molecule 3: .*3 elements, 9 numbers, N_atoms 4"),
        ((METHANE, AMMONIA, WATER.replace(",0.0006931336]", "]")), "3 elements, 8 numbers, N_atoms 3"),
        ((METHANE, AMMONIA, WATER.replace("'O'", "'Xe'")), "KeyError: 'Xe'"),
        ((METHANE, AMMONIA), "KeyError.*qm9_part3.csv"),
    ):
        with pytest.raises(DataError, match=said):
            read_wheel(*parts)
    (tmp_path / "no.whl").write_bytes(wheel()[:-9])
    with pytest.raises(DataError, match="no.whl, found BadZipFile"):
        qm9_files.read_wheel(tmp_path / "no.whl")
    monkeypatch.setattr(files, "LARGEST", 100)
    with pytest.raises(DataError, match="it holds more than 100 bytes, the most that is accepted"):
        read_wheel()


# targets and descriptors


def test_targets_of_methane(read_wheel):
    targets = dict(zip(qm9.TARGETS, qm9.targets_of(read_wheel())[0], strict=True))
    expected = {  # eV, known from PyG's reading of the same molecule
        "U0": -17.1722,
        "U": -17.2868,
        "H": -17.3897,
        "G": -16.1519,
        "HOMO": -10.5499,
        "LUMO": 3.1865,
    }
    for name, energy in expected.items():
        assert targets[name] == pytest.approx(1000 * energy, abs=0.06)
    assert targets["ZPVE"] == pytest.approx(0.044749 * 27211.386246)
    assert [targets[name] for name in ("mu", "alpha", "R2", "Cv")] == [0, 13.21, 35.3641, 6.469]


def test_descriptors_against_a_slow_loop():
    molecules = embedded.arrays("qm9")
    got, start = descriptors(molecules), 0
    for row in range(60):
        count = int(molecules["atoms"][row])
        numbers = molecules["elements"][start : start + count].tolist()
        places = molecules["positions"][start : start + count].astype(float)
        start += count
        coulomb, histogram = np.zeros((count, count)), np.zeros(40)
        for i in range(count):
            coulomb[i, i] = 0.5 * numbers[i] ** 2.4
            for j in range(i):
                distance = np.linalg.norm(places[i] - places[j])
                coulomb[i, j] = coulomb[j, i] = numbers[i] * numbers[j] / (distance / 0.529177210903)
                histogram[min(39, max(0, int((distance - 0.75) / 0.25)))] += 1
        values = sorted(np.linalg.eigvalsh(coulomb), key=abs, reverse=True)
        elements = [numbers.count(z) for z in (1, 6, 7, 8, 9)]
        expected = [*elements, *values, *[0] * (29 - count), *histogram]
        np.testing.assert_allclose(got[row], expected, rtol=1e-5, atol=1e-5)


def test_descriptors_ignore_place_direction_and_numbering():
    molecules = embedded.arrays("qm9")
    count, generator = int(molecules["atoms"][0]), np.random.default_rng(0)
    elements, places = molecules["elements"][:count], molecules["positions"][:count].astype(float)
    rotation, order = np.linalg.qr(generator.normal(size=(3, 3)))[0], generator.permutation(count)
    one = {"atoms": molecules["atoms"][:1], "elements": elements, "positions": places}
    moved = one | {"elements": elements[order], "positions": (places @ rotation + 5)[order]}
    np.testing.assert_allclose(descriptors(moved), descriptors(one), atol=1e-4)


def test_chunks_of_molecules_do_not_matter(monkeypatch):
    molecules = embedded.arrays("qm9")
    whole = descriptors(molecules)
    monkeypatch.setattr(qm9_descriptors, "CHUNK", 130)
    np.testing.assert_allclose(descriptors(molecules), whole, rtol=1e-6, atol=1e-6)


# the problem


@pytest.fixture(scope="module")
def tiny():
    return data.load("qm9")


def test_tiny_sizes_tasks_and_identity(tiny):
    assert [len(split) for split in (tiny.train, tiny.validation, tiny.test)] == [350, 50, 100]
    assert tiny.train.inputs.shape == (350, 74) and tiny.train.inputs.dtype == torch.float32
    assert [task.name for task in tiny.tasks] == list(qm9.TARGETS) and len(set(qm9.GROUPS)) == 8
    assert len(qm9.GROUPS) == len(tiny.tasks) == 11
    assert tiny.source["synthetic"] is False and tiny.source["origin"] == "embedded mini set"
    assert tiny.source["molecules_sha256"] == {
        "train": "89b741c1833c94704aa18660aabcbe9c83f2bcdd722ae26115e633277e40a08f",
        "validation": "d860545953147b574e4c847535902ac30022896998b2f51e26c5f83b98a19004",
        "test": "a89adaad9a0666326b6dc21389fa9dddb7c3840e49344a6606f118f35c0d7f2d",
    }


def test_train_statistics_scale_all_splits(tiny):
    for values in (tiny.train.inputs, torch.stack(tiny.train.targets, 1)):
        deviation = values.std(0, unbiased=False)
        torch.testing.assert_close(values.mean(0), torch.zeros(values.shape[1]), atol=1e-5, rtol=0)
        assert ((deviation - 1).abs().lt(1e-4) | deviation.eq(0)).all()
    assert torch.stack(tiny.test.targets, 1).mean(0).abs().max() > 0.01  # not scaled by its own
    mean, deviation = (list(tiny.source[key].values()) for key in ("target_mean", "target_deviation"))
    raw = torch.stack(tiny.test.targets, 1).numpy() * deviation + mean
    known = qm9.targets_of(embedded.arrays("qm9"))
    assert np.abs(known[:, None] - raw[None]).max(2).min(0).max() < 0.5  # each is one of the 500


def test_the_error_is_reported_in_the_targets_unit(tiny):
    task = tiny.tasks[2]
    assert list(task.metrics) == ["MAE (meV)"] and higher_is_better(task) == {"MAE (meV)": False}
    metric = task.metrics["MAE (meV)"]()
    metric.update(torch.tensor([[0.5], [0.0]]), torch.tensor([0.0, 0.25]))
    assert float(metric.compute()) == pytest.approx(0.375 * tiny.source["target_deviation"]["HOMO"], rel=1e-5)
    assert float(task.loss(torch.tensor([[0.5], [0.0]]), torch.tensor([0.0, 0.25]))) == pytest.approx(0.15625)
    assert regression("x", "m").outputs == 1


def test_splits_are_disjoint_and_the_same_for_every_seed(tiny):
    positions = qm9.split_positions(500, "tiny", qm9.COUNTS["tiny"])
    assert sorted(np.concatenate(list(positions.values()))) == list(range(500))
    assert data.load("qm9", seed=1).source == tiny.source
    small, paper = (qm9.split_positions(130_831, "full", qm9.COUNTS[profile]) for profile in ("small", "paper"))
    for split in small:
        assert set(small[split]) <= set(paper[split])
    assert len(np.unique(np.concatenate(list(paper.values())))) == 130_831


def test_there_are_no_more_than_the_embedded_molecules():
    with pytest.raises(ValueError, match="test is a number of molecules, 1 to 100, got 101"):
        data.load("qm9", test=101)


def test_fresh_test_molecules_are_in_no_other_split_and_in_no_small_table(tiny):
    for blocks, molecules, profile in (("tiny", 500, "tiny"), ("full", 130_831, "small")):
        used = qm9.split_positions(molecules, blocks, qm9.COUNTS[profile])
        counts = qm9.COUNTS[profile] | ({"train": 250} if profile == "tiny" else {})
        fresh = qm9.split_positions(molecules, blocks, counts, fresh=True)
        assert len(np.unique(np.concatenate(list(fresh.values())))) == sum(counts.values()), "disjoint"
        assert not set(fresh["test"]) & set(np.concatenate([used["test"], used["validation"]]))
        assert profile == "tiny" or not set(fresh["test"]) & set(used["train"])
        np.testing.assert_array_equal(fresh["train"], used["train"][: counts["train"]])
        np.testing.assert_array_equal(fresh["validation"], used["validation"])
    problem = data.load("qm9", fresh=True)
    assert [len(s) for s in (problem.train, problem.validation, problem.test)] == [250, 50, 100]
    assert problem.source["fresh"] and "fresh" not in tiny.source
    assert problem.source["molecules_sha256"]["test"] != tiny.source["molecules_sha256"]["test"]
    assert len(data.load("qm9", fresh=True, train=300, test=50).train) == 300
    with pytest.raises(ValueError, match="leave 250 of the train block, got train=251"):
        data.load("qm9", fresh=True, train=251)


def test_targets_are_chosen_by_name(tiny):
    some = data.load("qm9", targets=["Cv", "log B", "mu"])
    assert [task.name for task in some.tasks] == ["Cv", "log B", "mu"] == list(some.source["target_mean"])
    assert list(some.tasks[1].metrics) == ["MAE (log GHz)"]
    for name, at in (("Cv", 0), ("mu", 2)):
        assert torch.equal(some.test.targets[at], tiny.test.targets[list(qm9.TARGETS).index(name)])
    assert torch.equal(some.test.inputs, tiny.test.inputs)
    with pytest.raises(ValueError, match="no target 'logA'.*mu, alpha, .*log C"):
        data.load("qm9", targets=["logA"])


def test_rotational_constants_are_those_that_qm9_prints(read_wheel):
    printed = [[157.7118, 157.70997, 157.70699], [293.60975, 293.54111, 191.39397], [799.58812, 437.90386, 282.94545]]
    molecules = read_wheel()
    np.testing.assert_allclose(qm9_descriptors.rotational_constants(molecules), printed, rtol=2e-5)
    np.testing.assert_allclose(qm9.targets_of(molecules, ["log C", "log A"]), np.log(printed)[:, [2, 0]], atol=2e-5)
    straight = {"atoms": np.array([3], np.int8), "elements": np.array([6, 8, 8], np.int8)}  # carbon dioxide
    straight["positions"] = np.array([[0, 0, 0], [0, 0, 1.16], [0, 0, -1.16]], np.float32)
    (constants,) = qm9_descriptors.rotational_constants(straight)
    np.testing.assert_allclose(constants, 505.379 / (2 * 15.9949146 * 1.16**2), rtol=1e-5)


def test_the_full_set():
    try:
        molecules = qm9_files.read()
    except DataError as error:
        pytest.skip(f"set MTL_DATA: {error}")
    targets = dict(zip(qm9.TARGETS, qm9.targets_of(molecules).T, strict=True))
    for name, mean, deviation in (
        ("mu", 2.67295, 1.50347),
        ("HOMO", -6536.5, 597.7),
        ("ZPVE", 4056.9, 901.7),
        ("U0", -76116.0, 10323.7),
        ("G", -70836.6, 9498.3),
        ("Cv", 31.6204, 4.0676),
    ):
        assert targets[name].mean() == pytest.approx(mean, rel=1e-5)
        assert targets[name].std() == pytest.approx(deviation, rel=1e-4)
    for key, array in embed.build("qm9").items():
        np.testing.assert_array_equal(array, embedded.arrays("qm9")[key])
    problem = data.load("qm9", profile="small")
    assert len(problem.train) == 20_000 and len(problem.validation) == 4_000 and len(problem.test) == 10_000
    assert problem.source["molecules_sha256"] == {
        "train": "05737230ea0aa6cfa5d50839a717808b3955f58c502336f27351d867d7cd7224",
        "validation": "ff6379fdc3a0a993b3bdc7bc2de9d03a8d065d7566a7841966dffb86f85c9925",
        "test": "71143a9415991d2623057b3a842762557f7cb30c6187316227f3dcc3ba19b22e",
    }
