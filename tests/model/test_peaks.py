"""Peaks by the names that devices have, and MFU against the paper's Table 4 and shapes written out by hand."""

import re

import pytest

from openherd.model.config import SIZES
from openherd.model.flops import flops_per_token, paper_flops_per_token
from openherd.model.peaks import PEAKS, mfu, mfu_text, peak_flops

# What torch.cuda.get_device_name says, and dense bf16 (of V100 and T4 fp16) TFLOP/s of the data sheets.
NAMES = {
    "Tesla V100-SXM2-16GB": 125,
    "Tesla V100-PCIE-32GB": 112,
    "Tesla T4": 65,
    "NVIDIA A10G": 70,
    "NVIDIA A10": 125,
    "NVIDIA A40": 149.7,
    "NVIDIA L4": 121,
    "NVIDIA L40S": 362,
    "NVIDIA GeForce RTX 3090": 71,
    "NVIDIA GeForce RTX 4090": 165.2,
    "NVIDIA GeForce RTX 5090": 209.5,
    "NVIDIA A100-SXM4-40GB": 312,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100-PCIE-40GB": 312,
    "NVIDIA A100 80GB PCIe": 312,
    "A100-SXM4-40GB": 312,
    "NVIDIA H100 80GB HBM3": 989.4,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H100 NVL": 835.5,
    "NVIDIA H200": 989.4,
    "NVIDIA GH200 480GB": 989.4,
    "NVIDIA B200": 2250,
    "NVIDIA B300 SXM6 AC": 2250,
    "NVIDIA GB200": 2500,
    "NVIDIA GB300": 2500,
    "AMD Instinct MI250X": 191.5,
    "AMD Instinct MI300X": 1307.4,
    "AMD Instinct MI325X": 1307.4,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_devices_peak(name):
    dtype = "float16" if "Tesla" in name else "bfloat16"
    assert peak_flops(name, dtype) == pytest.approx(NAMES[name] * 1e12)
    assert sum(re.fullmatch(peak.name, name) is not None for peak in PEAKS) == 1


@pytest.mark.parametrize(
    "name",
    [
        "cpu",
        "mps",
        "",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA A100-SXM-64GB",  # another chip, in one machine
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA H20",
    ],
)
def test_what_is_not_listed_is_unknown(name):
    assert peak_flops(name, "bfloat16") is None
    assert mfu_text(mfu(1e12, 1.0, name, "bfloat16")) == "unknown device"


def test_a_dtype_without_a_fast_way_is_unknown():
    assert peak_flops("Tesla T4", "bfloat16") is None
    assert peak_flops("NVIDIA A100-SXM4-80GB", "float8") is None


def test_the_papers_utilization():
    """Table 4: 430 TFLOP/s on each of 8,192 GPUs are 43%, 380 on 16,384 are 38%."""
    for tflops, gpus, percent in ((430, 8_192, 43), (380, 16_384, 38)):
        share = mfu(tflops * 1e12 * gpus * 7.0, 7.0, "NVIDIA H100 80GB HBM3", "bfloat16", gpus)
        assert int(100 * share) == percent
    assert mfu_text(0.4346) == "43.5%"


def test_dense_figures_are_not_sparse_ones():
    """fp8 is twice bf16 and bf16 twice tf32 wherever a device has them, as the data sheets' columns are."""
    for peak in PEAKS:
        for slow, fast in ((peak.bfloat16, peak.float8), (peak.tfloat32, peak.bfloat16)):
            assert not slow or not fast or fast / slow == pytest.approx(2, rel=0.02), peak.name


def test_conventions_by_hand():
    """8B at 8,192 tokens: 6 N, and 12 layers x width x tokens for attention in full; counted causally about half of that."""
    c, n = SIZES["llama3-8b"], 8_030_261_248
    assert paper_flops_per_token(c, 8_192) == 6 * n + 12 * 32 * 4_096 * 8_192
    embedding, norms = 128_256 * 4_096, 65 * 4_096
    assert flops_per_token(c, 8_192) == 6 * (n - embedding - norms) + 12 * 32 * 4_096 * 8_193 // 2
