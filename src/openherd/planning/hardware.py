"""Devices that runs are planned for: one table of what their makers state, and constants fitted to measured runs (paper 3.3.1).

Bandwidths are bytes a second in one direction, memory is GiB, power is the device's alone at its limit. Peaks of dense products are
those of `openherd.model.peaks`; FP4 stands here. What a device reaches of its peaks is not stated by makers: `CONSTANTS`, few,
physical, one row per kind of device and dtype, from `openherd plan calibrate` (decision 21 says on which rows).
"""

from dataclasses import dataclass
from typing import Literal

from openherd.core.config import nearest
from openherd.core.errors import ConfigError
from openherd.model.peaks import peak_flops

Precision = Literal["bf16", "fp16", "fp8", "mxfp8", "nvfp4"]
PRECISIONS: tuple[Precision, ...] = ("bf16", "fp16", "fp8", "mxfp8", "nvfp4")
GB = 1e9


def is_low(precision: str) -> bool:
    """Whether products are of 8 bits or fewer; what is not a product is in bf16 then."""
    return precision not in ("bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """A device and what joins it to others."""

    name: str
    kind: str  # devices of one kind share fitted constants
    device: str  # as `openherd.model.peaks` knows it
    memory_gib: float
    memory_bandwidth: float
    node: int  # devices joined by NVLink
    nvlink: float
    network: float  # of each device to other nodes
    power_w: float
    fp4_tflops: float = 0.0
    clock: float = 1.0  # share of the peak that its power limit leaves, where that is below the maker's
    price_usd: float = 0.0  # to buy; not the makers' word, an order of magnitude to be overwritten

    def peak(self, precision: Precision) -> float:
        """FLOP/s of dense products. Raises ConfigError where the device has no such dtype."""
        if precision == "nvfp4":
            found = 1e12 * self.fp4_tflops
        else:
            dtype = {"bf16": "bfloat16", "fp16": "float16", "fp8": "float8", "mxfp8": "float8"}[precision]
            found = peak_flops(self.device, dtype) or 0.0
        if not found or (precision == "mxfp8" and not self.fp4_tflops):
            allowed = [p for p in PRECISIONS if p not in ("mxfp8", "nvfp4") or self.fp4_tflops]
            allowed = [p for p in allowed if p != "fp8" or peak_flops(self.device, "float8")]
            raise ConfigError("--precision", f"{precision!r} on {self.name}", allowed=", ".join(allowed))
        return found * self.clock


def _row(
    name: str, kind: str, device: str, gib: float, tb_s: float, node: int, links: float, network: float, power: float, **more: float
) -> Hardware:
    return Hardware(
        name=name, kind=kind, device=device, memory_gib=gib, memory_bandwidth=1e12 * tb_s, node=node, nvlink=GB * links,
        network=GB * network, power_w=power, **more,
    )  # fmt: skip


# Data sheets of NVIDIA: A100, H100, H200 (HGX, 8 a node), HGX B200, GB200 NVL72 and GB300 NVL72. Memory: what the driver leaves.
# NVLink is stated in both directions together: half. Network: one adapter a device of 200 (A100), 400 or 800 Gbit/s (GB300).
# FP4 dense: half of the sheets' sparse figures; GB300's is stated dense. The 96 GB H100 is torchtitan's: HBM2e, limited to 500 W.
# Prices are rough, of the press in 2023 to 2025: see `cost.py`.
HARDWARE = {
    h.name: h
    for h in (
        # name         kind     device                        GiB    TB/s  node NVLink net  W
        _row("a100-40g", "a100", "NVIDIA A100-SXM4-40GB", 39.4, 1.555, 8, 300, 25, 400, price_usd=12_000),
        _row("a100-80g", "a100", "NVIDIA A100-SXM4-80GB", 79.2, 2.039, 8, 300, 25, 400, price_usd=15_000),
        _row("h100", "h100", "NVIDIA H100 80GB HBM3", 79.2, 3.35, 8, 450, 50, 700, price_usd=30_000),
        _row("h100-96g", "h100", "NVIDIA H100 80GB HBM3", 95.0, 2.4, 8, 450, 50, 500, clock=0.894, price_usd=30_000),
        _row("h200", "h100", "NVIDIA H200", 139.8, 4.8, 8, 450, 50, 700, price_usd=35_000),
        _row("b200", "b200", "NVIDIA B200", 178.0, 7.7, 8, 900, 50, 1_000, fp4_tflops=9_000, price_usd=45_000),
        _row("b300", "b300", "NVIDIA B300", 268.0, 8.0, 8, 900, 100, 1_400, fp4_tflops=13_500, price_usd=55_000),
        _row("gb200", "gb200", "NVIDIA GB200", 184.0, 8.0, 72, 900, 50, 1_200, fp4_tflops=10_000, price_usd=60_000),
        _row("gb300", "gb300", "NVIDIA GB300", 276.0, 8.0, 72, 900, 100, 1_400, fp4_tflops=15_000, price_usd=70_000),
    )
}  # fmt: skip


def hardware(name: str) -> Hardware:
    """A row of the table. Raises ConfigError with the names there are."""
    if name not in HARDWARE:
        raise ConfigError("--hardware", f"unknown {name!r}", allowed=", ".join(HARDWARE), do=nearest(name, HARDWARE))
    return HARDWARE[name]
