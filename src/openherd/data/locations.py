"""Which files a location holds, and opening them: here, s3://, https://, globs, lists of paths, git trees (paper 3.1).

A file that ends in `.paths` (also `.gz`) is a list, a path a line, as Common Crawl's `warc.paths.gz`. Elsewhere, bytes are read in
ranges, each tried again for a minute: reading goes on where it was.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import urlsplit

from openherd.core.errors import InputError, reason
from openherd.core.remote import CHECK, READING_WAITS_S, is_address, read_range
from openherd.core.rundir import Run, Source
from openherd.data.documents import DOCUMENTS
from openherd.data.warc import zstd

LIST = ".paths"
COMMON_CRAWL = ("crawl-data/", "contrib/", "projects/", "cc-index/")  # how a path of Common Crawl's lists begins
REMOTE_BLOCK = 1 << 23  # bytes of one request
PACKED: dict[str, Callable[[BinaryIO], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": zstd.open}
UNPACK_ERRORS = (EOFError, OSError, zlib.error, lzma.LZMAError, zstd.ZstdError)


class NamedFile(NamedTuple):
    """A file to read: where it is, and its name in the lineage."""

    path: str
    name: str


def path_of(name: str) -> PurePosixPath:
    """A file's path: of an address without its query; a file here may have '#' or '?' in its name."""
    return PurePosixPath(urlsplit(name).path if is_address(name) else name)


def packing_of(name: str) -> str:
    """How a file is packed, by its name: '.gz', or another ending, or ''."""
    ending = path_of(name).suffix.lower()
    return ending if ending in PACKED else ""


def ending_of(name: str) -> str:
    """A file's ending in lower case, before that of its packing."""
    path = path_of(name)
    return (path.with_suffix("") if packing_of(name) else path).suffix.lower()


def unpacked(file: BinaryIO, name: str) -> BinaryIO:
    """A file's content; reading it raises one of UNPACK_ERRORS where it is damaged."""
    packing = packing_of(name)
    return cast(BinaryIO, PACKED[packing](file) if packing else file)


class RemoteFile(io.RawIOBase):
    """A file elsewhere, read in ranges. Raises InputError where it cannot be."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        self.name, self.size, self._at = name, size, 0

    def readable(self) -> bool:
        """Yes: io asks."""
        return True

    def seekable(self) -> bool:
        """Yes: io asks."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        """The byte that comes next."""
        return self._at

    def readinto(self, out: memoryview) -> int:  # type: ignore[override]
        """The next bytes."""
        end = min(self._at + len(out), self.size)
        if end <= self._at:
            return 0
        data = read_range(self.name, self._at, end, READING_WAITS_S)
        out[: len(data)] = data
        self._at += len(data)
        return len(data)


def opened(name: str) -> BinaryIO:
    """A file here or, through fsspec, elsewhere. Raises InputError."""
    try:
        if not is_address(name):
            return Path(name).open("rb")
        import fsspec

        filesystem, path = fsspec.url_to_fs(name)
        size = filesystem.info(path).get("size")
        if size is None:  # a server that does not tell sizes gives no ranges either
            return io.BytesIO(filesystem.cat_file(path))
        return io.BufferedReader(RemoteFile(name, size), REMOTE_BLOCK)
    except ImportError as error:
        raise InputError(name, f"needs more packages ({error})", do="pip install 'openherd[remote]'") from None
    except InputError:
        raise
    except Exception as error:  # each storage's client has errors of its own
        raise InputError(name, f"cannot be read ({reason(error)})", do=CHECK) from None


def files_of(source: Source, common_crawl: str) -> list[NamedFile]:
    """Everything at a location, lists of paths followed, in order; a git tree is one file. Raises InputError."""
    if isinstance(source, Run):
        documents = source.files(DOCUMENTS) or source.files("train.parquet")  # of a holdout run never what is held out
        outputs = documents or [p for p in source.files() if not Path(p).name.startswith(("dropped", "heldout"))]
        return [NamedFile(path, str(Path(path).relative_to(source.path))) for path in outputs]
    found: list[NamedFile] = []
    for path in trees_first(source.files()):
        listed = paths_of(path, common_crawl) if ending_of(path) == LIST else [path]
        found += [NamedFile(path, path) for path in listed]
    return found


def trees_first(paths: list[str]) -> Iterator[str]:
    """The paths, in order, with those of a git tree replaced by its folder (a bare repository's ends in .git)."""
    trees: set[str] = set()
    for path in paths:
        parts = [] if is_address(path) else Path(path).parts
        at = next((i for i, part in enumerate(parts) if part.endswith(".git")), -1)
        if at < 0:
            continue
        folder = Path(*parts[: at + 1])
        if (folder / "HEAD").is_file() and (folder / "objects").is_dir():
            trees.add(str(folder.parent if folder.name == ".git" else folder))
    told: set[str] = set()
    for path in paths:
        tree = None if is_address(path) else next((str(p) for p in Path(path).parents if str(p) in trees), None)
        if tree is None:
            yield path
        elif tree not in told:
            told.add(tree)
            yield tree


def paths_of(name: str, common_crawl: str) -> list[str]:
    """The paths of a list: addresses, absolute, of Common Crawl, or beside the list. Blank lines and '#' lines are none."""
    try:
        with opened(name) as file:
            lines = unpacked(file, name).read().decode().split("\n")
    except (*UNPACK_ERRORS, UnicodeDecodeError) as error:
        raise InputError(name, f"no list of paths ({error})", do="fetch the list again") from None
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    beside = name.rpartition("/")[0]
    return [_resolved(line, common_crawl, beside) for line in found]


def _resolved(path: str, common_crawl: str, beside: str) -> str:
    if is_address(path) or path.startswith("/"):
        return path
    base = common_crawl if path.startswith(COMMON_CRAWL) else beside
    return f"{base.rstrip('/')}/{path}" if base else path
