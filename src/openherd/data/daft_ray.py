"""The engine's work done on a Ray cluster by Daft (paper 3.1): the same function, pieces and files as on one machine.

Daft gives pieces of work to its workers on the cluster. A worker reads its rows and leaves the account where the engine looks for
it, so the run's directory must lie under one path for all machines, as on a cluster's shared disk. Order, resume and account are
the engine's: Daft promises no order of rows, and its own resume takes fewer plans. A document that kills a process kills the
guarded one that the worker has started, not the worker, with which Daft would end the whole query.
"""

import os
import pickle
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from typing import Any

from openherd.core.errors import ConfigError, OpenherdError
from openherd.data.guard import Child
from openherd.data.work import Piece, Work

PARTITIONS_PER_WORKER = 4
ANSWER_S = 10.0
QUIET = {  # both tell their makers of use otherwise
    "DO_NOT_TRACK": "1",
    "DAFT_ANALYTICS_ENABLED": "0",
    "DAFT_PROGRESS_BAR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class Worker:
    """Does work on one machine of the cluster, in a guarded process."""

    def __init__(self, make_child: Callable[[], Child], pieces: Sequence[Work]) -> None:
        self.child, self.pieces = make_child(), pieces

    def work(self, numbers: Any) -> list[bytes]:
        """Do the pieces of these numbers and leave their accounts; returns for each the error that a person can mend, if any."""
        return [self._do(self.pieces[i]) for i in numbers.to_pylist()]

    def _do(self, piece: Work) -> bytes:
        try:
            piece.do(self.child)
        except OpenherdError as error:
            return pickle.dumps(error)
        return b""


def check_answers(address: str) -> None:
    """Raise ConfigError where nothing answers at HOST:PORT: Ray itself would ask for two minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "://" not in address:
        try:
            socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
        except OSError as error:
            raise ConfigError("engine", f"address = {address!r}: {error}", do="start the cluster, or mend the address") from None


def connect(address: str) -> int:
    """Have Daft run on a Ray cluster; returns its processors. Raises ConfigError where that cannot be."""
    os.environ.update(QUIET)
    try:
        import daft
        import ray
    except ImportError as error:
        raise ConfigError("engine", f"kind = 'daft-ray' without {error.name}", do="pip install 'openherd[ray]'") from None
    if not ray.is_initialized():
        check_answers(address)
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if address:
            options["address"] = address
        else:
            paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            options |= {"include_dashboard": False, "runtime_env": {"env_vars": paths}}
        try:
            ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = f"address = {address!r}" if address else "a Ray cluster here"
            raise ConfigError("engine", f"{where}: {error}", do="start the cluster, or mend the address") from None
    daft.set_runner_ray(noop_if_initialized=True)
    return int(ray.cluster_resources().get("CPU", 1))


def done_on_ray(
    make_child: Callable[[], Child], pieces: Sequence[Piece], processes: int, address: str
) -> Generator[Piece, None, None]:
    """Do work, at most `processes` at once (0: as many as the cluster has processors); yields each when it is done."""
    processors = connect(address)
    import daft

    n = min(processes or processors, len(pieces))

    work = daft.method.batch(Worker.work, return_dtype=daft.DataType.binary(), batch_size=1)
    worker = daft.cls(type("Worker", (Worker,), {"work": work}), cpus=1, max_concurrency=n)(make_child, list(pieces))
    numbers = daft.from_pydict({"piece": list(range(len(pieces)))}).into_partitions(min(len(pieces), PARTITIONS_PER_WORKER * n))
    for row in numbers.with_column("error", worker.work(daft.col("piece"))).iter_rows():
        if row["error"]:
            raise pickle.loads(row["error"])
        yield pieces[row["piece"]]
