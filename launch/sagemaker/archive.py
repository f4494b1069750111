"""Pack the code of a job into a reproducible archive, and unpack the model of a finished job."""

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
MAX_BYTES = 100 << 20  # of all files before compression; code and samples take about a fifth of this
GZIP_RATIO = 1032  # highest compression ratio of the deflate format
MOST_AT_ONCE = 1 << 20  # bytes to read from an archive at once, headers included
# Folders that a job does not need: results, data, and files for developers.
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
# Files that `prepare` writes into the folders of data sets, and temporary files.
LEFT_OUT_FILES = (
    "*.pyc", "*.part", "*.lock", "predictions.csv", "hf_datasets/*/*.csv", "hf_datasets/*/*.csv.gz",
    "hf_datasets/*/labels.json", "hf_datasets/*/target.json",
)  # fmt: skip


@dataclass(frozen=True)
class Code:
    """An archive of the repository."""

    content: bytes  # tar.gz
    files: frozenset[str]  # paths in the archive, with slashes

    @property
    def sha256(self) -> str:
        """The SHA-256 of the archive, which is its name in the bucket."""
        return hashlib.sha256(self.content).hexdigest()


def pack_code(repository: Path) -> Code:
    """Pack code, configs and samples into an archive that is the same for the same files.

    Raises ValueError if the files are too large.
    """
    contents = {path: (repository / path).read_bytes() for path in code_files(repository)}
    # SageMaker's training toolkit installs requirements.txt before it starts the entry script.
    contents.setdefault("requirements.txt", requirements(repository).encode())
    total = sum(map(len, contents.values()))
    if total > MAX_BYTES:
        largest = max(contents, key=lambda path: len(contents[path]))
        raise ValueError(
            f"{repository}: the code has {total >> 20} MiB, more than {MAX_BYTES >> 20} MiB. The largest file is "
            f"{largest} ({len(contents[largest]) >> 20} MiB). Move data out of the repository and use --channel."
        )
    # No times, owners or modes, so that unchanged code has the same SHA-256 and is not uploaded again.
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=packed, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(contents):
            entry = tarfile.TarInfo(path)  # its defaults are time, user and group 0, and mode 644
            entry.size = len(contents[path])
            archive.addfile(entry, io.BytesIO(contents[path]))
    return Code(packed.getvalue(), frozenset(contents))


def code_files(repository: Path) -> Iterator[str]:
    """Yield the paths, with slashes, of all files that a job needs."""
    for folder, folders, files in os.walk(repository):
        here = Path(folder)
        # Changing the list in place keeps os.walk out of the other folders.
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
    """Return the dependencies in pyproject.toml in the format of requirements.txt."""
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return "\n".join(project["dependencies"]) + "\n"


def unpack_model(archive: Path, folder: Path) -> None:
    """Unpack a model.tar.gz into a new folder, completely or not at all.

    Raises ValueError for a damaged archive, and for members other than plain files and folders inside `folder`.
    """
    if folder.exists():
        raise ValueError(f"{folder}: already exists. Give another folder with --download_to.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking-") as name:
        draft = Path(name) / "model"
        draft.mkdir()
        try:
            write_members(archive, draft)
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{archive.name}: is damaged: {error}. Download it again.") from error
        os.replace(draft, folder)


class BoundedStream(gzip.GzipFile):
    """A gzip file that refuses large reads."""

    # tarfile reads an extended header at once, and believes the size that it declares. A malicious archive could thus
    # use up all memory.

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MOST_AT_ONCE:
            raise tarfile.ReadError(f"a header declares {size} bytes")
        return super().read(size)


def write_members(archive: Path, folder: Path) -> None:
    """Write all members of an untrusted archive."""
    # Members that declare more than the file can hold are refused before anything is written for them.
    room = archive.stat().st_size * GZIP_RATIO
    with BoundedStream(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as members:
        for member in members:
            room -= member.size
            if room < 0:
                raise tarfile.ReadError(
                    f"{member.name!r} declares {member.size} bytes, more than the archive can hold"
                )
            write_member(members, member, folder)
        # tarfile stops silently at a header that it cannot read. At the true end, only zeros follow.
        stream.seek(members.offset)
        rest = stream.read(MOST_AT_ONCE)
        if len(rest) < tarfile.BLOCKSIZE or any(rest):
            raise tarfile.ReadError("a member cannot be read, or the end is missing")
        # Read to the end, because gzip verifies its checksum there.
        while stream.read(MOST_AT_ONCE):
            pass


def write_member(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write one member of an untrusted archive; raise ValueError for links, devices and paths outside `folder`."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise ValueError(f"{member.name!r}: path in the archive leads out of the folder. Nothing was unpacked.")
    if member.isdir():
        (folder / path).mkdir(parents=True, exist_ok=True)
    elif member.isfile() and not member.issparse():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        source = archive.extractfile(member)
        assert source is not None  # it is None only for members that are not files
        with source, open(folder / path, "wb") as target:
            shutil.copyfileobj(source, target)
    else:
        raise ValueError(
            f"{member.name!r}: is a link, a device or a sparse file in the archive. Nothing was unpacked."
        )
