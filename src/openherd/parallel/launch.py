"""Starting the processes of a run on this machine, by torchrun's agent (paper 3.3.4).

When one dies all are started again and go on from the last checkpoint. On a cluster a launcher starts the same command on every
machine (torchrun, Slurm), and nothing here runs.
"""

import json
import logging
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from openherd.core import errors
from openherd.core.errors import LostError, OpenherdError, RequeueError
from openherd.core.machine import BEGUN, cores, place

LEAVE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"  # torchrun's variable for the seconds that processes have to end
AGENT = "torch.distributed.elastic.agent.server.api"  # whose logger has a level of its own
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # by the agent
MEETING = {"last_call_timeout": 5}  # seconds that agents wait for more of them than they need
ERROR_FILE = "OPENHERD_ERROR_FILE"  # the environment variable that tells a started process where to leave its error


@dataclass(frozen=True)
class Agents:
    """Where the agents of several machines meet; by default one is alone."""

    least: int = 1
    most: int = 1
    endpoint: str = "localhost:0"
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)


def launch(
    arguments: Sequence[str],
    n: int,
    restarts: int,
    error_file: Path,
    where: object,
    *,
    leave_s: float = 30.0,
    agents: Agents | None = None,
    reached: Callable[[], int] = lambda: 0,
) -> None:
    """Run `python ARGUMENTS` as `n` processes here, all again when one dies, at most `restarts` times in a row.

    Where `reached` says more than at the restart before, a new row begins; with several agents, which restart by themselves, all
    restarts count. Asked to end, the processes have `leave_s` seconds. Raises the error that a process left, or OpenherdError where
    the restarts have run out, or RequeueError after SIGTERM.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("torch.distributed", AGENT):  # their tracebacks and warnings say less than the line below
        logging.getLogger(name).setLevel(logging.CRITICAL)
    error_file.unlink(missing_ok=True)
    threads = str(max(cores() // n, 1))
    wanted = {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        LEAVE: str(max(round(leave_s), 1)),
    }
    before = {name: os.environ.get(name) for name in (*wanted, ERROR_FILE, BEGUN)}
    os.environ.update({**wanted, ERROR_FILE: str(error_file), BEGUN: str(time.time())})
    agents = agents or Agents()
    alone = agents.most == 1
    config = LaunchConfig(
        min_nodes=agents.least,
        max_nodes=agents.most,
        nproc_per_node=n,
        run_id=agents.run_id,
        rdzv_backend="c10d",
        rdzv_endpoint=agents.endpoint,
        rdzv_configs=MEETING,
        max_restarts=0 if alone else restarts,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(),
    )
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    left, furthest = restarts, reached()
    try:
        while True:
            try:
                elastic_launch(config, sys.executable)(*arguments)
                return
            except ChildFailedError:
                if (here := reached()) > furthest:
                    left, furthest = restarts, here
                if error_file.exists() or not alone or not left:
                    raise
                left -= 1
    except ChildFailedError as error:
        said = left_error(error_file)
        if said is not None:
            raise said from None
        rank, failure = error.get_first_failure()
        how = f"signal {-failure.exitcode}" if failure.exitcode < 0 else f"exit code {failure.exitcode}"
        found = f"process {rank} of {n} died ({how}), and {restarts} restarts did not help"
        raise OpenherdError(where, found, do="see above; the same command goes on from the last checkpoint") from None
    except SignalException as error:
        said = left_error(error_file)
        if said is not None:
            raise said from None
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise RequeueError(where, "asked to leave", do="the same command goes on from the last checkpoint") from None
    finally:
        error_file.unlink(missing_ok=True)
        for number, handler in handlers.items():  # the agent leaves its own behind
            signal.signal(number, handler)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def free_endpoint() -> str:
    """An address on this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return f"localhost:{probe.getsockname()[1]}"


def wait_for(endpoint: str, most_s: float = 60.0) -> None:
    """Until somebody listens there, or so long."""
    host, _, port = endpoint.rpartition(":")
    until = time.monotonic() + most_s
    while time.monotonic() < until:
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError:
            time.sleep(0.1)


def is_started() -> bool:
    """Whether `launch` started this process, and says what there is to say."""
    return ERROR_FILE in os.environ and place() is not None


def leave_error(error: OpenherdError) -> bool:
    """Leave an error for the process that started this one; whether nobody need say it here."""
    if not is_started():
        return False
    if isinstance(error, LostError):  # a restart mends what was lost, unless another process left because of an error
        return gave_up()
    file = os.environ[ERROR_FILE]
    fields = {"kind": type(error).__name__, "where": error.where, "found": error.found, "allowed": error.allowed, "do": error.do}
    temporary = Path(f"{file}.{os.getpid()}")
    temporary.write_text(json.dumps(fields), encoding="utf-8")
    if not Path(file).exists():  # the first error is the cause
        os.replace(temporary, file)
    temporary.unlink(missing_ok=True)
    return True


def left_error(file: Path) -> OpenherdError | None:
    """The error that a started process left."""
    if not file.exists():
        return None
    fields = json.loads(file.read_text(encoding="utf-8"))
    kind: type[OpenherdError] = getattr(errors, fields["kind"])
    return kind(fields["where"], fields["found"], allowed=fields["allowed"], do=fields["do"])


def gave_up() -> bool:
    """Whether a process of this launch left an error, which no restart mends."""
    file = os.environ.get(ERROR_FILE)
    return file is not None and Path(file).exists()
