"""Days, goodput, energy, carbon and money of a run (paper 3.3.4; Llama 3.1's model card), every factor a setting.

Energy is power x hours x PUE, where power is a whole server's at its rating, by device: an upper bound. Goodput is first order,
Young (1974) and Daly (2006): what checkpoints, restarts and work done twice take; `openherd plan failures` simulates it.
"""

import math
from dataclasses import dataclass

from openherd.core.errors import ConfigError
from openherd.model.config import SIZES
from openherd.model.flops import parameters

HOME_KWH = 10_791  # a year's electricity of a US home (EIA, 2022)
# Of 16,384 H100s in 54 days, unexpected (paper, Table 5).
FAILURES_PER_GPU_HOUR = 419 / (54 * 24 * 16_384)


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What a run's cost is reckoned with; the defaults are ours where no source is named."""

    power_w: float  # of a device, with its share of the server
    pue: float = 1.1  # Meta's data centres report 1.08 to 1.1
    kg_per_kwh: float = 0.414  # of CO2; what Llama 3.1's model card implies: 11,390 t for 39.3M GPU hours at 700 W
    hour_usd: float
    price_usd: float
    failures_per_gpu_hour: float = FAILURES_PER_GPU_HOUR
    restart_s: float = 600.0  # until training goes on; the paper's ">90%" bounds a stop at 16.7 minutes in all
    checkpoint_s: float = 10.0  # that training waits for a checkpoint

    def __post_init__(self) -> None:
        least = {"pue": 1.0, **dict.fromkeys(("power_w", "kg_per_kwh", "hour_usd", "price_usd", "failures_per_gpu_hour"), 0.0)}
        for name, bound in {**least, "restart_s": 0.0, "checkpoint_s": 0.0}.items():
            value = getattr(self, name)
            if not bound <= value < math.inf:
                raise ConfigError(f"--{name.replace('_', '-')}", f"{value:g}", allowed=f"{bound:g} or more")


@dataclass(frozen=True)
class Cost:
    """Of a run."""

    days: float
    goodput: float  # share of the time that trains
    checkpoint_interval_s: float  # Young's
    gpu_hours: float
    energy_gwh: float
    co2_t: float
    rent_usd: float
    devices_usd: float


def goodput(gpus: int, prices: Prices) -> tuple[float, float]:
    """The share of time that trains, and seconds between checkpoints, at Young's interval."""
    if not prices.failures_per_gpu_hour:
        return 1.0, math.inf
    mtbf = 3_600 / (prices.failures_per_gpu_hour * gpus)
    interval = max(math.sqrt(2 * prices.checkpoint_s * mtbf), 1.0)
    lost = prices.checkpoint_s / interval + (interval / 2 + prices.restart_s) / mtbf
    return 1 / (1 + lost), interval


def cost(gpus: int, training_s: float, prices: Prices) -> Cost:
    """Of `training_s` seconds of steps."""
    share, interval = goodput(gpus, prices)
    hours = training_s / 3_600 / share
    energy = gpus * hours * prices.power_w * prices.pue / 1e12
    return Cost(
        days=hours / 24,
        goodput=share,
        checkpoint_interval_s=interval,
        gpu_hours=gpus * hours,
        energy_gwh=energy * 1e3,
        co2_t=energy * 1e9 * prices.kg_per_kwh / 1e3,
        rent_usd=gpus * hours * prices.hour_usd,
        devices_usd=gpus * prices.price_usd,
    )


# The tutorial's table beside Meta's: MMLU (5-shot) of the April models and of the paper (Table 2), FLOPs as printed.
EFFICIENCY = (
    # size           tutorial: MMLU, FLOPs    paper: MMLU; tokens
    ("llama3-8b", 68.4, 1.8e24, 69.4, 15e12),
    ("llama3-70b", 82.0, 1.6e25, 83.6, 15e12),
    ("llama3-405b", 87.3, 3.8e25, 87.3, 15.6e12),
)


def tutorial_text() -> str:
    """The tutorial's figures of energy, money, and efficiency by parameters, with the arithmetic that makes or corrects them."""
    gpus, days, watts, server, pue = 16_384, 54, 700, 1_275, 1.1
    hours = gpus * days * 24
    devices, servers = hours * watts / 1e9, hours * server * pue / 1e9
    card = 30.84e6
    lines = [
        "What the tutorial says of 16,384 H100s and 54 days, and the arithmetic:",
        f"  {gpus:,} x {days} days x 24 h = {hours / 1e6:.2f}M GPU hours",
        f"  ~30 GWh: holds for whole servers at their rating: x {server:,} W (10.2 kW / 8) x PUE {pue} = {servers:.1f} GWh;",
        f"    the GPUs alone, at 700 W: {devices:.1f} GWh",
        f"  ~3,000 homes: {servers:.1f} GWh / {HOME_KWH:,} kWh a year = {servers * 1e6 / HOME_KWH:,.0f}",
        f"  ~$500M: {gpus:,} x $30,000 = ${gpus * 30_000 / 1e6:,.0f}M, for GPUs alone",
        "  54 days is the span of the paper's failure statistics (3.3.4), not of the training: the model card counts",
        f"    {card / 1e6:.2f}M GPU hours for the 405B, {card / gpus / 24:.0f} days of {gpus:,} GPUs: "
        f"{card * server * pue / 1e9:.1f} GWh by servers, {card * watts / 1e9:.1f} by GPUs at 700 W.",
        "",
        "Efficiency by parameters (MMLU 5-shot, points for each billion parameters; FLOPs of training):",
        f"  {'':<12} {'tutorial':>22} {'':>10} | {'corrected':>22}",
        f"  {'size':<12} {'MMLU':>6} {'/B':>6} {'FLOPs':>10} {'':>8} | {'MMLU':>6} {'/B':>6} {'6 N D':>10} {'tokens':>8}",
    ]
    for size, told, flops, mmlu, tokens in EFFICIENCY:
        n = parameters(SIZES[size])
        rounded = float(size.rsplit("-", 1)[1].rstrip("b"))
        lines.append(
            f"  {size:<12} {told:>6.1f} {told / rounded:>6.2f} {flops:>10.1e} {'':>8} | "
            f"{mmlu:>6.1f} {1e9 * mmlu / n:>6.2f} {6 * n * tokens:>10.1e} {tokens / 1e12:>7.1f}T"
        )
    return "\n".join(
        [
            *lines,
            "  MMLU: the tutorial's 8B and 70B are those of April 2024; the paper's are here. 405B: the same.",
            "  FLOPs: 6 N D of 15T tokens; the tutorial's 8B and 70B are 2.5 times that, its 405B holds.",
            "  The paper gives the 405B's tokens, 15.6T; of the others it says about 15T.",
        ]
    )
