"""A raw corpus where it lies, in a folder or below a URL: what files there are, their content, and a digest of it all.

Every read of raw data goes through here. Nothing is listed twice: what a builder passes to its workers holds size and
ETag of each remote file, so that they read what was listed or fail, and need one request a file.
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

SYNTHETIC_MARKER = "SYNTHETIC"  # a file of this name beside a corpus's tables: nobody was recorded
HASH_THREADS = 8
AHEAD = 8  # rows whose files are fetched while one is worked on


class FetchError(Exception):
    """A remote file could not be read: nothing is wrong with the data, so no row may say so. Not an OSError, which
    a builder would take for a damaged file, and `datasets` for a missing one."""


class RawFolder:
    """The files below one folder or URL, by their path in it, sorted.

    Left out of `files` are `hidden` ones and those whose names are no text: `odd_names`, as `escaped` writes them.
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
        """List a folder or URL; ValueError when there is none. `meant` says which folder to give as `option`."""
        location = str(raw_dir)
        refuse_web_address(option, location)
        if is_remote(location):
            location = location.rstrip("/")
            return cls(location, *_list_remote(location, option))
        if not Path(location).is_dir():
            what = "is a file; unpack it and give the" if Path(location).exists() else "does not exist; give the"
            raise ValueError(f"{option} {location} {what} {meant}")
        if not is_text(location):
            raise ValueError(f"{option} {escaped(location)}: the path is not UTF-8; rename the folder")
        unreadable: list[OSError] = []
        names = []
        for here, folders, found in os.walk(location, onerror=unreadable.append):
            folders[:] = [name for name in folders if not name.startswith(".")]
            names += [os.path.join(here, name) for name in found]
        relative = sorted(Path(path).relative_to(location).as_posix() for path in names)
        hidden, shown = ([name for name in relative if is_hidden(name) == wanted] for wanted in (True, False))
        seen = dict.fromkeys(filter(is_text, shown))
        odd = [escaped(name) for name in shown if name not in seen]
        return cls(location, seen, unreadable, filter(is_text, hidden), odd)

    def below(self, folder: str) -> "RawFolder":
        """One of the folders in it ("" for itself), whose every folder has to be readable."""
        location = self.where(folder) if folder else self.location
        for error in self.unreadable:  # it would pass for an empty one
            if Path(str(error.filename)).is_relative_to(location):
                raise error
        prefix = f"{folder}/" if folder else ""
        inside = {name[len(prefix) :]: file for name, file in self.files.items() if name.startswith(prefix)}
        return RawFolder(location, inside, odd_names=self.odd_names)

    def only(self, names: Iterable[str]) -> "RawFolder":
        """The same with fewer files, to be sent to a worker."""
        return RawFolder(
            self.location, {name: self.files[name] for name in sorted(set(names))}, odd_names=self.odd_names
        )

    def names(self, folder: str) -> list[str]:
        """The files below one of the folders in it."""
        return [name for name in self.files if name.startswith(f"{folder}/")]

    def where(self, name: str) -> str:
        """The full path or URL of a file, for people."""
        return f"{self.location}/{name}"

    def read(self, name: str) -> bytes:
        """The content of one file."""
        file = self.files[name]
        if file is None:
            return Path(self.location, name).read_bytes()
        with _fetching():
            return S3FileManager.shared().read_bytes(file)

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A file on this machine with the content of one file, inside the block."""
        file = self.files[name]
        if file is None:
            yield Path(self.location, name)
            return
        with contextlib.ExitStack() as held:
            with _fetching():
                path = held.enter_context(S3FileManager.shared().lease(file))
            yield path

    def ahead(self, rows: list, names_of: Callable[[object], Iterable[str | None]]) -> Iterator:
        """The rows in turn, the files of the next ones on their way while one is worked on."""
        for i, row in enumerate(rows):
            upcoming = rows[: AHEAD + 1] if i == 0 else rows[i + AHEAD : i + AHEAD + 1]
            self.fetch(name for coming in upcoming for name in names_of(coming) if name)
            yield row

    def fetch(self, names: Iterable[str]) -> None:
        """Have files on their way that will be read, in this order; returns at once."""
        files = [file for file in map(self.files.get, names) if file is not None]
        if files:
            S3FileManager.shared().prefetch_files(files)

    def digest(self, names: Iterable[str]) -> tuple[str, int]:
        """A digest of path, size and content of the named files, wherever the tree lies; and their bytes in all.

        Content is told by its MD5, which is the ETag that S3 gives a file uploaded in one piece: the same tree has the
        same digest in a folder and on S3, unless it holds files that were uploaded in parts.
        """

        def entry(name: str) -> list:
            file = self.files[name]
            if file is not None:
                return [name, file.size, file.etag]
            try:
                with open(Path(self.location, name), "rb") as content:
                    found = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False))
                    return [name, content.tell(), found.hexdigest()]
            except OSError as error:  # its row is flagged when it is read; here it must only differ from a mended file
                return [name, 0, error.strerror]

        with ThreadPoolExecutor(HASH_THREADS) as pool:
            entries = list(pool.map(entry, sorted(set(names))))
        return hashlib.blake2b(json.dumps(entries).encode(), digest_size=16).hexdigest(), sum(e[1] for e in entries)


@contextlib.contextmanager
def _fetching() -> Iterator[None]:
    """Say what to do when a file cannot be fetched."""
    try:
        yield
    except OSError as error:
        raise FetchError(f"{error}; finished work is kept, run this again when it can be read") from error


def odd_name_defects(folders: Iterable[RawFolder]) -> list[dict]:
    """A defect for each file of some folders that has no name to store."""
    names = dict.fromkeys(name for folder in folders for name in folder.odd_names)
    return [make_defect("name_not_utf8", detail=name) for name in names]


def is_text(name: str) -> bool:
    """Whether the name of a file is UTF-8, as all that is stored has to be; an old zip may hold others."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def escaped(name: str) -> str:
    """A file's name with its bytes that are not UTF-8 as in caf\\xe9.mp3."""
    return os.fsencode(name).decode(errors="backslashreplace")


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder that it lies in, has a name that begins with a dot."""
    return any(part.startswith(".") for part in name.split("/"))


def _list_remote(location: str, option: str) -> tuple[dict[str, S3Object | None], list[OSError], list[str]]:
    try:
        found = S3FileManager.shared().list_objects(location)
    except OSError as error:
        raise ValueError(f"{option} {error}") from error
    named = {file.url[len(location) + 1 :]: file for file in found}
    seen = {name: file for name, file in sorted(named.items()) if not is_hidden(name)}
    return seen, [], [name for name in named if name not in seen]
