"""The code of a job as one archive, and a job's model out of one: the same files give the same bytes."""

import gzip
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import tomllib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

ENTRY = "launch/sagemaker/entry.py"
MAX_BYTES = 100 << 20  # of all files together; code and samples take a fifth
GZIP_RATIO = 1032  # a byte of gzip holds at most so many
MOST_AT_ONCE = 1 << 20  # bytes of an archive, its headers included
# Folders that stay here: what runs made, data and what was prepared from it, what only developers need.
LEFT_OUT_FOLDERS = (
    "__pycache__",
    "outputs",
    "data",
    "tests",
    "benchmarks",
    "venv",
    "env",
    "build",
    "dist",
    "*.egg-info",
)
# What `prepare` writes beside a card, and what runs leave behind.
LEFT_OUT_FILES = (
    "*.pyc", "*.part", "*.lock", "predictions.csv", "hf_datasets/*/*.csv", "hf_datasets/*/*.csv.gz",
    "hf_datasets/*/labels.json", "hf_datasets/*/target.json",
)  # fmt: skip


@dataclass(frozen=True)
class Code:
    """An archive of the repository."""

    content: bytes  # tar.gz
    files: frozenset[str]  # their paths, with slashes

    @property
    def sha256(self) -> str:
        """What names it in the bucket."""
        return hashlib.sha256(self.content).hexdigest()


def pack_code(repository: Path) -> Code:
    """Pack code, configs and samples, sorted and without times, owners or modes; `requirements.txt` is made here.

    Images with SageMaker's training toolkit install `requirements.txt` before they start the entry script.
    """
    contents = {path: (repository / path).read_bytes() for path in code_files(repository)}
    contents.setdefault("requirements.txt", requirements(repository).encode())
    total = sum(map(len, contents.values()))
    if total > MAX_BYTES:
        largest = max(contents, key=lambda path: len(contents[path]))
        raise ValueError(
            f"{repository}: the code would take {total >> 20} MiB, more than {MAX_BYTES >> 20}; the largest file is "
            f"{largest} ({len(contents[largest]) >> 20} MiB): move data out of the repository and name it by --channel"
        )
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=packed, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(contents):
            entry = tarfile.TarInfo(path)  # with time, user and group 0, and mode 644
            entry.size = len(contents[path])
            archive.addfile(entry, io.BytesIO(contents[path]))
    return Code(packed.getvalue(), frozenset(contents))


def code_files(repository: Path) -> Iterator[str]:
    """Paths of all files that a job needs, with slashes; nothing hidden, made or prepared."""
    for folder, folders, files in os.walk(repository):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and not any(fnmatch(name, pattern) for pattern in LEFT_OUT_FOLDERS)
            and not (here / name / "pyvenv.cfg").exists()
        )
        for name in files:
            path = (here / name).relative_to(repository).as_posix()
            if not name.startswith(".") and not any(fnmatch(path, pattern) for pattern in LEFT_OUT_FILES):
                yield path


def requirements(repository: Path) -> str:
    """The dependencies of pyproject.toml as pip reads them from a file."""
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return "\n".join(project["dependencies"]) + "\n"


def unpack_model(archive: Path, folder: Path) -> None:
    """Unpack a model.tar.gz into a new folder, whole or not at all.

    Only plain files and folders below it are written: a link, a device, a sparse file, an absolute path or one with
    `..` is an error.
    """
    if folder.exists():
        raise ValueError(f"{folder} is there already; name another folder by --download_to")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking-") as name:
        draft = Path(name) / "model"
        draft.mkdir()
        try:
            write_members(archive, draft)
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{archive.name} is damaged: {error}") from error
        os.replace(draft, folder)


class BoundedStream(gzip.GzipFile):
    """A gzip file of which little is read at once: tarfile reads a header in one go, of any size that it declares."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MOST_AT_ONCE:
            raise tarfile.ReadError(f"a header declares {size} bytes")
        return super().read(size)


def write_members(archive: Path, folder: Path) -> None:
    """Write all members of an archive that is not trusted, and read it to its end, where its checksum is."""
    room = archive.stat().st_size * GZIP_RATIO
    with BoundedStream(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as members:
        for member in members:
            room -= member.size
            if room < 0:
                raise tarfile.ReadError(f"{member.name!r} declares {member.size} bytes, more than gzip can hold there")
            write_member(members, member, folder)
        stream.seek(members.offset)
        rest = stream.read(MOST_AT_ONCE)
        if len(rest) < tarfile.BLOCKSIZE or any(rest):  # tarfile ends without a word at a header that it cannot read
            raise tarfile.ReadError("a member cannot be read, or the end is missing")
        while stream.read(MOST_AT_ONCE):
            pass


def write_member(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write one member of an archive that is not trusted."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise ValueError(f"{member.name!r} in the archive leads out of the folder; nothing was unpacked")
    if member.isdir():
        (folder / path).mkdir(parents=True, exist_ok=True)
    elif member.isfile() and not member.issparse():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        source = archive.extractfile(member)
        assert source is not None  # a file has content
        with source, open(folder / path, "wb") as target:
            shutil.copyfileobj(source, target)
    else:
        raise ValueError(f"{member.name!r} in the archive is a link, a device or a sparse file; nothing was unpacked")
