"""The training loop: one for all objectives and phases (paper 3.4).

It takes an objective, a function from step to batch, and a function from step to learning rate. A step is straight-line code. The
state is model, optimizer and the number of steps done; data order and learning rate are pure functions of the step, so that a
resumed run repeats the unbroken one bit for bit (same layout, same thread count). The thread count is recorded; one process takes
it up again, several have what their launcher gives them.
"""

import contextlib
import json
import math
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from openherd.core.errors import DamagedError, InputError, LostError, OpenherdError, RequeueError
from openherd.core.metrics import MetricsLog
from openherd.core.progress import Progress
from openherd.core.rundir import Output
from openherd.data.prefetch import Prefetch
from openherd.model.device import deterministic_algorithms
from openherd.parallel.apply import Sharded
from openherd.parallel.checkpoint import Checkpointer, load_moments, load_state, save_state
from openherd.parallel.mesh import World, flight_record, is_lost
from openherd.parallel.stage import Batch, Objective
from openherd.training.goodput import ALIVE, Heartbeat, Ledger, Pace, goodput, heartbeat_s, silent
from openherd.training.optimizer import make_adamw, set_learning_rate
from openherd.training.resilience import (
    Range,
    Watch,
    add_range,
    is_in,
    is_marked_good,
    leaving,
    mark_good,
    read_skips,
    update_norms,
    write_skips,
)
from openherd.training.settings import TrainingConfig

CHECKPOINTS = ".checkpoints"
STATE = "state"
SNAPSHOTS = "snapshots"
EVENTS = "events.jsonl"
FLIGHT = ".flight"
OVERFLOW = "overflow"  # of fp16: what a lower loss scale mends
OTHERS = "others_B"  # of a batch: whether a row is another process's, and here to make the shares even
TOKENS = "tokens"  # counted beside the objective's terms


Part = Callable[[int, int, int], Batch]  # step, place, of how many processes: the rows of that place


def train(
    model: Sharded,
    objective: Objective,
    part: Part,
    learning_rate_at: Callable[[int], float],
    steps: int,
    config: TrainingConfig,
    out: Output,
    *,
    what: str,
    optimizer_from: Path | None = None,
    snapshot_steps: tuple[int, ...] = (),
    skips: Sequence[Range] = (),
) -> dict[str, Any]:
    """Train `model` in place for `steps` steps, resuming where an earlier process was stopped; returns metrics.

    `part(step, place, n)` gives this process's rows of a step's batch. Writes a record a step to `metrics.jsonl`, what went wrong
    to `events.jsonl`, where the time went to `goodput.jsonl`, the final optimizer state to `state`, and the weights after each of
    `snapshot_steps` to `snapshots/`. Bad steps are not applied, and spikes roll back (see `resilience`); the data of `skips`,
    ranges of steps, are passed over from the start. `optimizer_from` is the `state` of the phase before, whose moments are taken
    up: not its weights, which may have been averaged since, nor its settings. Raises OpenherdError where there is no way on, and
    RequeueError where a scheduler asks to leave, with a checkpoint written.
    """
    world = model.world
    optimizer = make_adamw(
        model.trained(),
        beta1=config.beta1,
        beta2=config.beta2,
        epsilon=config.epsilon,
        weight_decay=config.weight_decay,
        decay_norms=config.decay_norms,
        decay_embeddings=config.decay_embeddings,
        weight_decay_schedule=config.weight_decay_schedule,
        rates=map(learning_rate_at, range(steps)),
        moments_dtype=config.moments_dtype,
        offload=config.optimizer_offload,
    )
    with (
        deterministic_algorithms(config.deterministic),
        Checkpointer(model, optimizer, config.checkpoint_behind) as checkpointer,
        Prefetch(lambda step: part(step, world.index("dp"), world.layout.dp), steps) as ahead,
        Heartbeat(out, world),
        leaving() as asked,
    ):
        run = Steps(model, optimizer, objective, ahead, learning_rate_at, steps, config, out, checkpointer, snapshot_steps)
        run.resume(optimizer_from, skips)
        with Progress(what, steps, "steps") as progress:
            progress.resume_at(run.step)
            try:
                while run.step < steps:
                    note = run.take(leave=asked.asked)
                    progress.reach(run.step, note)
                run.finish()
            except Exception as error:
                if world.mesh is None or not is_lost(error):
                    raise
                raise lost(error, world, out, run.step) from error
    world.wait()
    if world.leads:
        shutil.rmtree(out.path / ALIVE, ignore_errors=True)
    return run.metrics()


