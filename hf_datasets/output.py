"""Where prepared data go: a folder of this machine or a prefix of S3, in which every file is whole or not there."""

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

TEMPORARY = ".tmp"  # ends the hidden names of files that are being written
UNFINISHED = re.compile(rf"\..+\.\d+{re.escape(TEMPORARY)}")  # the whole of such a name


class WriteError(OSError):
    """A file could not be written, as opposed to an input that could not be read; `errno` and `filename` say why."""


class Folder:
    """A folder of this machine. Names are relative to it, with `/`."""

    def __init__(self, location: str | Path) -> None:
        self.path = Path(location)

    def __str__(self) -> str:
        return str(self.path)

    def where(self, name: str) -> str:
        """The full path of a file, for people."""
        return str(self.path / name)

    def same_as(self, folder: Path) -> bool:
        """Whether this is that folder."""
        return self.path.resolve() == folder.resolve()

    def make(self, folder: str) -> None:
        """Make a folder in it, and itself; ValueError where it cannot be."""
        for path in (self.path, self.path / folder):
            if path.exists() and not path.is_dir():
                raise ValueError(f"{path} is a file, where the output folder should be; move it or give --output_dir")
        try:
            (self.path / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"cannot make {self.path / folder}: {error.strerror}; give an --output_dir to write to"
            ) from error

    def sizes(self, folder: str) -> dict[str, int]:
        """Names, with the folder's, and bytes of the files in one folder in it."""
        inside = self.path / folder
        if not inside.is_dir():
            return {}
        files = [path for path in inside.iterdir() if path.is_file()]
        return {path.relative_to(self.path).as_posix(): path.stat().st_size for path in files}

    def digests(self, folder: str) -> dict[str, str]:
        """Names, with the folder's, and MD5 of the files in one folder in it."""
        return {
            name: hashlib.md5((self.path / name).read_bytes(), usedforsecurity=False).hexdigest()
            for name in self.sizes(folder)
        }

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self.path / name).exists()

    def read_text(self, name: str) -> str | None:
        """The content of a small file, None when it is not there."""
        return (self.path / name).read_text() if (self.path / name).exists() else None

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file to read from, at any position."""
        with open(self.path / name, "rb") as file:
            yield file

    def write(self, name: str, write: Callable[[BinaryIO], None]) -> None:
        """Call `write` with a file that gets its name only when it is complete and on disk; WriteError otherwise."""
        path = self.path / name
        temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")  # hidden: `datasets` never reads it
        try:
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise WriteError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
            raise

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, if they are there."""
        for name in list(names):
            (self.path / name).unlink(missing_ok=True)

    def remove_unfinished(self, folder: str) -> None:
        """Remove what killed writers have left in one folder in it, "" for itself."""
        self.remove(name for name in self.sizes(folder) if UNFINISHED.fullmatch(Path(name).name))

    @contextlib.contextmanager
    def only_one(self, folder: str) -> Iterator[None]:
        """Two writers of one folder take turns; the lock goes with its process, also when that is killed."""
        lock = FileLock(self.path / folder / ".prepare.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"another prepare is writing to {self.path / folder}; waiting for it", file=sys.stderr)
            lock.acquire()
        try:
            self.remove_unfinished(folder)
            yield
        finally:
            lock.release()


class Bucket:
    """A prefix of S3. An upload appears as a whole, so two writers of the same data do each other no harm."""

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")

    def __str__(self) -> str:
        return self.location

    def where(self, name: str) -> str:
        """The full URL of a file."""
        return f"{self.location}/{name}"

    def same_as(self, folder: Path) -> bool:
        """Never a folder of this machine."""
        return False

    def make(self, folder: str) -> None:
        """Nothing to make; ValueError when the bucket is not there or not ours to look at."""
        bucket = self.location.removeprefix("s3://").split("/")[0]
        try:
            found = self._file_system().exists(bucket)
        except OSError as error:
            raise ValueError(f"--output_dir {self.location}: {error}") from error
        if not found:
            raise ValueError(f"--output_dir {self.location}: there is no bucket {bucket!r}, or you may not list it")

    def sizes(self, folder: str) -> dict[str, int]:
        """Names, with the folder's, and bytes of the files in one folder in it."""
        found = S3FileManager.shared().list_objects(self.where(folder))
        return {file.url[len(self.location) + 1 :]: file.size for file in found}

    def digests(self, folder: str) -> dict[str, str]:
        """The same with ETags, which are MD5 unless a file was uploaded in parts or is encrypted by a key of KMS."""
        found = S3FileManager.shared().list_objects(self.where(folder))
        return {file.url[len(self.location) + 1 :]: file.etag for file in found}

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return self._file_system().isfile(self.where(name))

    def read_text(self, name: str) -> str | None:
        """The content of a small file, None when it is not there."""
        try:
            return self._file_system().cat_file(self.where(name)).decode()
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file to read from, at any position."""
        with self._file_system().open(self.where(name), "rb", cache_type="readahead", block_size=1 << 18) as file:
            yield file

    def write(self, name: str, write: Callable[[BinaryIO], None]) -> None:
        """Call `write` with a file of this machine and upload it when it is complete; WriteError otherwise."""
        with tempfile.NamedTemporaryFile(dir=scratch_folder()) as file:
            try:
                write(file)
                file.flush()
                S3FileManager.shared().upload_file(file.name, self.where(name))
            except OSError as error:
                said = error.strerror or str(error)
                raise WriteError(error.errno or errno.EIO, said, self.where(name)) from error

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, if they are there."""
        for name in list(names):
            self._file_system().rm_file(self.where(name))  # `rm` takes [ ] * ? of the location for a pattern

    def remove_unfinished(self, folder: str) -> None:
        """Nothing: an upload that was cut off leaves no object."""

    @contextlib.contextmanager
    def only_one(self, folder: str) -> Iterator[None]:
        """No lock: S3 has none, and needs none here."""
        yield

    def _file_system(self) -> Any:
        return S3FileManager.shared().file_system()


Place = Folder | Bucket


def place(location: str | Path, option: str = "--output_dir") -> Place:
    """Where a path or s3:// URL leads to."""
    refuse_web_address(option, str(location))
    if not is_remote(str(location)):
        return Folder(location)
    if not str(location).startswith("s3://"):
        raise ValueError(f"{option}={location}: this is no place to write to. Give a folder or an s3:// URL.")
    return Bucket(str(location))


def write_text(place: Place, name: str, text: str) -> None:
    """Write a small text file, whole or not at all."""
    write_bytes(place, name, text.encode())


def write_bytes(place: Place, name: str, data: bytes) -> None:
    """Write a file that fits in memory, whole or not at all."""
    place.write(name, lambda file: file.write(data))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
