"""Dates and content types in one spelling."""

import pytest

from openherd.data.pages import iso_date


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("2024-07-23T01:00:00+02:00", "2024-07-22T23:00:00Z"),
        ("2024-07-23T00:30:00Z", "2024-07-23T00:30:00Z"),
        ("2024-07-23 00:30:00", "2024-07-23T00:30:00Z"),
        ("2024-07-23", "2024-07-23"),
        ("Tue, 23 Jul 2024 12:00:00 GMT", "2024-07-23T12:00:00Z"),
        ("yesterday", ""),
        ("0001-01-01T00:00:00+08:00", ""),  # in UTC of the year 0
        ("9999-12-31T23:00:00-08:00", ""),
        ("Mon, 01 Jan 99999999999 00:00:00 +0000", ""),
        (1721692800, ""),
        (None, ""),
    ],
)
def test_dates_can_be_compared(given, found):
    assert iso_date(given) == found