def lost(error: Exception, world: World, out: Output, step: int) -> LostError:
    """What happened where others are gone or hang, and who they are, by the heartbeats that have stopped."""
    at = round(time.time(), 3)
    beat_s = heartbeat_s(world.layout.world)
    time.sleep(3 * beat_s)  # a process that died this moment has not been silent for long
    gone = silent(out, world.layout.world, 2.5 * beat_s)
    file = out.path / FLIGHT / f"{world.rank}.json"
    last = flight_record(file)
    who = ", ".join(f"process {rank} has given no sign of life for {age:.0f} s" for rank, age in sorted(gone.items()))
    text = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    reason = re.sub(r"^\[[^]]*\] ", "", text).partition(". ")[0]  # without gloo's own file, and its advice
    who = who or "all give signs of life: the network, or slow work"
    do = f"all start again from the last checkpoint; {file} has this process's collectives"
    do += f", the last: {last}" if last else ""
    found = f"process {world.rank} lost others at step {step} ({reason}); {who}"
    tell(out, "lost", at=at, step=step, rank=world.rank, reason=reason, silent=sorted(gone), last_collective=last)
    return LostError(out.path, found, do=do)


class Steps:
    """The steps of one run and what they need: straight-line code in `take`, and the ways off it."""

    def __init__(
        self,
        model: Sharded,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        ahead: Prefetch[Batch],
        learning_rate_at: Callable[[int], float],
        steps: int,
        config: TrainingConfig,
        out: Output,
        checkpointer: Checkpointer,
        snapshot_steps: tuple[int, ...],
    ) -> None:
        self.model, self.optimizer, self.objective, self.ahead = model, optimizer, objective, ahead
        self.learning_rate_at, self.steps, self.config, self.out = learning_rate_at, steps, config, out
        self.checkpointer, self.snapshot_steps = checkpointer, snapshot_steps
        self.world = model.world
        self.watch, self.pace, self.ledger = Watch(config), Pace(model.world), Ledger(out)
        self.step = self.tokens = 0
        self.kept_at = 0  # the step at which a checkpoint was last due
        self.skips: list[Range] = []

    def resume(self, optimizer_from: Path | None, skips: Sequence[Range]) -> None:
        """Go on from the newest checkpoint that is whole, or take up the moments of the phase before."""
        self.read_state(self.newest())
        if not self.step and optimizer_from is not None:
            load_moments(optimizer_from, self.model, self.optimizer)
        for first, end in [*skips, *read_skips(self.out)]:
            self.skips = add_range(self.skips, first, end)
        self.begun_at = self.step
        if self.ledger.goes_on:
            self.tell("resumed", step=self.step, processes=str(self.world.layout))
        self.rewind()
        self.ledger.begin()

    def newest(self) -> dict[str, Any]:
        """Read the newest checkpoint that is whole; returns its plain values, START's without one."""
        found = self.of_first(checkpoints(self.out))
        return self.first_whole(found)[0] if found else self.start()

    def of_first(self, paths: list[Path]) -> list[Path]:
        """The first process's paths: what others see of a shared disk can be older."""
        found: list[Path] = self.world.gather(paths)[0]
        return found

    def first_whole(self, paths: Sequence[Path]) -> tuple[dict[str, Any], Path]:
        """Read the first of these checkpoints that is whole; returns its plain values, and which it is.

        Says on standard error which were damaged. Removes them, and all that was kept at later steps, the newest first: it holds
        what led there, and a damaged one would become good and displace the last that is whole. Raises DamagedError where all are
        damaged; one that a disk does not give, or of another model, stays and is raised.
        """
        for i, path in enumerate(paths):
            try:
                found = load_state(path, self.model, self.optimizer, self.start())
            except DamagedError as error:
                if i == len(paths) - 1:
                    raise
                self.tell("damaged checkpoint", path=path.name)
                if self.world.leads:
                    sys.stderr.write(f"  {error.where}: {error.found}; going on from the checkpoint before\n")
                continue
            if self.world.leads:  # all have read the same ones
                for kept in (*checkpoints(self.out), *(self.out.path / SNAPSHOTS).glob("step-*")):
                    if kept in paths[:i] or step_of(kept) > step_of(path):
                        shutil.rmtree(kept)
            return found, path
        raise AssertionError("no checkpoint to go on from")

    def start(self) -> dict[str, Any]:
        """START, with the loss scale's values where it moves."""
        return {**START, **self.model.loss_scale.state()}

    def read_state(self, found: Mapping[str, Any]) -> None:
        """Take up what a checkpoint says beside weights and moments."""
        self.step = self.kept_at = int(found["step"])
        self.tokens = int(found["tokens"])
        self.watch.read(found["watch"])
        self.model.loss_scale.take_up(found)
        for first, end in json.loads(found["skips"]):
            self.skips = add_range(self.skips, first, end)

    def extra(self, step: int) -> dict[str, Any]:
        """What a checkpoint says beside weights and moments, with `step` steps done."""
        plain = {"step": step, "tokens": self.tokens, "watch": self.watch.text(), "skips": json.dumps(self.skips)}
        return {**plain, **self.model.loss_scale.state()}

    def rewind(self) -> None:
        """Take out of the log what is going to be done again."""
        if self.world.leads:
            self.out.metrics.rewind(lambda record: record["step"] < self.step)
        self.world.wait()

    def take(self, leave: bool) -> str:
        """The next step, or nothing where its data are passed over; returns a note on it. Raises RequeueError to leave."""
        step, started = self.step, time.perf_counter()
        if is_in(self.skips, step):
            self.out.log(step=step, tokens=self.tokens, loss_nats=None, skipped=True, time_s=0.0)
            self.advance()
            return "passed over"
        with self.ledger.waiting("data"):
            batch = {name: tensor.to(self.world.device) for name, tensor in self.ahead.get(step)[0].items()}
        self.pace.arrive()
        counts, n_tokens, leave = self.count(batch, leave)
        self.watch.meet([n_tokens, batch["tokens_BT"].shape[1]])
        losses, gradient_norm, wrong = self.gradients(batch, counts)
        self.pace.leave()
        if wrong:
            return self.reject(wrong, losses, gradient_norm, time.perf_counter() - started)
        learning_rate = self.learning_rate_at(step)
        set_learning_rate(self.optimizer, learning_rate)
        self.model.step(self.optimizer)
        norm = math.sqrt(self.model.sum_over_parts(update_norms(self.optimizer, self.model.trained())))
        self.tokens += n_tokens
        if self.watch.accept(step, losses["loss_nats"], norm):
            self.tell("large update", step=step, update_norm=norm)
        record = {"step": step, "tokens": self.tokens, **losses, "learning_rate": learning_rate}
        record |= {"gradient_norm": gradient_norm, "update_norm": norm, **self.scale()}
        self.out.log(**record, time_s=round(time.perf_counter() - started, 4))
        self.advance()
        with self.ledger.waiting("checkpoint"):
            self.keep(leave)
        self.ledger.step(step, applied=True)
        if leave and self.step < self.steps:
            kept = next(map(step_of, self.of_first(checkpoints(self.out))), 0)
            before = f"the one before, of step {kept}, is kept" if kept else "none is kept"
            what = "which is kept" if kept == self.step else f"of which the disk refused a checkpoint; {before}"
            found = f"asked to leave (SIGTERM) after step {self.step}, {what}"
            raise RequeueError(self.out.path, found, do="the same command goes on from there")
        return f"loss {losses['loss_nats']:.3f}"

    def count(self, batch: Batch, leave: bool) -> tuple[dict[str, float], int, bool]:
        """What each term of the loss is divided by, over all processes; tokens; and whether any process is asked to leave."""
        mine = {**self.objective.counts(batch), TOKENS: own_tokens(batch)}
        *sums, n_leave = self.world.sum([*(float(n) for n in mine.values()), float(leave)])
        # Processes that share rows count them alike.
        copies = self.world.layout.world // self.world.layout.dp
        counts = {name: n / copies for name, n in zip(mine, sums, strict=True)}
        return counts, int(counts.pop(TOKENS)), n_leave > 0

    def gradients(self, batch: Batch, counts: dict[str, float]) -> tuple[dict[str, float], float, str]:
        """Losses, the gradient's norm (clipped since) and what is wrong with them. A bad step is computed twice, to tell a failure
        of a device, which does not come again, from the data's or the weights'."""
        first: tuple[dict[str, float], float, str] | None = None
        while True:
            losses = self.model.gradients(self.objective, batch, counts, self.config.micro_batch_sequences)
            norm = self.model.clip(self.config.gradient_clip)
            loss_is_finite = all(map(math.isfinite, losses.values()))
            if self.model.loss_scale.after(loss_is_finite, norm):
                return losses, norm, OVERFLOW
            wrong = self.watch.verdict(losses["loss_nats"] if loss_is_finite else math.nan, norm)
            if first is None and wrong:
                first = losses, norm, wrong
                self.model.zero()
                continue
            if first is not None and not wrong:
                self.tell("transient fault", step=self.step, first_loss_nats=finite(first[0]["loss_nats"]), **losses)
            return losses, norm, wrong

    def reject(self, wrong: str, losses: dict[str, float], gradient_norm: float, seconds: float) -> str:
        """Do not apply a step; roll back where that is called for."""
        step = self.step
        self.model.zero()
        record: dict[str, Any] = {"step": step, "tokens": self.tokens, **dict.fromkeys(losses), "gradient_norm": None}
        record["skipped"] = True
        if wrong == OVERFLOW:
            return self.pass_over({**record, "overflow": True}, seconds, wrong)
        limit = self.watch.limit()
        self.watch.reject(step)
        self.tell(wrong, step=step, loss_nats=finite(losses["loss_nats"]), gradient_norm=finite(gradient_norm), limit_nats=limit)
        self.skips = add_range(self.skips, step, step + 1)
        too_many = self.watch.bad_in_a_row > self.config.most_skipped_steps
        targets = self.ways_back() if too_many or wrong == "spike" else []
        if targets:
            return self.roll_back(targets)
        if too_many:
            found = f"step {step}: loss {losses['loss_nats']:.4g}, gradient norm {gradient_norm:.4g}"
            more = f", after {n} such steps" if (n := self.watch.bad_in_a_row - 1) else ""
            why = f"{n} rollbacks did not help" if (n := self.watch.rollbacks) else "no checkpoint to go back to"
            do = "lower learning_rate, or raise warmup_steps; the checkpoint before is kept"
            raise OpenherdError(self.out.path, f"{found}{more}; {why}", do=do)
        self.keep_skips()
        return self.pass_over(record, seconds, wrong)

    def pass_over(self, record: dict[str, Any], seconds: float, wrong: str) -> str:
        """Log a step that is not applied."""
        self.out.log(**record, **self.scale(), time_s=round(seconds, 4))
        self.ledger.step(self.step, applied=False)
        self.advance()
        return f"{wrong}, not applied"

    def advance(self) -> None:
        """A step further, applied or not, with the snapshot that is due then."""
        self.step += 1
        if self.step in self.snapshot_steps:
            with self.ledger.waiting("checkpoint"):
                self.settle()  # two cannot be written at once: their processes would answer each other
                save_state(self.out.path / SNAPSHOTS / name_of(self.step), self.model, None, {})

    def scale(self) -> dict[str, float]:
        """What a record says of the loss scale."""
        return {"loss_scale": self.model.loss_scale.value} if self.model.loss_scale.moves else {}

    def ways_back(self) -> list[Path]:
        """Where to go back to, the best first: good checkpoints before the first suspicious step, then others, of each the
        newest first; none where going back has not helped."""
        first = self.watch.suspicious_since
        assert first is not None
        if self.watch.rollbacks >= self.config.most_rollbacks:
            return []
        self.settle()
        self.world.wait()
        before = [path for path in checkpoints(self.out) if step_of(path) <= first]
        return self.of_first(sorted(before, key=lambda path: not is_marked_good(path)))

    def roll_back(self, targets: Sequence[Path]) -> str:
        """Back to the first checkpoint that is whole; the data from the first suspicious step on are passed over.

        That is written last: where a run ends before, it meets the same spike again.
        """
        ends, first = self.step, self.watch.suspicious_since
        assert first is not None
        rollbacks = self.watch.rollbacks + 1
        found, target = self.first_whole(targets)
        self.read_state(found)
        self.skips = add_range(self.skips, first, ends + 1)
        self.keep_skips()
        self.watch.rollbacks, self.watch.clean_since = rollbacks, max(self.watch.clean_since, ends + 1)
        self.tell("rollback", step=ends, to_step=self.step, good=is_marked_good(target), skipped=[first, ends + 1])
        self.rewind()
        self.ledger.step(ends, applied=False)
        return f"rolled back to step {self.step}"

    def keep(self, leave: bool) -> None:
        """What is due after a step: a checkpoint, the mark of a good one."""
        step = self.step
        if self.world.leads:
            self.rotate()
        every = self.config.checkpoint_steps
        if (step // every > self.kept_at // every or leave) and step < self.steps:
            self.kept_at = step
            self.settle()
            for slow in self.pace.slow():
                self.tell("slow process", step=step, **slow)
            with self.told_refusal():
                self.checkpointer.save(self.out.path / CHECKPOINTS / name_of(step), self.extra(step))
                if leave:
                    self.checkpointer.wait()

    def settle(self) -> None:
        """Until the last checkpoint is written."""
        with self.told_refusal():
            self.checkpointer.wait()

    @contextlib.contextmanager
    def told_refusal(self) -> Iterator[None]:
        """Where the disk refuses a checkpoint, it is told: the one before is still there."""
        try:
            yield
        except OSError as error:
            self.tell("checkpoint failed", step=self.step, reason=error.strerror)
            if self.world.leads:
                sys.stderr.write(f"  {error.filename}: {error.strerror}; the checkpoint before is kept\n")

    def rotate(self) -> None:
        """Mark the checkpoints that have become good, and remove old ones: never the last good one, nor the next to become it."""
        found = checkpoints(self.out)
        for path in found:
            if not is_marked_good(path) and self.watch.is_good(step_of(path)):
                mark_good(path)
        good = next((i for i, path in enumerate(found) if is_marked_good(path)), len(found))
        for i, old in enumerate(found):
            if i >= self.config.keep_checkpoints and i not in (good - 1, good):
                shutil.rmtree(old)

    def keep_skips(self) -> None:
        """Write what is passed over at once: the next checkpoint may be far."""
        if self.world.leads:
            write_skips(self.out, self.skips)

    def tell(self, event: str, **more: Any) -> None:
        """Note an event."""
        if self.world.leads:
            tell(self.out, event, **more)

    def finish(self) -> None:
        """The final state. Raises OpenherdError where nothing was learnt, or the weights are broken."""
        out = self.out
        nothing = self.world.leads and all(record.get("skipped") for record in out.metrics.read())
        if self.world.sum([float(nothing)])[0]:
            raise OpenherdError(out.path, "no step had a finite loss and gradient", do="lower learning_rate, or look at the data")
        if broken := self.model.not_finite():
            found = f"{broken} is not finite after {self.steps} steps"
            raise OpenherdError(out.path, found, do="lower learning_rate; the checkpoint before is kept")
        self.settle()
        if self.begun_at < self.steps:
            save_state(out.path / STATE, self.model, self.optimizer, self.extra(self.steps))
        if self.world.leads:
            shutil.rmtree(out.path / CHECKPOINTS, ignore_errors=True)
        self.world.wait()
        self.ledger.end()

    def metrics(self) -> dict[str, Any]:
        """What the manifest says of the run."""
        records = self.out.metrics.read()
        seconds = sum(r["time_s"] for r in records)
        losses_nats = [r["loss_nats"] for r in records if not r.get("skipped")] or [math.nan]
        last = losses_nats[-max(len(losses_nats) // 20, 1) :]
        overflows = sum(r.get("overflow", False) for r in records)
        skipped = sum(r.get("skipped", False) for r in records) - overflows
        return {
            "steps": self.steps,
            "tokens": self.tokens,
            "loss_nats_last_5_percent": sum(last) / len(last),
            "final_loss_nats": losses_nats[-1],
            **({"skipped_steps": skipped, "skipped": self.skips} if skipped else {}),
            **({"overflow_steps": overflows} if overflows else {}),
            "tokens_per_s": self.tokens / seconds if seconds else 0.0,
            "precision": self.model.precision,
            "goodput_s": goodput(self.out.path),
        }


def tell(out: Output, event: str, **more: Any) -> None:
    """Note an event in `events.jsonl`."""
    MetricsLog(out.path / EVENTS).append({"event": event, "at": round(time.time(), 3), **more})


def own_tokens(batch: Batch) -> int:
    """Tokens of a process's rows, less those of another's that fill up an uneven share."""
    rows, length = batch["tokens_BT"].shape
    return (rows - int(batch[OTHERS].sum()) if OTHERS in batch else rows) * length


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def name_of(step: int) -> str:
    """The name of the checkpoint after so many steps."""
    return f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """How many steps were done at a checkpoint."""
    return int(checkpoint.name.removeprefix("step-")) if checkpoint.name != STATE else sys.maxsize


def checkpoints(out: Output) -> list[Path]:
    """Where an unfinished run can go on, the best first: its final state, else its checkpoints from the newest to the oldest."""
    return [path for path in (out.path / STATE, *sorted((out.path / CHECKPOINTS).glob("step-*"), reverse=True)) if path.exists()]


START: dict[str, Any] = {"step": 0, "tokens": 0, "watch": "", "skips": "[]"}


@torch.no_grad()
def average_snapshots(model: Sharded, out: Output) -> int:
    """Replace the weights by the mean of the run's snapshots (paper 3.4.3); returns how many there were."""
    paths = sorted((out.path / SNAPSHOTS).glob("step-*"))
    if not paths:
        raise InputError(out.path / SNAPSHOTS, "no snapshot to average", do="remove this run and make it again")
    totals = [torch.zeros_like(local, dtype=torch.float64) for _, local in model.trained()]
    for path in paths:
        load_state(path, model, None, {})
        for total, (_, local) in zip(totals, model.trained(), strict=True):
            total += local
    for total, (_, local) in zip(totals, model.trained(), strict=True):
        local.copy_(total / len(paths))
    return len(paths)
