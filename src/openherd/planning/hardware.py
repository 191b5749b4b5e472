"""Devices that runs are planned for: one table of what their makers state, and constants fitted to measured runs (paper 3.3.1).

Bandwidths are bytes a second in one direction, memory is GiB, power is the device's alone at its limit. Peaks of dense products are
those of `openherd.model.peaks`; FP4 stands here. What a device reaches of its peaks is not stated by makers: `CONSTANTS`, few,
physical, one row per kind of device and dtype, from `openherd plan calibrate` (decision 21 says on which rows).
"""

from dataclasses import dataclass
from typing import Literal

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
    server_w: float  # of a whole server or rack at its rating, by device
    price_usd: float  # to buy, and by the hour: no maker's word but an order of magnitude, to be overwritten
    hour_usd: float
    fp4_tflops: float = 0.0
    clock: float = 1.0  # share of the peak that a lower power limit leaves

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
    name: str, kind: str, device: str, gib: float, tb_s: float, node: int, links: float, network: float, power: float,
    server: float, price: float, hour: float, **more: float,
) -> Hardware:  # fmt: skip
    return Hardware(
        name=name, kind=kind, device=device, memory_gib=gib, memory_bandwidth=1e12 * tb_s, node=node, nvlink=GB * links,
        network=GB * network, power_w=power, server_w=server, price_usd=price, hour_usd=hour, **more,
    )  # fmt: skip


# Data sheets of NVIDIA: A100, H100, H200 (HGX, 8 a node), HGX B200 and B300, GB200 and GB300 NVL72. Memory: what the driver leaves.
# NVLink is stated in both directions together: half. Network: an adapter a device of 200 (A100), 400 or 800 Gbit/s (the 300s).
# FP4: dense. The 96 GB H100 is torchtitan's, with HBM2e and a limit of 500 W: power goes with about the cube of the clock, which
# leaves (500 / 700) ** (1 / 3) of it. Servers: DGX A100 6.5 kW, H100 and H200 10.2 kW, B200 14.3 kW, B300 14 kW for 8; NVL72 about
# 120 and 132 kW. Prices are rough, of the press of 2023 to 2025.
HARDWARE = {
    h.name: h
    for h in (
        #    name        kind     device                        GiB    TB/s  node link net  W      server buy     hour
        _row("a100-40g", "a100", "NVIDIA A100-SXM4-40GB", 39.4, 1.555, 8, 300, 25, 400, 812, 12_000, 1.3),
        _row("a100-80g", "a100", "NVIDIA A100-SXM4-80GB", 79.2, 2.039, 8, 300, 25, 400, 812, 15_000, 1.6),
        _row("h100", "h100", "NVIDIA H100 80GB HBM3", 79.2, 3.35, 8, 450, 50, 700, 1_275, 30_000, 2.5),
        _row("h100-96g", "h100", "NVIDIA H100 80GB HBM3", 95.0, 2.4, 8, 450, 50, 500, 1_075, 30_000, 2.5, clock=0.894),
        _row("h200", "h100", "NVIDIA H200", 139.8, 4.8, 8, 450, 50, 700, 1_275, 35_000, 3.0),
        _row("b200", "b200", "NVIDIA B200", 178.0, 7.7, 8, 900, 50, 1_000, 1_790, 45_000, 4.5, fp4_tflops=9_000),
        _row("b300", "b300", "NVIDIA B300", 268.0, 8.0, 8, 900, 100, 1_400, 1_750, 55_000, 5.5, fp4_tflops=13_500),
        _row("gb200", "gb200", "NVIDIA GB200", 184.0, 8.0, 72, 900, 50, 1_200, 1_670, 60_000, 5.5, fp4_tflops=10_000),
        _row("gb300", "gb300", "NVIDIA GB300", 276.0, 8.0, 72, 900, 100, 1_400, 1_830, 70_000, 6.5, fp4_tflops=15_000),
    )
}


def hardware(name: str) -> Hardware:
    """A row of the table. Raises ConfigError with the names there are."""
    if name not in HARDWARE:
        raise ConfigError("--hardware", f"unknown {name!r}", allowed=", ".join(HARDWARE))
    return HARDWARE[name]
