"""The command line: parsing only.

`--help`, `stages` and `where` need nothing beyond the standard library and the static table of stages. Everything else is
imported when its command runs: a command's parser from the module that `COMMANDS` names, what it does from inside its function.
Errors that a person can mend are one line and exit code 2; tracebacks are our own bugs.
"""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module

from openherd import __version__
from openherd.cli.about import stages_text
from openherd.cli.arguments import EXIT_INTERRUPTED
from openherd.core.errors import ConfigError, LostError, OpenherdError
from openherd.core.machine import leaves_when_asked
from openherd.stages import BY_NAME

FORBIDDEN = (errno.EACCES, errno.EPERM)
REFUSED_BY_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, *FORBIDDEN)

ABOUT = """openherd: the system of "The Llama 3 Herd of Models", from pages to a chat.

commands:
  run RECIPE --out DIR       run a recipe; what is done is not done again
  run RECIPE --dry-run       its layouts, memory and steps; nothing is run
  chat DIR                   talk to the model of a run
  generate DIR PROMPT        continue or answer one prompt
  serve DIR                  the same by HTTP, as OpenAI's clients ask; a page
  import SOURCE --out DIR    a Llama 3 of Hugging Face's or Meta's, checked
  export DIR --to FORMAT     hf, meta or gguf (llama.cpp, ollama), checked
  show DIR [--mask]          manifest, metrics, lineage; a dialog with its mask
  diff A B                   settings, data and metrics of two runs side by side
  parity RECIPE              whether its layouts train as one process does
  drill RECIPE --out DIR     a rehearsal of failures, on real processes
  sweep RECIPE --out DIR     variants of a recipe; they share what is the same
  metrics DIR --to FORMAT    what training logged: tensorboard, csv or wandb
  clean DIR                  remove what no run names
  data page RUN --out FILE   what curation kept and dropped, to browse
  data explain URL|ID RUN    one document's story: each stage, why dropped
  data diff A B              what a changed setting keeps or drops
  data dry-run RUN           what each limit of the heuristics would drop
  tokenizer compare A B      two tokenizers on the same text, by language
  tokenizer convert SOURCE   Meta's rank file to tokenizer.json, and back
  plan MODEL --gpus N        layouts with memory, speed, days, cost, errors
  plan check FILE...         the planner against measured runs
  plan calibrate FILE        its constants from your own runs
  plan tutorial              the tutorial's energy and efficiency, checked
  plan failures              a run that fails, simulated: effective time, days
  scaling fit RUNS.csv       scaling laws from your runs, with intervals
  scaling ladder RECIPE      a recipe of runs by budget and size, to fit
  scaling advise             size and tokens for a budget; over-training
  scaling forecast SCORES    a benchmark's score at more FLOPs, in two stages
  model NAME                 shapes, parameters, FLOPs and cache of a model size
  doctor                     what this machine offers, in words
  stages                     the stages in the paper's order
  where WORD|SECTION         which module does what: "annealing", or "3.4.2"
  STAGE --help               a stage's settings, with units"""

# The command, and the module of this package that has its function: command_run, command_plan_check, ...
COMMANDS = {
    "run": "running",
    "chat": "answering",
    "generate": "answering",
    "serve": "answering",
    "show": "looking",
    "diff": "looking",
    "sweep": "running",
    "parity": "running",
    "drill": "running",
    "metrics": "looking",
    "clean": "looking",
    "import": "exchange",
    "export": "exchange",
    "plan": "planning",
    "plan check": "planning",
    "plan calibrate": "planning",
    "plan tutorial": "planning",
    "plan failures": "planning",
    "model": "about",
    "data page": "curating",
    "data explain": "curating",
    "data diff": "curating",
    "data dry-run": "curating",
    "tokenizer compare": "exchange",
    "tokenizer convert": "exchange",
    "scaling": "scaling",
    "scaling fit": "scaling",
    "scaling advise": "scaling",
    "scaling forecast": "scaling",
    "scaling ladder": "scaling",
    "doctor": "about",
    "stages": "about",
    "where": "about",
}
NOT_FOR_PEOPLE = {"worker": "running", "agent": "running"}  # how the runner starts processes


