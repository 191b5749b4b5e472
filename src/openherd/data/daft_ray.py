"""Shards of documents judged on a Ray cluster by Daft (paper 3.1): the same function, shards and files as on one machine.

Daft gives shards to its workers on the cluster. A worker reads its rows and leaves the account where the engine looks for it, so
the run's directory must lie under one path for all machines, as on a cluster's shared disk. Order, resume and account are the
engine's: Daft promises no order of rows, and its own resume takes fewer plans. A document that kills a process kills the guarded
one that the worker has started, not the worker, with which Daft would end the whole query.
"""

import os
import pickle
import sys
from collections.abc import Callable, Generator, Sequence
from typing import Any

from openherd.core.errors import ConfigError, OpenherdError
from openherd.data.document_shards import Shard
from openherd.data.guard import Guard

PARTITIONS_PER_WORKER = 4
QUIET = {  # both tell their makers of use otherwise
    "DO_NOT_TRACK": "1",
    "DAFT_ANALYTICS_ENABLED": "0",
    "DAFT_PROGRESS_BAR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class Worker:
    """Judges shards on one machine of the cluster, in a guarded process."""

    def __init__(self, make_guard: Callable[[], Guard], shards: Sequence[Shard]) -> None:
        self.guard, self.shards = make_guard(), shards

    def judge(self, numbers: Any) -> list[bytes]:
        """Judge the shards of these numbers and leave their accounts; returns for each the error that a person can mend, if any."""
        return [self._judge(self.shards[i]) for i in numbers.to_pylist()]

    def _judge(self, shard: Shard) -> bytes:
        try:
            shard.judge(self.guard.judge)
        except OpenherdError as error:
            return pickle.dumps(error)
        return b""


def connect(address: str) -> int:
    """Have Daft run on a Ray cluster; returns its processors. Raises ConfigError where that cannot be."""
    os.environ.update(QUIET)
    try:
        import daft
        import ray
    except ImportError as error:
        raise ConfigError("engine", f"kind = 'daft-ray' without {error.name}", do="pip install 'openherd[ray]'") from None
    if not ray.is_initialized():
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


def judged_on_ray(
    make_guard: Callable[[], Guard], shards: Sequence[Shard], processes: int, address: str
) -> Generator[Shard, None, None]:
    """Judge shards, at most `processes` at once (0: as many as the cluster has processors); yields each when it is done."""
    processors = connect(address)
    import daft

    n = min(processes or processors, len(shards))

    judge = daft.method.batch(Worker.judge, return_dtype=daft.DataType.binary(), batch_size=1)
    worker = daft.cls(type("Worker", (Worker,), {"judge": judge}), cpus=1, max_concurrency=n)(make_guard, list(shards))
    numbers = daft.from_pydict({"shard": list(range(len(shards)))}).into_partitions(min(len(shards), PARTITIONS_PER_WORKER * n))
    for row in numbers.with_column("error", worker.judge(daft.col("shard"))).iter_rows():
        if row["error"]:
            raise pickle.loads(row["error"])
        yield shards[row["shard"]]
