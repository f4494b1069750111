"""Locations for prepared data: a local folder or an S3 prefix. A file appears in them only when it is complete."""

import contextlib
import errno
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from system.storage import S3FileManager, is_remote, refuse_web_address, scratch_folder

TEMPORARY = ".tmp"  # suffix of a file that is being written
# Name of a temporary file of `Folder.write`: .<name>.<process id>.tmp
UNFINISHED = re.compile(rf"\..+\.\d+{re.escape(TEMPORARY)}")


class WriteError(OSError):
    """An output file could not be written; `errno` and `filename` say why.

    A class of its own, because any other OSError means that an input could not be read.
    """


class Folder:
    """A local folder. File names are relative to it, with `/` as separator."""

    def __init__(self, location: str | Path) -> None:
        self.path = Path(location)

    def __str__(self) -> str:
        return str(self.path)

    def where(self, name: str) -> str:
        """Return the full path of a file, for messages."""
        return str(self.path / name)

    def same_as(self, folder: Path) -> bool:
        return self.path.resolve() == folder.resolve()

    def make(self, folder: str) -> None:
        """Create this folder and a subfolder of it; ValueError if that is not possible."""
        for path in (self.path, self.path / folder):
            if path.exists() and not path.is_dir():
                raise ValueError(f"{path}: a file with the name of the output folder. Move it or change --output_dir.")
        try:
            (self.path / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"{self.path / folder}: cannot create the folder: {error.strerror}. Give an --output_dir that you may "
                "write to."
            ) from error

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the files in a subfolder, by name relative to this folder, with their size in bytes."""
        subfolder = self.path / folder
        if not subfolder.is_dir():
            return {}
        files = [path for path in subfolder.iterdir() if path.is_file()]
        return {path.relative_to(self.path).as_posix(): path.stat().st_size for path in files}

    def digests(self, folder: str) -> dict[str, str]:
        """Return the files in a subfolder, by name relative to this folder, with their MD5."""
        return {
            name: hashlib.md5((self.path / name).read_bytes(), usedforsecurity=False).hexdigest()
            for name in self.sizes(folder)
        }

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def read_text(self, name: str) -> str | None:
        """Return the content of a small file, or None if it does not exist."""
        return (self.path / name).read_text() if (self.path / name).exists() else None

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a file for reading at any position."""
        with open(self.path / name, "rb") as file:
            yield file

    def write(self, name: str, write: Callable[[BinaryIO], None]) -> None:
        """Write a file through `write(file)`; it gets its name once it is complete and on disk. Raises WriteError."""
        path = self.path / name
        # The leading dot hides an unfinished file from `datasets`, which skips hidden files.
        temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
        try:
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                # Without this, a power failure could leave a file with its final name but without its content.
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise WriteError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
            raise

    def remove(self, names: Iterable[str]) -> None:
        """Delete files; missing ones are ignored."""
        for name in list(names):
            (self.path / name).unlink(missing_ok=True)

    def remove_unfinished(self, folder: str) -> None:
        """Delete the temporary files that killed writers left in a subfolder ("" for this folder)."""
        self.remove(name for name in self.sizes(folder) if UNFINISHED.fullmatch(Path(name).name))

    @contextlib.contextmanager
    def exclusive(self, folder: str) -> Iterator[None]:
        """Wait until no other process writes to a subfolder, then lock it; the lock ends with the process."""
        lock = FileLock(self.path / folder / ".prepare.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"{self.path / folder}: another process is writing here. Waiting until it ends.", file=sys.stderr)
            lock.acquire()
        try:
            self.remove_unfinished(folder)
            yield
        finally:
            lock.release()


class Bucket:
    """An S3 prefix. S3 shows an upload only when it is complete, so two writers of the same data do no harm."""

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")

    def __str__(self) -> str:
        return self.location

    def where(self, name: str) -> str:
        """Return the full URL of a file, for messages."""
        return f"{self.location}/{name}"

    def same_as(self, folder: Path) -> bool:
        """Return False: a prefix is never a local folder."""
        return False

    def make(self, folder: str) -> None:
        """Check that the bucket exists (S3 has no folders to create); ValueError if not."""
        bucket = self.location.removeprefix("s3://").split("/")[0]
        try:
            exists = self._file_system().exists(bucket)
        except OSError as error:
            raise ValueError(f"--output_dir={self.location}: {error}") from error
        if not exists:
            raise ValueError(
                f"--output_dir={self.location}: bucket {bucket!r} does not exist, or you may not list it. Create it, "
                "or check its name and your permissions."
            )

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the objects below a folder, by name relative to this prefix, with their size in bytes."""
        objects = S3FileManager.shared().list_objects(self.where(folder))
        return {file.url[len(self.location) + 1 :]: file.size for file in objects}

    def digests(self, folder: str) -> dict[str, str]:
        """Return the objects below a folder, by name relative to this prefix, with their ETag.

        The ETag is the MD5, unless the object was uploaded in parts or is encrypted with a KMS key.
        """
        objects = S3FileManager.shared().list_objects(self.where(folder))
        return {file.url[len(self.location) + 1 :]: file.etag for file in objects}

    def has(self, name: str) -> bool:
        return self._file_system().isfile(self.where(name))

    def read_text(self, name: str) -> str | None:
        """Return the content of a small file, or None if it does not exist."""
        try:
            return self._file_system().cat_file(self.where(name)).decode()
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a file for reading at any position."""
        # 256 kB blocks: readers want a few columns, and the default of s3fs, 50 MB, would fetch whole shards.
        with self._file_system().open(self.where(name), "rb", cache_type="readahead", block_size=1 << 18) as file:
            yield file

    def write(self, name: str, write: Callable[[BinaryIO], None]) -> None:
        """Write a local temporary file through `write(file)` and upload it once it is complete. Raises WriteError."""
        with tempfile.NamedTemporaryFile(dir=scratch_folder()) as file:
            try:
                write(file)
                file.flush()
                S3FileManager.shared().upload_file(file.name, self.where(name))
            except OSError as error:
                message = error.strerror or str(error)
                raise WriteError(error.errno or errno.EIO, message, self.where(name)) from error

    def remove(self, names: Iterable[str]) -> None:
        """Delete files."""
        for name in list(names):
            # Not `rm`: it would read [ ] * ? in the name as a glob pattern and could delete other files.
            self._file_system().rm_file(self.where(name))

    def remove_unfinished(self, folder: str) -> None:
        """Do nothing: an interrupted upload leaves no object."""

    @contextlib.contextmanager
    def exclusive(self, folder: str) -> Iterator[None]:
        """Do nothing: S3 has no locks, and complete uploads need none."""
        yield

    def _file_system(self) -> Any:
        return S3FileManager.shared().file_system()


Location = Folder | Bucket


def open_location(path: str | Path, option: str = "--output_dir") -> Location:
    """Return the Folder of a path or the Bucket of an s3:// URL; ValueError, naming `option`, for other URLs."""
    refuse_web_address(option, str(path))
    if not is_remote(str(path)):
        return Folder(path)
    if not str(path).startswith("s3://"):
        raise ValueError(f"{option}={path}: must be a folder or an s3:// URL. Give one of these.")
    return Bucket(str(path))


def write_text(location: Location, name: str, text: str) -> None:
    write_bytes(location, name, text.encode())


def write_bytes(location: Location, name: str, data: bytes) -> None:
    location.write(name, lambda file: file.write(data))


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder durable, which POSIX promises only after the folder itself is synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
