"""Energy, money, goodput: worked out by hand, and the paper's and the tutorial's figures."""

import math

import pytest

from openherd.core.errors import ConfigError
from openherd.planning.cost import Prices, cost, goodput, tutorial_text

PLAIN = {"power_w": 1_000.0, "hour_usd": 2.0, "price_usd": 30_000.0}


def test_by_hand():
    """100 GPUs at 1 kW for 100 hours, PUE 1.2, no failures: 12 MWh, 6 t at 0.5 kg."""
    found = cost(100, 360_000.0, Prices(**PLAIN, pue=1.2, kg_per_kwh=0.5, failures_per_gpu_hour=0.0))
    assert found.goodput == 1
    assert found.days == pytest.approx(100 / 24)
    assert found.gpu_hours == pytest.approx(10_000)
    assert found.energy_gwh == pytest.approx(0.012)
    assert found.co2_t == pytest.approx(6)
    assert (found.rent_usd, found.devices_usd) == pytest.approx((20_000, 3_000_000))


def test_goodput_at_young_s_interval():
    """One failure in 10,000 s, 20 s a checkpoint: every sqrt(2 x 20 x 10,000) = 632 s."""
    prices = Prices(**PLAIN, failures_per_gpu_hour=3_600 / 10_000 / 8, restart_s=100.0, checkpoint_s=20.0)
    share, interval = goodput(8, prices)
    assert interval == pytest.approx(632.46, abs=0.01)
    assert 1 / share - 1 == pytest.approx(20 / 632.46 + (316.23 + 100) / 10_000, abs=1e-5)
    assert goodput(8, Prices(**PLAIN, failures_per_gpu_hour=0.0)) == (1.0, math.inf)


def test_the_paper_s_goodput():
    """More than 90% on 16,384 GPUs with its 419 unexpected stops in 54 days; one every 3.09 h."""
    share, _ = goodput(16_384, Prices(**PLAIN))
    assert 0.9 < share < 0.95
    assert 1 / Prices(**PLAIN).failures_per_gpu_hour / 16_384 == pytest.approx(3.09, abs=0.01)


def test_the_tutorial_s_figures():
    text = tutorial_text()
    assert "16,384 x 54 days x 24 h = 21.23M GPU hours" in text
    assert "= 29.8 GWh" in text  # 21.23M x 1,275 W x 1.1
    assert "at 700 W: 14.9 GWh" in text
    assert "10,791 kWh a year = 2,760" in text
    assert "16,384 x $30,000 = $492M" in text
    # MMLU by billion: 68.4 / 8, 82.0 / 70, 87.3 / 405; 69.4 / 8.03, 83.6 / 70.55; 6 N D: 7.2e23 where 1.8e24 is printed.
    for line in (
        "68.4   8.55",
        "82.0   1.17",
        "87.3   0.22",
        "69.4   8.64    7.2e+23",
        "83.6   1.18    6.3e+24",
        "3.8e+25    15.6T",
    ):
        assert line in text


@pytest.mark.parametrize(("name", "value"), [("pue", 0.9), ("hour_usd", -1.0), ("power_w", math.nan), ("restart_s", math.inf)])
def test_prices_that_cannot_be(name, value):
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')}: .*; allowed: .* or more"):
        Prices(**{**PLAIN, name: value})
