"""Peak speed of devices, and the share of it that a training uses: MFU (paper 3.3.2, Table 4). No torch here.

TFLOP/s of dense products, without 2:4 sparsity, as the makers state them; where a data sheet prints sparse figures alone, half of
them. A device is found by its whole name as `torch.cuda.get_device_name` gives it: a laptop's variant, a MIG slice or a card that
is not listed here is an unknown device, not a guess. Of two chips on one card (MI250X) torch sees two devices; the figures are of
one. float32 is without tensor cores, tfloat32 with them, where torch is told that it may.
"""

import re
from typing import NamedTuple

UNKNOWN = "unknown device"


class Peak(NamedTuple):
    """TFLOP/s by dtype; 0 where the device has no fast way."""

    name: str  # a regular expression for the whole name
    bfloat16: float
    float16: float
    tfloat32: float
    float32: float
    float8: float = 0


PEAKS = (
    # V100 data sheet (2020): 125 SXM2, 112 PCIe, 130 V100S.
    Peak(r"Tesla V100-SXM[23]-\d+GB(-LS)?", 0, 125, 0, 15.7),
    Peak(r"Tesla V100-PCIE-\d+GB", 0, 112, 0, 14),
    Peak(r"Tesla V100S-PCIE-32GB", 0, 130, 0, 16.4),
    # T4 data sheet: 65 FP16.
    Peak(r"(Tesla|NVIDIA) T4", 0, 65, 0, 8.1),
    # A10G data sheet of NVIDIA and AWS (2022): 70 | 140 sparse, TF32 35 | 70; it is not an A10, which has 125.
    Peak(r"NVIDIA A10G", 70, 70, 35, 35),
    Peak(r"NVIDIA A10", 125, 125, 62.5, 31.2),
    # A40 and RTX A6000 data sheets: 149.7 | 299.4 and 154.8 | 309.7.
    Peak(r"NVIDIA A40", 149.7, 149.7, 74.8, 37.4),
    Peak(r"NVIDIA RTX A6000", 154.8, 154.8, 77.4, 38.7),
    # L4, L40, L40S and RTX 6000 Ada data sheets: half of 242, 362, 733 and 728.5 (BF16 with sparsity).
    Peak(r"NVIDIA L4", 121, 121, 60, 30.3, 242.5),
    Peak(r"NVIDIA L40", 181, 181, 90.5, 90.5, 362),
    Peak(r"NVIDIA L40S", 362, 362, 183, 91.6, 733),
    Peak(r"NVIDIA RTX 6000 Ada Generation", 364.2, 364.2, 182.1, 91.1, 728.5),
    # Architecture papers GA102, AD102 and RTX Blackwell (appendix A): products added up in fp32, as training does.
    Peak(r"NVIDIA GeForce RTX 3090", 71, 71, 35.6, 35.6),
    Peak(r"NVIDIA GeForce RTX 4090", 165.2, 165.2, 82.6, 82.6, 330.3),
    Peak(r"NVIDIA GeForce RTX 5090", 209.5, 209.5, 104.8, 104.8, 419),
    # A100 data sheet, PCIe and SXM alike: 312 | 624 sparse. The A800 has slower links alone.
    Peak(r"NVIDIA A[18]00[- ](SXM4|PCIE|PCIe)-\d+GB|NVIDIA A[18]00 80GB PCIe|A100-(SXM4|PCIE)-\d+GB", 312, 312, 156, 19.5),
    # H100 architecture paper (table 3): SXM5 989.4, PCIe 756; H100 NVL data sheet: half of 1,671. The H800 has slower links alone.
    Peak(r"NVIDIA H[18]00( 80GB HBM3| SXM5.*)?", 989.4, 989.4, 494.7, 66.9, 1_978.9),
    Peak(r"NVIDIA H[18]00 PCIe", 756, 756, 378, 51.2, 1_513),
    Peak(r"NVIDIA H100 NVL", 835.5, 835.5, 417.5, 60, 1_670.5),
    # H200 data sheet: SXM as the H100, NVL half of 1,671; GH200 data sheet: as the H100 SXM.
    Peak(r"NVIDIA H200", 989.4, 989.4, 494.7, 66.9, 1_978.9),
    Peak(r"NVIDIA H200 NVL", 835.5, 835.5, 417.5, 60, 1_670.5),
    Peak(r"NVIDIA GH200( \d+GB)?", 989.4, 989.4, 494.7, 66.9, 1_978.9),
    # HGX B200 and HGX B300 data sheets, 8 of them: 36,000 BF16, 18,000 TF32 and 72,000 FP8 with sparsity, 600 FP32. The B300 is
    # faster in FP4 alone.
    Peak(r"NVIDIA B[23]00( SXM6.*)?", 2_250, 2_250, 1_125, 75, 4_500),
    # GB200 and GB300 NVL72 data sheets, 72 of them: 360,000 BF16, 180,000 TF32 and 720,000 FP8 with sparsity, 5,760 FP32.
    Peak(r"NVIDIA GB[23]00", 2_500, 2_500, 1_250, 80, 5_000),
    # Data sheets of AMD: MI250 362.1 and MI250X 383 for two chips; MI300X and MI325X 1,307.4; MI300A 980.6; MI350X 2,306.9 and
    # MI355X 2,516.6, which have no TF32.
    Peak(r"AMD Instinct MI250", 181, 181, 0, 22.6),
    Peak(r"AMD Instinct MI250X", 191.5, 191.5, 0, 23.9),
    Peak(r"AMD Instinct MI300A", 980.6, 980.6, 490.3, 122.6, 1_961.2),
    Peak(r"AMD Instinct MI3(00|25)X( OAM)?", 1_307.4, 1_307.4, 653.7, 163.4, 2_614.9),
    Peak(r"AMD Instinct MI350X( OAM)?", 2_306.9, 2_306.9, 0, 144.2, 4_613.7),
    Peak(r"AMD Instinct MI355X( OAM)?", 2_516.6, 2_516.6, 0, 157.3, 5_033.2),
)


def peak_flops(device_name: str, dtype: str) -> float | None:
    """FLOP/s of a device at its best in a dtype ('bfloat16', 'float16', 'tfloat32', 'float32', 'float8'); None where unknown."""
    for peak in PEAKS:
        if re.fullmatch(peak.name, device_name):
            return 1e12 * float(getattr(peak, dtype)) or None
    return None


def mfu(flops: float, seconds: float, device_name: str, dtype: str, n_devices: int = 1) -> float | None:
    """Model FLOPs utilization: the share of `n_devices` devices' peak that `flops` in `seconds` are; None for an unknown device.

    The FLOPs are the model's own, without what is recomputed: `flops_per_token` counts attention causally, `paper_flops_per_token`
    as the paper does.
    """
    peak = peak_flops(device_name, dtype)
    return None if peak is None or seconds <= 0 else flops / seconds / n_devices / peak


def mfu_text(value: float | None) -> str:
    """An MFU as a person reads it."""
    return UNKNOWN if value is None else f"{value:.1%}"
