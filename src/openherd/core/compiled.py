"""C++ of our own that is compiled when it is first needed, and kept: by source, flags, compiler's package and processor.

torch's own machinery finds the compiler, in a process of its own: importing it would hold this one up for seconds. Whoever uses a
kernel has another way to the same result for machines without a compiler, so that no wheel of ours needs one.
"""

import contextlib
import ctypes
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

from openherd.core.machine import cache_folder, processor

# Its flags for vectors, where it would give any, would come behind ours.
COMPILE = """
import inspect, shutil, sys
from torch._inductor.codecache import CppCodeCache
own = {"needs_vec_isa": False} if "needs_vec_isa" in inspect.signature(CppCodeCache.load_async).parameters else {}
shutil.copy(CppCodeCache.load(open(sys.argv[1]).read(), extra_flags=tuple(sys.argv[3:]), **own)._name, sys.argv[2])
"""


class Compiled:
    """A compiled source, or why there is none; compiled once on a machine, in some seconds."""

    def __init__(self, source: Path, *flags: str) -> None:
        """With flags for the compiler."""
        self.source, self.flags = source, flags
        self.lock = threading.Lock()
        self.functions: Any = None
        self.error = ""
        self.compiler: subprocess.Popen[str] | None = None
        self.stopped = False

    @property
    def path(self) -> Path:
        """Where the result is kept."""
        source = self.source.read_text(encoding="utf-8")
        made_for = hashlib.sha256("\0".join([source, *self.flags, version("torch"), processor()]).encode()).hexdigest()
        return cache_folder() / "kernels" / f"{made_for[:32]}.so"

    def load(self) -> bool:
        """Compile, if need be; returns whether it is there."""
        with self.lock:
            if self.functions is None and not self.error:
                try:
                    self.functions = self.opened()
                except OSError as error:
                    self.error = str(error)
        return self.functions is not None

    def opened(self) -> Any:
        """The functions. Raises OSError where there is no compiler, or it fails."""
        return ctypes.CDLL(str(self._compiled()))

    def stop(self) -> None:
        """Give up compiling: the process ends."""
        self.stopped = True
        if self.compiler is not None and self.compiler.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.compiler.pid, signal.SIGKILL)

    def _compiled(self) -> Path:
        path = self.path
        if self.stopped:
            raise OSError("stopped")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                made = Path(folder) / path.name
                command = [sys.executable, "-c", COMPILE, str(self.source), str(made), *self.flags]
                pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
                # In a group of its own: Ctrl-C in a chat stops an answer, not the compiler.
                with subprocess.Popen(command, text=True, process_group=0, **pipes) as self.compiler:
                    said = self.compiler.communicate()[1].strip()
                if self.compiler.returncode:
                    errors = [line for line in said.splitlines() if "error" in line.lower()]
                    raise OSError((errors or said.splitlines() or ["the compiler was stopped"])[0])
                made.replace(path)
        return path
