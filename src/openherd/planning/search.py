"""The layouts of a model on so many devices: all that can run, what each holds and takes, and why others cannot (paper 3.3.2).

A layout is TP within a node, CP, PP with virtual stages, data-parallel processes with what they share, sequences of a micro-batch,
and what is computed again. All combinations are reckoned at once, a table for each PP. The paper's rank order is assumed.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from openherd.core.config import nearest
from openherd.core.errors import ConfigError
from openherd.model.config import SIZES
from openherd.planning.constants import FITTED, Key, constants
from openherd.planning.engines import Engine
from openherd.planning.hardware import Hardware, Precision, is_low
from openherd.planning.memory import FILLED, GIB, Memory, memory
from openherd.planning.step_time import Clock, StepTime, step_time
from openherd.planning.workload import Recompute, Sharding, Step, shape_of, table

MOST_CP, MOST_PP, MOST_VIRTUAL, LEAST_CHUNK = 64, 64, 10, 4_096
ALIKE = 0.01  # of a step's time
MICRO_BATCHES = (1, 2, 4, 8)
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")
LAYOUT_KEYS = {
    "tp": "tp",
    "cp": "cp",
    "pp": "pp",
    "dp": "dp",
    "v": "virtual_stages",
    "micro": "micro_batch",
    "replicas": "replicas",
}
MORE_KEYS = {"recompute": RECOMPUTE, "sharding": ("none", "optimizer", "gradients", "weights")}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be trained, on what."""

    model: str
    gpus: int
    hardware: Hardware
    precision: Precision
    engine: Engine
    sequence_length: int = 8_192
    batch_tokens: int = 16_777_216
    tokens: float = 15.6e12
    fitted: Mapping[Key, Mapping[str, float]] = field(default_factory=lambda: FITTED)  # or a user's own

    def __post_init__(self) -> None:
        if self.model not in SIZES:
            raise ConfigError("plan", f"unknown model {self.model!r}", do=nearest(self.model, SIZES), allowed="openherd model list")
        for name, n in (("--gpus", self.gpus), ("--seq", self.sequence_length), ("--batch-tokens", self.batch_tokens)):
            if n < 1:
                raise ConfigError(name, f"{n}", allowed="1 or more")
        if not self.batch_tokens <= self.tokens < math.inf:
            raise ConfigError("--tokens", f"{self.tokens:g}", allowed=f"at least those of one step, {self.batch_tokens:,}")
        longest = SIZES[self.model].max_positions
        if self.sequence_length > longest:
            raise ConfigError("--seq", f"{self.sequence_length:,} tokens", allowed=f"{longest:,}, the model's context, or fewer")
        if self.batch_tokens % self.sequence_length:
            allowed = f"a multiple of --seq {self.sequence_length:,}"
            raise ConfigError("--batch-tokens", f"{self.batch_tokens:,}", allowed=allowed)
        self.hardware.peak(self.precision)

    @property
    def step(self) -> Step:
        """Its step on one device."""
        sequences = self.batch_tokens // self.sequence_length
        return Step(**shape_of(SIZES[self.model]), sequence_length=self.sequence_length, batch_sequences=sequences)

    @property
    def clock(self) -> Clock:
        """Its device with constants."""
        return Clock(self.hardware, self.precision, constants((self.hardware.kind, self.precision), self.fitted)[0])


@dataclass(frozen=True)
class Layout:
    """One layout of a job, reckoned: a table of one row."""

    step: Step
    memory: Memory
    time: StepTime

    @property
    def peak_gib(self) -> float:
        """Of the fullest place."""
        return float(self.memory.total.max()) / GIB

    @property
    def seconds(self) -> float:
        """Of a step."""
        return float(self.time.step[0, 0])

    def fits(self, job: Job) -> bool:
        """Whether the device has room for it."""
        return self.peak_gib <= FILLED * job.hardware.memory_gib

    @property
    def name(self) -> str:
        """As --layout takes it."""
        s = self.step
        sizes = f"tp={s.tp},cp={s.cp},pp={s.pp},dp={s.dp},v={s.virtual_stages},micro={s.micro_batch}"
        sizes += f",replicas={s.replicas}" if s.replicas > 1 else ""
        layers = "" if s.layers_by_place is None else ",layers=" + "+".join(f"{n:g}" for n in s.layers[0])
        return f"{sizes},recompute={s.recompute},sharding={s.sharding}{layers}"