def command(name: str) -> Callable[[list[str]], int | None]:
    """The function of a command."""
    module = {**COMMANDS, **NOT_FOR_PEOPLE}[name]
    function = f"command_{name.replace(' ', '_').replace('-', '_')}"
    found: Callable[[list[str]], int | None] = getattr(import_module(f"openherd.cli.{module}"), function)
    return found


def root_help() -> str:
    """The first help page."""
    return f"usage: openherd COMMAND ...\n\n{ABOUT}\n\nstages (each a command; the paper's section beside it):\n{stages_text()}\n"


def group_help(name: str) -> str:
    """The commands that begin with a word, such as `data`; empty where none has a word behind it."""
    lines = [line for line in ABOUT.splitlines() if line.startswith(f"  {name} ")]
    known = any(one.startswith(f"{name} ") for one in COMMANDS)
    return "\n".join([f"usage: openherd {name} COMMAND ...", "", *lines, ""]) if known else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = dispatch(arguments)
        if (mesh := sys.modules.get("openherd.parallel.mesh")) is not None and mesh.leave():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # torch's threads abort now and then while Python is taken down
        return code
    except OpenherdError as error:
        return fail(error)
    except KeyboardInterrupt:
        return interrupted()
    except SystemExit:
        raise
    except BrokenPipeError:
        sys.stderr.close()  # the reader, `head` for one, has seen enough
        return 0
    except BaseException as error:  # torch's checkpoint errors are no Exceptions
        if "KeyboardInterrupt" in str(error):  # inside compiled code
            return interrupted()
        refused = refusal(error)
        if refused is None:
            raise
        place = refused.filename or "the output directory"
        what = refused.strerror or "cannot be written"
        do = "see who may read and write it" if refused.errno in FORBIDDEN else "make room"
        return fail(OpenherdError(place, what, do=f"{do} or give another --out, then the same command goes on"))


def dispatch(arguments: list[str]) -> int:
    """Find the command and call it."""
    if len(arguments) > 1 and arguments[0] == "help":
        return dispatch([*arguments[1:], "--help"])
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(root_help(), end="")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name in ("-V", "--version"):
        print(f"openherd {__version__}")
        return 0
    if name in NOT_FOR_PEOPLE:
        return int(command(name)(rest) or 0)
    if (words := " ".join(arguments[:2])) in COMMANDS:
        return int(command(words)(rest[1:]) or 0)
    if name in COMMANDS:
        if rest and (meant := get_close_matches(words, [one for one in COMMANDS if one.startswith(f"{name} ")], 1, 0.85)):
            raise ConfigError("command line", f"unknown command {words!r}", do=f"did you mean {meant[0]!r}?")
        return int(command(name)(rest) or 0)
    if name in BY_NAME:
        from openherd.cli.running import run_stage

        with leaves_when_asked(f"openherd {name}"):
            run_stage(name, rest)
        return 0
    if (help_of_group := group_help(name)) and rest in ([], ["-h"], ["--help"]):
        print(help_of_group, end="")
        return 0
    from openherd.core.config import nearest

    unknown = words if any(one.startswith(f"{name} ") for one in COMMANDS) else name
    raise ConfigError("command line", f"unknown command {unknown!r}", do=nearest(unknown, [*COMMANDS, *BY_NAME]))


def fail(error: OpenherdError) -> int:
    """Say what went wrong, or leave it to the process that started this one; returns the exit code."""
    from openherd.parallel.launch import leave_error

    if not leave_error(error):
        print(f"openherd: {error}", file=sys.stderr)
    if isinstance(error, LostError):
        sys.stderr.flush()
        os._exit(error.exit_code)  # the groups of processes that are broken would wait at the end
    return error.exit_code


def interrupted() -> int:
    """Say that the command was stopped, or leave it to the process that started this one; returns the exit code."""
    from openherd.parallel.launch import is_started

    if not is_started():
        print("\nopenherd: stopped; the same command resumes", file=sys.stderr)
    return EXIT_INTERRUPTED


def refusal(error: BaseException | None) -> OSError | None:
    """The error of a full or closed disk behind an error, which libraries wrap in errors of their own; None where there is none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in REFUSED_BY_DISK:
            return error
        if os.strerror(errno.ENOSPC) in str(error):
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        error = error.__cause__ or error.__context__
    return None
