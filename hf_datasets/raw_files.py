"""The files of a raw corpus, in a folder or below an s3:// URL: list, read, prefetch and hash them.

Every read of raw data goes through this module. A tree is listed once: the object that a builder sends to its workers
holds the size and ETag of each remote file. A worker therefore needs one request per file, and a file that changed
after the listing is an error instead of a mixed data set.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from system.storage import S3FileManager, S3Object, is_remote, refuse_web_address

from .defects import make_defect

SYNTHETIC_MARKER = "SYNTHETIC"  # name of the file that synthesizers put next to the tables of a corpus
HASH_THREADS = 8
AHEAD = 8  # rows whose files are prefetched while one row is processed


class FetchError(Exception):
    """A remote file could not be fetched, which says nothing about the data, so it is never a defect of a row.

    Not an OSError: a builder takes that for a damaged file, and `datasets` for a missing one.
    """


class RawFolder:
    """The files below a folder or URL, sorted by their relative path.

    `files` does not have the `hidden` files, nor those whose names are not UTF-8 (`odd_names`, as `escaped` writes
    them).
    """

    def __init__(
        self,
        location: str,
        files: dict[str, S3Object | None],
        unreadable: Iterable[OSError] = (),
        hidden: Iterable[str] = (),
        odd_names: Iterable[str] = (),
    ) -> None:
        self.location, self.files = location, files
        self.unreadable, self.hidden, self.odd_names = list(unreadable), sorted(hidden), list(odd_names)

    @classmethod
    def open(cls, raw_dir: str | Path, meant: str, option: str = "--raw_dir") -> "RawFolder":
        """List a folder or URL.

        Args:
            raw_dir: a folder or an s3:// URL.
            meant: the folder that `option` expects, for the ValueError if this one does not exist.
            option: the command-line option that gave `raw_dir`.
        """
        location = str(raw_dir)
        refuse_web_address(option, location)
        if is_remote(location):
            location = location.rstrip("/")
            return cls(location, *_list_remote(location, option))
        if not Path(location).is_dir():
            problem = "is a file. Unpack it and give" if Path(location).exists() else "does not exist. Give"
            raise ValueError(f"{option}={location}: {problem} the {meant}.")
        if not is_text(location):
            raise ValueError(f"{option}={escaped(location)}: the path is not UTF-8. Rename the folder.")
        unreadable: list[OSError] = []
        paths = []
        for parent, folders, names in os.walk(location, onerror=unreadable.append):
            folders[:] = [name for name in folders if not name.startswith(".")]  # in place: os.walk skips them
            paths += [os.path.join(parent, name) for name in names]
        relative = sorted(Path(path).relative_to(location).as_posix() for path in paths)
        hidden, visible = ([name for name in relative if is_hidden(name) == wanted] for wanted in (True, False))
        files = dict.fromkeys(filter(is_text, visible))
        odd = [escaped(name) for name in visible if name not in files]
        return cls(location, files, unreadable, filter(is_text, hidden), odd)

    def below(self, folder: str) -> "RawFolder":
        """Return a subfolder ("" for this folder); OSError if any folder in it could not be listed."""
        location = self.where(folder) if folder else self.location
        for error in self.unreadable:  # an unreadable folder would otherwise count as an empty one
            if Path(str(error.filename)).is_relative_to(location):
                raise error
        prefix = f"{folder}/" if folder else ""
        inside = {name[len(prefix) :]: file for name, file in self.files.items() if name.startswith(prefix)}
        return RawFolder(location, inside, odd_names=self.odd_names)

    def only(self, names: Iterable[str]) -> "RawFolder":
        """Return a copy with these files alone, to send to a worker."""
        return RawFolder(
            self.location, {name: self.files[name] for name in sorted(set(names))}, odd_names=self.odd_names
        )

    def names(self, folder: str) -> list[str]:
        """Return the names of the files below a subfolder, relative to this folder."""
        return [name for name in self.files if name.startswith(f"{folder}/")]

    def where(self, name: str) -> str:
        """Return the full path or URL of a file, for messages."""
        return f"{self.location}/{name}"

    def read(self, name: str) -> bytes:
        """Return the content of a file. Raises OSError for a local file, FetchError for a remote one."""
        file = self.files[name]
        if file is None:
            return Path(self.location, name).read_bytes()
        with _fetching():
            return S3FileManager.shared().read_bytes(file)

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """Yield a local path with the content of a file; a remote file is downloaded and kept while the block runs."""
        file = self.files[name]
        if file is None:
            yield Path(self.location, name)
            return
        with contextlib.ExitStack() as stack:
            # Only the download is inside `_fetching`: an OSError of the caller's own block is not a FetchError.
            with _fetching():
                path = stack.enter_context(S3FileManager.shared().lease(file))
            yield path

    def ahead(self, rows: list, names_of: Callable[[object], Iterable[str | None]]) -> Iterator:
        """Yield the rows, and prefetch the files (`names_of(row)`) of the next AHEAD rows meanwhile."""
        for i, row in enumerate(rows):
            upcoming = rows[: AHEAD + 1] if i == 0 else rows[i + AHEAD : i + AHEAD + 1]
            self.fetch(name for next_row in upcoming for name in names_of(next_row) if name)
            yield row

    def fetch(self, names: Iterable[str]) -> None:
        """Start to download files in the background, in this order; local files and unknown names are ignored."""
        files = [file for file in map(self.files.get, names) if file is not None]
        if files:
            S3FileManager.shared().prefetch_files(files)

    def digest(self, names: Iterable[str]) -> tuple[str, int]:
        """Return a digest of the path, size and content of these files, and their total size in bytes.

        A tree has the same digest in a folder and on S3, unless files were uploaded in parts.
        """
        # MD5, because it is the ETag of an S3 object that was uploaded in one piece: no remote file has to be read.

        def entry(name: str) -> list:
            file = self.files[name]
            if file is not None:
                return [name, file.size, file.etag]
            try:
                with open(Path(self.location, name), "rb") as content:
                    md5 = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False))
                    return [name, content.tell(), md5.hexdigest()]
            except OSError as error:
                # The row gets its defect when the file is read. Here the digest only has to differ from that of the
                # repaired file.
                return [name, 0, error.strerror]

        with ThreadPoolExecutor(HASH_THREADS) as pool:
            entries = list(pool.map(entry, sorted(set(names))))
        return hashlib.blake2b(json.dumps(entries).encode(), digest_size=16).hexdigest(), sum(e[1] for e in entries)


@contextlib.contextmanager
def _fetching() -> Iterator[None]:
    """Turn an OSError into a FetchError that says how to continue."""
    try:
        yield
    except OSError as error:
        raise FetchError(f"{error}. Finished work is kept: run this again once the file can be read.") from error


def odd_name_defects(folders: Iterable[RawFolder]) -> list[dict]:
    """Return a defect for each file whose name is not UTF-8."""
    names = dict.fromkeys(name for folder in folders for name in folder.odd_names)
    return [make_defect("name_not_utf8", detail=name) for name in names]


def is_text(name: str) -> bool:
    """Return whether a file name is UTF-8, which Parquet needs; archives made with old zip programs have others."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def escaped(name: str) -> str:
    """Return a file name with the bytes that are not UTF-8 escaped, as in caf\\xe9.mp3."""
    return os.fsencode(name).decode(errors="backslashreplace")


def is_hidden(name: str) -> bool:
    """Return whether any part of a path begins with a dot."""
    return any(part.startswith(".") for part in name.split("/"))


def _list_remote(location: str, option: str) -> tuple[dict[str, S3Object | None], list[OSError], list[str]]:
    try:
        objects = S3FileManager.shared().list_objects(location)
    except OSError as error:
        raise ValueError(f"{option} {error}") from error
    named = {file.url[len(location) + 1 :]: file for file in objects}
    visible = {name: file for name, file in sorted(named.items()) if not is_hidden(name)}
    return visible, [], [name for name in named if name not in visible]