@dataclass(frozen=True)
class Plan:
    """The best layouts of a job, and what became of the others."""

    job: Job
    best: tuple[Layout, ...]  # fastest first, one for each (TP, CP, PP)
    rejected: tuple[tuple[str, str], ...]  # layouts, and why: the nearest to fitting first
    counts: Mapping[str, int]  # of layouts, by what became of them


def sharing(engine: Engine, pp: int) -> tuple[Sharding, ...]:
    """What a program's data-parallel processes may share: Megatron's AdamW's state, the paper's gradients too, FSDP's both ways."""
    if engine.name.startswith("megatron"):
        return ("optimizer",)
    return ("gradients",) if engine.name == "llama3" or pp > 1 else ("gradients", "weights")


def divisors(n: int) -> list[int]:
    """Numbers that divide `n`."""
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


def candidates(job: Job, counts: Counter[str]) -> Iterator[Step]:
    """Layouts that can run, without micro-batches, recomputation and sharing yet; others are counted by why they cannot."""
    base, node = job.step, job.hardware.node
    for tp in divisors(job.gpus):
        if tp > min(node, base.n_kv_heads):
            continue
        for cp in divisors(job.gpus // tp):
            if cp > MOST_CP or (cp > 1 and job.sequence_length / cp < LEAST_CHUNK):
                continue
            for pp in divisors(job.gpus // (tp * cp)):
                if pp > min(MOST_PP, base.n_layers + 2):
                    continue
                dp = job.gpus // (tp * cp * pp)
                if base.batch_sequences % dp:
                    counts["cannot divide the batch's sequences"] += 1
                    continue
                for v in range(1, (MOST_VIRTUAL if pp > 1 else 1) + 1):
                    step = replace(base, tp=tp, cp=cp, pp=pp, dp=dp, virtual_stages=v)
                    if problems := step.problems():
                        counts[reason(problems[0])] += 1
                    else:
                        yield step


def reason(problem: str) -> str:
    """A problem without its numbers, to be counted."""
    if "stages" in problem:
        return "have more stages than layers, or micro-batches that make no whole rounds"
    return "do not divide heads, widths or lengths"


def variants(job: Job, steps: list[Step]) -> tuple[Step, Any]:
    """A table of layouts of one PP with every micro-batch, recomputation and way of sharing; and whose of `steps` each row is."""
    combinations = list(itertools.product(MICRO_BATCHES, RECOMPUTE, sharing(job.engine, steps[0].pp)))
    few = table(steps)
    rows = np.repeat(np.arange(len(steps)), len(combinations))
    micro, how, sharding = (np.array(column * len(steps))[:, None] for column in map(list, zip(*combinations, strict=True)))
    m, left_over = np.divmod((few.batch_sequences // few.dp)[rows], micro)
    whole_rounds = np.where(few.virtual_stages[rows] > 1, (m < few.pp) | (m % few.pp == 0), m >= few.pp)
    can = ((left_over == 0) & (m >= 1) & whole_rounds)[:, 0]
    columns = {f.name: getattr(few, f.name)[rows[can]] for f in fields(Step) if f.name != "pp"}
    columns |= {"micro_batch": micro[can], "recompute": how[can], "sharding": sharding[can]}
    return replace(few, **columns), rows[can]


def evaluate(job: Job, step: Step) -> Layout:
    """One layout. Raises ConfigError where it cannot run."""
    problems = step.problems()
    if step.gpus != job.gpus:
        problems.insert(0, f"tp x cp x pp x dp = {step.gpus:,}, --gpus {job.gpus:,}")
    if step.virtual_stages == 1 and step.micro_batches < step.pp:
        problems.append(f"{step.micro_batches:g} micro-batches for pp = {step.pp}; 1F1B asks for as many, virtual stages do not")
    if problems:
        raise ConfigError("--layout", problems[0], allowed="what divides the model, the batch and the devices")
    one = table([step])
    return Layout(step, memory(one, job.engine, is_low(job.precision)), step_time(one, job.clock, job.engine))


def parse_layout(text: str, job: Job) -> Step:
    """tp=8,cp=1,pp=16,dp=128,v=8,micro=1,recompute=none; layers=7+9+8+8 of uneven places. Raises ConfigError for what it does not
    know."""
    given: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or name not in {**LAYOUT_KEYS, **MORE_KEYS, "layers": ()} or LAYOUT_KEYS.get(name, name) in given:
            keys = ", ".join([*LAYOUT_KEYS, *MORE_KEYS, "layers"])
            raise ConfigError("--layout", f"{part.strip()!r}", allowed=f"name=value, each once, of {keys}")
        if name in MORE_KEYS:
            if value not in MORE_KEYS[name]:
                raise ConfigError("--layout", f"{name}={value}", allowed=", ".join(MORE_KEYS[name]))
            given[name] = value
        elif name == "layers":
            given["layers"] = [int(n) if n.isdecimal() else -1 for n in value.split("+")]
        else:
            if not value.isdecimal() or int(value) < 1:
                raise ConfigError("--layout", f"{name}={value}", allowed="a whole number, 1 or more")
            given[LAYOUT_KEYS[name]] = int(value)
    model = given.get("tp", 1) * given.get("cp", 1) * given.get("pp", 1)
    given.setdefault("dp", max(job.gpus // model, 1))
    given.setdefault("sharding", sharing(job.engine, given.get("pp", 1))[0])
    layers = given.pop("layers", None)
    step = replace(job.step, **given)
    if layers is not None:
        if len(layers) != step.pp or sum(layers) != step.n_layers or min(layers) < 0:
            allowed = f"{step.pp} counts (pp), {step.n_layers} layers in all"
            raise ConfigError("--layout", f"layers={'+'.join(map(str, layers))}", allowed=allowed)
        step = replace(step, layers_by_place=np.array([layers]))
    return step


def search(job: Job, n_best: int = 5, n_rejected: int = 6) -> Plan:
    """The fastest layouts that fit. Raises ConfigError where none can run at all."""
    counts: Counter[str] = Counter()
    by_pp: dict[int, list[Step]] = {}
    for step in candidates(job, counts):
        by_pp.setdefault(step.pp, []).append(step)
    device = FILLED * job.hardware.memory_gib * GIB
    found: list[tuple[float, float, Any]] = []  # seconds, bytes, layout
    for steps in by_pp.values():
        many, of = variants(job, steps)
        if not len(of):
            continue
        needs = memory(many, job.engine, is_low(job.precision)).total.max(1).tolist()
        seconds = step_time(many, job.clock, job.engine).step[:, 0].tolist()
        chosen = zip(*(getattr(many, name)[:, 0].tolist() for name in ("micro_batch", "recompute", "sharding")), strict=True)
        for time, need, row, (micro, how, sharding) in zip(seconds, needs, of.tolist(), chosen, strict=True):
            found.append((time, need, (steps[row], micro, how, sharding)))
    if not found:
        why = counts.most_common(1)[0][0] if counts else "its heads or layers do not divide so"
        allowed = "another number of devices, or another --batch-tokens"
        raise ConfigError("plan", f"no layout of {job.gpus:,} devices can run: {why}", allowed=allowed)

    def layout(item: tuple[Step, int, Any, Any]) -> Layout:
        step, micro, how, sharding = item
        return evaluate(job, replace(step, micro_batch=micro, recompute=how, sharding=sharding))

    # What is closer than the model can tell is put in order of less parallelism.
    def order(item: tuple[float, float, Any]) -> Any:
        step = item[2][0]
        return round(math.log(item[0]) / ALIKE), step.cp > 1, step.pp > 1, step.tp > 1, item[0]

    fitting = sorted((item for item in found if item[1] <= device), key=order)
    counts["fit"], counts["need more memory"] = len(fitting), len(found) - len(fitting)
    best: dict[tuple[int, int, int], Layout] = {}
    for _, _, item in fitting:
        if (place := degrees(item[0])) not in best and len(best) < n_best:
            best[place] = layout(item)
    some_fit = {degrees(item[0]) for _, _, item in fitting}
    least: dict[tuple[int, int, int], tuple[str, str]] = {}
    for _, need, (step, _, how, _) in sorted((item for item in found if item[1] > device), key=lambda item: item[1]):
        if degrees(step) not in some_fit:
            why = f"needs {need / GIB:.1f} GiB of {job.hardware.memory_gib:g}, with recompute = {how}"
            least.setdefault(degrees(step), (f"TP{step.tp} CP{step.cp} PP{step.pp} DP{step.dp}", why))
    return Plan(job, tuple(best.values()), tuple(least.values())[:n_rejected], dict(counts))


def degrees(step: Step) -> tuple[int, int, int]:
    """TP, CP, PP."""
    return step.tp, step.cp, step.pp
