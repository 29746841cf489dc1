"""What a release is made of: the archive of results, what a tag must agree with, and who may write."""

import hashlib
import io
import re
import shutil
import subprocess
import zipfile

import pytest
import yaml
from test_environment import ROOT, module

archive, tag = module("archive"), module("tag")
FILES = {"CITATION.cff": b"version: 9.9.9\n", "LICENSE": b"", "NOTICES": b"", "results/qm9/small/runs.jsonl": b"{}\n"}


def test_the_same_files_give_the_same_bytes_and_each_has_its_sum():
    name, content = archive.archive(FILES)
    assert (name, content) == archive.archive(dict(FILES)) and name == "conflicting-gradients-results-9.9.9.zip"
    packed = zipfile.ZipFile(io.BytesIO(content))
    sums = packed.read("conflicting-gradients-results-9.9.9/SHA256SUMS").decode().splitlines()
    assert len(sums) == len(FILES)
    for line in sums:
        digest, _, of = line.partition("  ")
        inside = packed.read(f"conflicting-gradients-results-9.9.9/{of}")
        assert inside == FILES[of] and hashlib.sha256(inside).hexdigest() == digest


@pytest.mark.parametrize("lost", ["CITATION.cff", "results/qm9/small/runs.jsonl"])
def test_an_archive_without_citation_or_records_is_refused(lost):
    with pytest.raises(SystemExit, match="CITATION.cff" if lost == "CITATION.cff" else "missing: records"):
        archive.archive({name: content for name, content in FILES.items() if name != lost})


def test_it_holds_what_is_committed_and_nothing_else(tmp_path):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)

    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    (tmp_path / "results" / "new.jsonl").write_text("{}")
    (tmp_path / "LICENSE").write_text("changed")
    assert archive.committed(tmp_path) == FILES


@pytest.fixture
def tree(tmp_path):
    for name in ("mtl_core/__init__.py", "CITATION.cff", "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_a_tag_agrees_with_package_citation_and_changelog(tree):
    log = tree / "CHANGELOG.md"
    version = re.search(r"(?m)^## (\S+)", log.read_text())[1]
    log.write_text(re.sub(r"(?m)^## .*$", f"## {version} (2026-12-31)", log.read_text(), count=1))
    assert tag.complaints(f"v{version}", tree) == []
    assert len(tag.complaints("v9.9.9", tree)) == 3
    log.write_text(log.read_text().replace(" (2026-12-31)", " (not released)", 1))
    (said,) = tag.complaints(f"v{version}", tree)
    assert "has no day" in said


def test_what_builds_may_write_nothing_and_what_writes_builds_nothing():
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
    build, draft = flow["jobs"]["build"], flow["jobs"]["draft"]
    assert "permissions" not in build and flow["permissions"] == {"contents": "read"}
    assert draft["needs"] == "build" and draft["permissions"] == {"contents": "write"}
    assert not any("checkout" in step.get("uses", "") or "make" in step.get("run", "") for step in draft["steps"])
    assert any("--draft" in step.get("run", "") for step in draft["steps"]), "a person publishes it"
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert "secrets." not in text and flow[True] == {"push": {"tags": ["v*"]}}  # YAML reads `on` as true
