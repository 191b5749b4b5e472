"""What this process may use of the machine, and its place among others that a launcher started."""

import ctypes
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from openherd.core.errors import RequeueError


def cores() -> int:
    """Cores that this process may use: those it is pinned to, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Memory of this machine, or of the part of it that this process may use where the system says so."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no Linux, or no limit ("max")
        return machine


def resident_bytes(process: int) -> int:
    """Memory that a process of this machine holds; 0 where it is gone."""
    try:
        if sys.platform == "linux":
            return int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
        told = subprocess.run(["ps", "-o", "rss=", "-p", str(process)], capture_output=True, text=True).stdout
        return int(told or 0) * 1024
    except (OSError, ValueError):
        return 0


@cache
def processor() -> str:
    """The processor's name and what it can do, in words that are the same on its likes alone."""
    found = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        found += sorted({line for line in lines if line.startswith(("model name", "flags", "CPU part", "Features"))})
    except OSError:  # no Linux
        pass
    return "\n".join(found)


def cache_folder() -> Path:
    """Where this user's machine remembers what can be made anew."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "openherd"


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
TOP_PAD = 1 << 26  # bytes asked for beyond what is needed: blocks that are aligned need a little more than they leave


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, on Linux with glibc; elsewhere nothing.

    A step frees and asks again for the same large blocks, and glibc would give each back to the system and take it again zeroed,
    page by page. Figures are in decision 18.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)  # large blocks too come from the heap
        library.mallopt(M_TRIM_THRESHOLD, -1)  # which never shrinks
        library.mallopt(M_TOP_PAD, TOP_PAD)


BEGUN = "OPENHERD_BEGUN"  # the environment variable that tells a started process when that which started it began, Unix time


class Place(NamedTuple):
    """One process of several."""

    rank: int
    world: int
    local_rank: int  # on this machine


LAUNCHERS = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))


def place() -> Place | None:
    """This process's place, as torchrun or Slurm say it in the environment; None for a process on its own."""
    if "MASTER_ADDR" in os.environ:
        for rank, world, local in LAUNCHERS:
            if rank in os.environ and world in os.environ:
                return Place(int(os.environ[rank]), int(os.environ[world]), int(os.environ.get(local, "0")))
    return None


@contextmanager
def leaves_when_asked(where: object) -> Iterator[None]:
    """SIGTERM, which a scheduler sends some time before it kills, raises RequeueError in a process on its own, wherever it is.

    What several processes are asked is for their launcher; what trains finishes its step first.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise RequeueError(where, "asked to leave (SIGTERM)", do="the same command goes on from there")

    if place() is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def leads() -> bool:
    """Whether this process writes what is written once: it is alone, or the first."""
    here = place()
    return here is None or here.rank == 0
