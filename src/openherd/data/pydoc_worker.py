"""Renders pages of pydoc in a process of its own: `python pydoc_worker.py SECONDS MODULE ...`, one JSON object a line on standard output.

Standard library alone, so that it runs with no environment. What a module prints while it is imported goes nowhere, and a page that
takes longer than SECONDS is given up; a module that kills the process takes this process alone with it.
"""

import importlib
import json
import os
import pydoc
import signal
import sys
import warnings
from types import FrameType


def too_slow(signal_number: int, frame: FrameType | None) -> None:
    """The alarm's handler."""
    raise TimeoutError("took too long")


def render(name: str, seconds: int) -> dict[str, str]:
    """The HTML page of a module, or the reason why there is none."""
    signal.alarm(seconds)
    try:
        module = importlib.import_module(name)
        html = pydoc.HTMLDoc()
        return {"name": name, "html": html.page(name, html.document(module, name))}
    except BaseException as error:  # a module may call sys.exit() when it is imported
        return {"name": name, "reason": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    finally:
        signal.alarm(0)


def main() -> None:
    """Render the modules named on the command line."""
    signal.signal(signal.SIGALRM, too_slow)
    warnings.simplefilter("ignore")
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for name in sys.argv[2:]:
        results.write(json.dumps(render(name, int(sys.argv[1]))) + "\n")
        results.flush()


if __name__ == "__main__":
    main()
