"""Run directories: what a stage reads and writes, and how "done" is known.

A run directory holds `config.toml` (stage, version, digest, inputs and settings; written first), outputs (each under a temporary
name, then renamed), `metrics.jsonl` (append only) and `manifest.json` (last and atomically: its presence means done). The digest
covers stage, version, settings and the digests of the inputs. Same digest: up to date. Another digest: refused. No manifest:
resume.
"""

import contextlib
import datetime
import fcntl
import glob
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openherd.core.config import read_toml
from openherd.core.errors import ConfigError, InputError, StaleError, reason
from openherd.core.machine import BEGUN, leads
from openherd.core.metrics import MetricsLog
from openherd.core.records import count_rows

MANIFEST = "manifest.json"
CONFIG = "config.toml"
METRICS = "metrics.jsonl"
WORK = ".work"  # what a stage keeps to go on from; it goes when the stage is done
INTERPRETER = "python://"  # the documentation of the running Python: an input that lies in no file
WAIT_S = 0.2  # between looks for another process's manifest
PACKAGES = ("torch", "numpy", "pyarrow", "tokenizers", "safetensors")  # their versions stand in every manifest


def digest_of(value: Any) -> str:
    """SHA-256 of a plain value's JSON; the order of keys counts, since that of a setting's may."""
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked_manifest(text: bytes, where: object, do: str) -> dict[str, Any]:
    """A manifest's content. Raises InputError where it is damaged; `do` is what mends it."""
    try:
        manifest: dict[str, Any] = json.loads(text)
        _ = manifest["digest"], manifest["stage"], manifest["metrics"], [int(e["bytes"]) for e in manifest["outputs"].values()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(where, f"a corrupt manifest ({error})", do=do) from None
    return manifest


@dataclass(frozen=True)
class Run:
    """A finished run directory."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """Read a finished run. Raises InputError where there is none, or its manifest or outputs are damaged."""
        path = Path(path)
        file = path / MANIFEST
        if not file.exists():
            state = "an unfinished run (no manifest.json)" if (path / CONFIG).exists() else "no finished run directory"
            raise InputError(path, state, do="run its stage first, or give another directory")
        manifest = checked_manifest(file.read_bytes(), file, f"remove {file} and run the same command again")
        outputs = {name: (path / name, entry["bytes"]) for name, entry in manifest["outputs"].items()}
        for name, (output, n_bytes) in outputs.items():
            if not output.exists() or output.stat().st_size != n_bytes:
                found = f"{output.stat().st_size:,} bytes" if output.exists() else "missing"
                raise InputError(
                    path / name, f"damaged: {found} where the manifest says {n_bytes:,}", do=f"remove {path} and run again"
                )
        return cls(path, manifest)

    @property
    def digest(self) -> str:
        """The digest of stage, version, settings and inputs."""
        return str(self.manifest["digest"])

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics that the stage returned."""
        return dict(self.manifest["metrics"])

    def file(self, name: str, do: str = "") -> Path:
        """The path of an output. Raises InputError where this run wrote none of that name; `do` is what makes one."""
        if name not in self.manifest["outputs"]:
            there = ", ".join(sorted(self.manifest["outputs"])) or "none"
            found = f"no output {name!r} of stage {self.manifest['stage']!r}"
            raise InputError(self.path, found, allowed=f"outputs here: {there}", do=do)
        return self.path / name

    def files(self, pattern: str = "*") -> list[str]:
        """Paths of the outputs whose name matches a shell pattern, sorted."""
        from fnmatch import fnmatch

        return [str(self.path / name) for name in sorted(self.manifest["outputs"]) if fnmatch(name, pattern)]

    def verified(self, name: str) -> Path:
        """The path of an output whose content is the one that was written. Raises InputError where its SHA-256 is another."""
        file = self.file(name)
        if file_sha256(file) != self.manifest["outputs"][name]["sha256"]:
            raise InputError(file, "damaged: its SHA-256 is not the manifest's", do=f"remove {self.path} and run again")
        return file

    def input(self, name: str) -> "Run":
        """The run that an input came from. Raises InputError where there is none, or it is gone or was made anew."""
        if name not in self.manifest["inputs"]:
            there = ", ".join(self.manifest["inputs"])
            raise InputError(self.path, f"stage {self.manifest['stage']!r} has no input {name!r}", allowed=f"inputs: {there}")
        entry = self.manifest["inputs"][name]
        run = Run.open(Path(os.path.normpath(self.path / entry["source"])))
        if run.digest != entry["digest"]:
            raise InputError(run.path, f"no longer the input {name!r} of {self.path}", do="run the recipe again")
        return run

    def records(self) -> list[dict[str, Any]]:
        """The records of `metrics.jsonl`."""
        return MetricsLog(self.path / METRICS).read()


@dataclass(frozen=True)
class Outside:
    """An input from outside: a file, a folder, a glob, a URL that fsspec opens, or `python://`."""

    location: str

    def files(self, pattern: str = "*") -> list[str]:
        """The files behind the location, sorted; a folder is walked. Raises InputError where there is none."""
        if "://" in self.location:
            return self._remote_files()
        path = Path(self.location).expanduser()
        if path.is_dir():
            found = [str(p) for p in sorted(path.rglob(pattern)) if p.is_file()]
        else:
            found = sorted(glob.glob(str(path), recursive=True))
        if not found:
            what = "an empty folder" if path.is_dir() else "no such file"
            raise InputError(self.location, what, allowed="a file, a folder, a glob, or a URL (s3://, https://)")
        return found

    def _remote_files(self) -> list[str]:
        if self.location.startswith(INTERPRETER) or not any(c in self.location for c in "*?["):
            return [self.location]
        import fsspec

        with _opening(self.location):
            found = [str(f.full_name) for f in fsspec.open_files(self.location)]
        if not found:
            raise InputError(self.location, "nothing matches")
        return sorted(found)

    @property
    def digest(self) -> str:
        """Local files by path, size and time of change, lists of paths by their content, remote files by name, size and etag;
        `python://` by version and system."""
        if self.location.startswith(INTERPRETER):
            return digest_of([self.location, platform.python_implementation(), platform.python_version(), platform.platform()])
        if "://" in self.location:
            return digest_of([self._remote_facts(name) for name in self.files()])
        return digest_of([_facts(name) for name in self.files() if not _is_inside_git(name)])

    @staticmethod
    def _remote_facts(name: str) -> list[str]:
        import fsspec

        with _opening(name):
            filesystem, path = fsspec.url_to_fs(name)
            info = filesystem.info(path)
        tag = next(
            (info[key] for key in ("ETag", "etag", "LastModified", "Last-Modified", "Content-MD5", "mtime") if info.get(key)), ""
        )
        return [name, str(info.get("size")), str(tag)]


@contextlib.contextmanager
def _opening(address: str) -> Iterator[None]:
    """Raise InputError where what is asked of an address fails."""
    try:
        yield
    except ImportError:
        raise InputError(address, "needs more packages", do="pip install 'openherd[remote]'") from None
    except Exception as error:  # each storage's client has errors of its own
        raise InputError(address, f"cannot be opened ({reason(error)})", do="check the address and your access to it") from None


def _facts(name: str) -> list[str | int]:
    if ".paths" in Path(name).suffixes[-2:]:
        return [os.path.abspath(name), file_sha256(Path(name))]
    stat = os.stat(name)
    return [os.path.abspath(name), stat.st_size, stat.st_mtime_ns]


def _is_inside_git(name: str) -> bool:
    """Whether a file is git's own and names no commit: looking at a tree changes some of these."""
    _, found, inside = name.partition("/.git/")
    return bool(found) and not inside.startswith(("HEAD", "packed-refs", "refs/heads/"))


Source = Run | Outside


@dataclass
class Output:
    """The run directory that a stage is writing."""

    path: Path
    device: str = "cpu"  # where the stage computes, as it says
    threads: int = 1
    processes: str = ""  # the layout of several
    begun: float = field(default_factory=lambda: float(os.environ.get(BEGUN) or time.time()))  # Unix time when the work began
    leads: bool = True  # of several processes one writes; what the others write is thrown away
    digest: str = ""  # of the job
    metrics: MetricsLog = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = MetricsLog(self.path / METRICS)

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[Path]:
        """A temporary path that becomes the output `name` (a file or a folder) when the block ends well."""
        if not self.leads:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder) / Path(name).name
            return
        final = self.path / name
        make_directory(final.parent)
        temporary = final.with_name(f".{final.name}.tmp")
        _remove(temporary)
        try:
            yield temporary
        except BaseException:
            _remove(temporary)
            raise
        flush_to_disk(temporary)
        if temporary.is_dir() or final.is_dir():
            _remove(final)  # a folder replaces nothing; a file is there all the time
        os.replace(temporary, final)

    @property
    def work(self) -> Path:
        """Where the stage may keep what it goes on from when it was stopped; what lies there is of this job alone.

        A folder of the job's digest, in one that holds no other and goes when the stage is done.
        """
        folder = self.path / WORK / (self.digest or "job")
        make_directory(folder)
        for other in folder.parent.iterdir():
            if other != folder:
                _remove(other)
        return folder

    def log(self, **record: Any) -> None:
        """Append one record to `metrics.jsonl`."""
        if self.leads:
            self.metrics.append(record)


