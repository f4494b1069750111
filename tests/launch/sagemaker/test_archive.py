"""Packing the code of a job, and unpacking its model."""

import ast
import gzip
import io
import os
import re
import shutil
import sys
import tarfile
from pathlib import Path

import pytest

from launch.sagemaker.archive import ENTRY, Code, pack_code, unpack_model
from tests.conftest import REPOSITORY
from tests.helpers.sagemaker_jobs import archive_of, member

# The code


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The folder of a small repository."""
    root = tmp_path / "tree"
    for path in ("training/b.py", "training/a.py", "configs/x.json", "hf_datasets/pmemo/sample/train.parquet"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    (root / "pyproject.toml").write_text('[project]\ndependencies = ["torch>=2", "av"]\n')
    return root


def test_the_archive_depends_only_on_the_code(tree: Path, tmp_path: Path) -> None:
    first = pack_code(tree)
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy)
    os.utime(copy / "training/a.py", (1, 1))
    (copy / "training/b.py").chmod(0o700)
    for generated in (
        "training/__pycache__/a.pyc", "outputs/x/model.safetensors", "hf_datasets/pmemo/data/train.parquet",
        "hf_datasets/pmemo/.huggingface.yaml", "hf_datasets/pmemo/defects.csv", ".git/config", ".env",
        "env/pyvenv.cfg", "my_venv/pyvenv.cfg", "my_venv/lib.py", "feltsound.egg-info/PKG-INFO", "tests/test_a.py",
    ):  # fmt: skip
        (copy / generated).parent.mkdir(parents=True, exist_ok=True)
        (copy / generated).write_text("generated")
    assert pack_code(copy).content == first.content
    assert pack_code(copy).sha256 == first.sha256
    (copy / "training/a.py").write_text("changed")
    assert pack_code(copy).sha256 != first.sha256


def test_the_archive_has_requirements_and_no_times_owners_or_modes(tree: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(pack_code(tree).content)) as archive:
        members = archive.getmembers()
        assert archive.extractfile("requirements.txt").read() == b"torch>=2\nav\n"
    assert [m.name for m in members] == sorted(m.name for m in members)
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    assert "hf_datasets/pmemo/sample/train.parquet" in {m.name for m in members}


def test_code_that_is_too_large_is_rejected_with_its_largest_file(tree: Path) -> None:
    with open(tree / "configs/big.wav", "wb") as file:
        file.truncate((100 << 20) + 1)
    with pytest.raises(ValueError, match=r"configs/big\.wav \(100 MiB\)"):
        pack_code(tree)


def test_this_repository_is_packed_with_samples_and_without_tests(code: Code) -> None:
    assert {ENTRY, "run_train.py", "configs/eda_tcn.json", "requirements.txt"} <= code.files
    assert any(path.startswith("hf_datasets/meld/sample/") for path in code.files)
    assert not [path for path in code.files if path.startswith(("tests/", "benchmarks/", "outputs/", "."))]
    assert len(code.content) < 40 << 20


def test_the_entry_script_imports_only_the_standard_library() -> None:
    tree = ast.parse((REPOSITORY / ENTRY).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
    # A script imports modules in its own folder first, so none of them may be named like a standard module.
    assert not {path.stem for path in (REPOSITORY / ENTRY).parent.iterdir()} & sys.stdlib_module_names


# The model


@pytest.mark.parametrize(
    "evil",
    [
        member("../outside"),
        member("a/../../outside"),
        member("/tmp/outside"),
        member("..\\outside"),
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("link", tarfile.LNKTYPE, "../outside"),
        member("pipe", tarfile.FIFOTYPE),
        member("disk", tarfile.BLKTYPE),
    ],
    ids=lambda evil: evil.name,
)
def test_an_archive_with_links_devices_or_paths_outside_is_rejected(evil: tarfile.TarInfo, tmp_path: Path) -> None:
    content = b"x" if evil.type == tarfile.REGTYPE else b""
    archive = archive_of(tmp_path / "model.tar.gz", (member("config.json"), b"{}"), (evil, content))
    with pytest.raises(ValueError, match=re.escape(f"{evil.name!r}: ")):
        unpack_model(archive, tmp_path / "models/a")
    assert list((tmp_path / "models").iterdir()) == []
    assert not (tmp_path / "outside").exists()


def test_a_model_is_unpacked_completely_or_not_at_all(tmp_path: Path) -> None:
    archive = archive_of(
        tmp_path / "model.tar.gz", (member("./config.json"), b"{}"), (member("runs/a/events"), os.urandom(5000))
    )
    unpack_model(archive, tmp_path / "model")
    assert (tmp_path / "model/config.json").read_text() == "{}"
    assert not (tmp_path / "model/config.json").stat().st_mode & 0o7000
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'model'}: ") + ".*--download_to"):
        unpack_model(archive, tmp_path / "model")
    (tmp_path / "cut.tar.gz").write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"^cut\.tar\.gz: "):
        unpack_model(tmp_path / "cut.tar.gz", tmp_path / "cut")
    assert not (tmp_path / "cut").exists()


def files_after_failure(archive: Path, content: bytes) -> list[str]:
    """Try to unpack a damaged archive, which must fail with one line, and return the files that are left."""
    archive.parent.mkdir()
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{archive.name}: [^\n]*$"):
        unpack_model(archive, archive.parent / "model")
    return [path.name for path in archive.parent.rglob("*")]


def test_a_flipped_bit_is_detected(tmp_path: Path) -> None:
    """In the weights, which are stored uncompressed, and in the checksum and size at the end."""
    members = (member("config.json"), b"{}" * 500), (member("model.safetensors"), os.urandom(200_000))
    whole = archive_of(tmp_path / "whole.tar.gz", *members).read_bytes()
    for place in (3000, len(whole) // 2, len(whole) - 8, len(whole) - 1):
        content = bytearray(whole)
        content[place] ^= 1
        assert files_after_failure(tmp_path / f"at {place}" / "model.tar.gz", bytes(content)) == ["model.tar.gz"]


def header(entry: tarfile.TarInfo, size: int) -> bytes:
    """Return the header of a member that declares a size."""
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)


END = bytes(2 * tarfile.BLOCKSIZE)
SPARSE = ("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "big"), ("GNU.sparse.realsize", "1")


@pytest.mark.parametrize(
    "tar",
    [
        header(member("a"), 40 << 30) + END,  # declares more than gzip can compress to this size
        b"".join(header(member(f"{i}"), 1 << 19) for i in range(9)) + END,  # too large in total
        header(member("a"), 3) + b"abc".ljust(512, b"\0") + bytes(512).replace(b"\0", b"\1") + END,  # invalid header
        header(member("a"), 3) + b"abc".ljust(512, b"\0"),  # missing end
        header(member("a"), 3000) + b"abc",
        header(member("././@LongLink", tarfile.GNUTYPE_LONGNAME), 60 << 20) + bytes(60 << 20) + END,
    ],
    ids=["40 GB", "many", "invalid header", "no end", "cut", "name of 60 MB"],
)
def test_impossible_sizes_and_headers_are_rejected(tar: bytes, tmp_path: Path) -> None:
    assert files_after_failure(tmp_path / "in/model.tar.gz", gzip.compress(tar)) == ["model.tar.gz"]


def sparse_header(real_size: int) -> bytes:
    """Return a sparse member in the old GNU format, which has no data but declares a size."""
    block = bytearray(header(member("big", tarfile.GNUTYPE_SPARSE), 0))
    block[386:398], block[398:410] = b"%011o\0" % real_size, b"%011o\0" % 0
    block[483:495] = b"%011o\0" % real_size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_sparse_files_are_rejected_in_both_formats(tmp_path: Path) -> None:
    new = member("big")
    new.pax_headers = dict(SPARSE)
    new.size = 512
    modern = new.tobuf(tarfile.PAX_FORMAT) + b"1\n0\n1\n".ljust(512, b"\0")
    for name, tar in (("old", sparse_header(40 << 30)), ("small", sparse_header(100)), ("new", modern)):
        archive = tmp_path / f"{name}.tar.gz"
        archive.write_bytes(gzip.compress(tar + END))
        with tarfile.open(archive) as members:
            assert members.next().issparse()
        with pytest.raises(ValueError, match="'big'"):
            unpack_model(archive, tmp_path / "model")
        assert not (tmp_path / "model").exists()
