"""Renders pages of pydoc (for `python-docs`): a time limit and module names on standard input, a JSON object a line out.

Standard library alone, so that it runs with no environment. Each page is made in a child of its own, forked from the same
state: no page depends on what was imported for another (pydoc shows subclasses, registries and caches), and a module that hangs
or kills its process takes its own page alone with it. What a module prints goes nowhere.
"""

import importlib
import json
import os
import pydoc
import select
import signal
import sys
import time
import warnings


def render(name: str) -> dict[str, str]:
    """The HTML page of a module, or the reason why there is none."""
    try:
        module = importlib.import_module(name)
        html = pydoc.HTMLDoc()
        return {"name": name, "html": html.page(name, html.document(module, name))}
    except BaseException as error:  # a module may call sys.exit() when it is imported
        return {"name": name, "reason": f"{type(error).__name__}: {error}".splitlines()[0][:200]}


def render_apart(name: str, seconds: float) -> dict[str, str]:
    """`render` in a child process, which is killed after `seconds`."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        with os.fdopen(writer, "w", encoding="utf-8") as pipe:
            json.dump(render(name), pipe)
        os._exit(0)
    os.close(writer)
    answer, end = b"", time.monotonic() + seconds
    while ready := select.select([reader], [], [], max(end - time.monotonic(), 0))[0]:
        piece = os.read(reader, 1 << 20)
        if not piece:
            break
        answer += piece
    os.close(reader)
    os.kill(child, signal.SIGKILL)  # it has answered, or never will
    os.waitpid(child, 0)
    if not ready:
        return {"name": name, "reason": "took too long"}
    try:
        return dict(json.loads(answer))
    except ValueError:
        return {"name": name, "reason": "the process died"}


def main() -> None:
    """Read the time limit of a page in seconds, then names; write pages."""
    seconds, *names = sys.stdin.read().split()
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    warnings.simplefilter("ignore")
    sys.argv = sys.orig_argv = [""]  # pydoc shows them
    for name in names:
        json.dump(render_apart(name, float(seconds)), results)
        results.write("\n")
        results.flush()


if __name__ == "__main__":
    main()