def make_directory(path: Path) -> None:
    """Make a directory and those above it. Raises InputError where something else stands in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
        raise InputError(path, f"no directory can be made here ({error.strerror})", do="give another --out") from None


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or every file of a folder, is on the disk: a rename that a power cut follows may else name nothing."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Job:
    """What is to be made: a stage with its settings and inputs. Its digest names the run."""

    stage: str
    section: str
    version: int
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]  # name to digest
    sources: Mapping[str, str]  # name to location, or to the run's path as seen from this one's; for people
    parallel: Mapping[str, Any] = field(default_factory=dict)  # how it is spread over processes, which makes no other job

    @property
    def digest(self) -> str:
        """The digest that makes two jobs the same."""
        return digest_of([self.stage, self.version, self.settings, sorted(self.inputs.items())])


def _config_document(job: Job) -> dict[str, Any]:
    return {
        "stage": job.stage,
        "version": job.version,
        "digest": job.digest,
        "inputs": dict(job.inputs),
        "sources": dict(job.sources),
        "settings": dict(job.settings),
        **({"parallel": dict(job.parallel)} if job.parallel else {}),
    }


@contextlib.contextmanager
def prepare(job: Job, path: Path) -> Iterator[Output]:
    """Lock the directory, write `config.toml`, and give the stage its output; an unfinished run of the same job is resumed.

    Raises StaleError where the directory holds another job's work or another process works in it.
    """
    import tomli_w

    make_directory(path)
    with (path / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StaleError(path, "another process is working here", do="wait for it, or give another --out") from None
        if all(entry.name == CONFIG or entry.name.startswith(".") for entry in path.iterdir()):
            (path / CONFIG).unlink(missing_ok=True)  # a job that ended before it wrote anything leaves the place to another
        check_same_job(job, path)
        output = Output(path, digest=job.digest)
        if not (path / CONFIG).exists():
            with output.write(CONFIG) as temporary:
                temporary.write_text(tomli_w.dumps(_config_document(job)), encoding="utf-8")
        for leftover in list(path.rglob(".*.tmp")):  # of a process that was killed
            _remove(leftover)
        output.metrics.rewind(lambda record: True)  # a line that a kill cut short
        yield output
    (path / ".lock").unlink(missing_ok=True)


def is_in_use(path: Path) -> bool:
    """Whether a process works in this run directory."""
    try:
        with (path / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def check_same_job(job: Job, path: Path) -> None:
    """Raise StaleError, naming what differs, where the directory's `config.toml` is another job's."""
    if not (path / CONFIG).exists():
        if any(not p.name.startswith(".") for p in path.iterdir()):
            raise StaleError(path, "not empty, and no run directory (no config.toml)", do="remove it, or give another --out")
        return
    again = f"remove {path} and run the same command again"
    try:
        found = read_toml(path / CONFIG)
    except ConfigError as error:
        raise InputError(path / CONFIG, error.found, do=again) from None
    if "digest" not in found:
        raise InputError(path / CONFIG, "damaged: it names no digest", do=again)
    if found["digest"] == job.digest:
        return
    if found.get("stage") != job.stage:
        differences = [f"stage {found.get('stage')!r} there, {job.stage!r} asked"]
    else:
        versions = f"version {found.get('version')!r} there, {job.version!r} asked"
        differences = [versions] if found.get("version") != job.version else []
        for key in sorted((there := found.get("settings", {})).keys() | job.settings.keys()):
            if there.get(key) != job.settings.get(key):
                differences.append(f"{key} = {there.get(key)!r} there, {job.settings.get(key)!r} asked")
        for key in sorted((there := found.get("inputs", {})).keys() | job.inputs.keys()):
            if there.get(key) != job.inputs.get(key):
                differences.append(f"input {key!r} differs")
    raise StaleError(path, "holds another run: " + "; ".join(differences or ["digest differs"]), do="give another --out")


def finish(job: Job, output: Output, metrics: Mapping[str, Any], seconds: float) -> Run:
    """Write the manifest: the run is done."""
    outputs = {}
    for file in sorted(output.path.rglob("*")):
        name = str(file.relative_to(output.path))
        if file.is_file() and not name.startswith(".") and name not in (CONFIG, METRICS, MANIFEST):
            outputs[name] = {"bytes": file.stat().st_size, "rows": count_rows(file), "sha256": file_sha256(file)}
    manifest = {
        "stage": job.stage,
        "section": job.section,
        "version": job.version,
        "digest": job.digest,
        "settings": dict(job.settings),
        "inputs": {name: {"digest": job.inputs[name], "source": job.sources[name]} for name in job.inputs},
        "outputs": outputs,
        "metrics": dict(metrics),
        "seed": job.settings.get("seed"),
        "packages": package_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": {
            "device": output.device,
            "threads": output.threads,
            **({"processes": output.processes} if output.processes else {}),
        },
        "wall_s": round(seconds, 3),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    with output.write(MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _remove(output.path / WORK)
    return Run(output.path, manifest)


def package_versions() -> dict[str, str]:
    """Versions of openherd and of the packages whose version can change a result."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("openherd", *PACKAGES):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def make(job: Job, path: Path, stage: Any, config: Any, inputs: Mapping[str, Any], joint: bool = False) -> tuple[Run, bool]:
    """Run `stage(config, **inputs, out=...)` into `path` unless that was done; returns the run and whether it was done before.

    Of several processes the first runs it and the others wait, or, where `joint`, run it with it and write nothing.
    """
    if (path / MANIFEST).exists():
        check_same_job(job, path)
        return Run.open(path), True
    if not leads():
        if joint:
            stage(config, **inputs, out=Output(path, leads=False))
        while not (path / MANIFEST).exists():
            time.sleep(WAIT_S)
        return Run.open(path), False
    with prepare(job, path) as output:
        if (path / MANIFEST).exists():  # another process finished it before this one had the lock
            return Run.open(path), True
        metrics = stage(config, **inputs, out=output)
        return finish(job, output, metrics, time.time() - output.begun), False
