"""Quantities in and out: what is read exactly, what is refused, and that what is written can be read again."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_bootstrap.errors import QuantityError
from hf_bootstrap.units import (
    format_bytes,
    format_count,
    format_duration,
    parse_count,
    parse_quantity,
    training_flops_per_token,
)

POWERS = {"": 0, "k": 3, "K": 3, "M": 6, "m": 6, "B": 9, "b": 9, "G": 9, "g": 9, "T": 12, "t": 12, "P": 15, "E": 18}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("3B", 3_000_000_000),
        ("6.5e9", 6_500_000_000),
        ("6.55B", 6_550_000_000),
        ("128k", 128_000),
        ("1.4T", 1_400_000_000_000),
        (".5M", 500_000),
        ("2.M", 2_000_000),
        ("1_000", 1_000),
        ("12,345,678", 12_345_678),
        (" 7 b ", 7_000_000_000),
        ("3E", 3 * 10**18),
        ("3e0", 3),
        ("9007199254740993", 2**53 + 1),
        (131_072, 131_072),
        (6.55e9, 6_550_000_000),
        (0.07 * 100, 7),
        (np.int64(5), 5),
        (np.float32(5), 5),
        (2**70, 2**70),
        ("0", 0),
    ],
)
def test_counts_are_read_exactly(text, count):
    assert parse_count(text) == count
    assert type(parse_count(text)) is int


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "B", "three", "3Q", "3BB", "3 B B", "0x10", "1e", "3e", "-3", "+3", "inf", "nan", "1e400", "٣"),
        *("1,5B", "1,23", "0,500", "1,0000", "_1", "1.2.3", "3B\x00", "9" * 5000, "9" * 1_000_000, "1e999999999"),
        *(True, None, b"3", -1, -0.5, math.nan, math.inf, 10**400, [3], 1j),
    ],
)
@pytest.mark.parametrize("parse", [parse_count, parse_quantity])
def test_what_is_not_a_quantity_is_refused_by_name(text, parse):
    with pytest.raises(QuantityError, match="base_tokens") as caught:
        parse(text, "base_tokens")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text", ["0.5", "1.5", "1000000.5", "1.0005k", 0.5, 1e6 + 0.5, 1e-300, "2.0000000000000000001"]
)
def test_a_count_that_is_not_whole_is_refused_however_large(text):
    with pytest.raises(QuantityError, match="whole"):
        parse_count(text)


@given(st.integers(0, 10**9), st.integers(0, 6), st.sampled_from(sorted(POWERS)))
def test_reading_agrees_with_rational_arithmetic(digits, decimals, suffix):
    text = f"{digits // 10**decimals}.{digits % 10**decimals:0{decimals}d}" if decimals else str(digits)
    exact = Fraction(text) * 10 ** POWERS[suffix]
    assert parse_quantity(text + suffix) == float(exact)
    if exact.denominator == 1:
        assert parse_count(text + suffix) == exact
    else:
        with pytest.raises(QuantityError):
            parse_count(text + suffix)


@given(st.text(max_size=12) | st.from_regex(r"[0-9._,eEkB+-]{0,12}", fullmatch=True))
def test_no_text_raises_anything_but_our_error(text):
    try:
        value = parse_quantity(text)
    except QuantityError:
        return
    assert math.isfinite(value)
    assert value >= 0


@given(st.integers(0, 10**24) | st.floats(1e-3, 1e300))
def test_a_written_count_reads_back_to_three_digits(value):
    assert parse_quantity(format_count(value)) == pytest.approx(value, rel=0.00501)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (999.6, "1k"),
        (131_072, "131k"),
        (999_499_999, "999M"),
        (999_500_000, "1B"),
        (3e9, "3B"),
        (1.4e12, "1.4T"),
        (6e21, "6e+21"),
        (-5e6, "-5M"),
        (0.25, "0.25"),
    ],
)
def test_counts_are_written_the_way_the_field_writes_them(value, text):
    assert format_count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (2_970_000_000, "2.97 GB"),
        (999_600, "1 MB"),
        (2e15, "2 PB"),
    ],
)
def test_sizes_are_written_in_powers_of_a_thousand(value, text):
    assert format_bytes(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (47.2, "47 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
        (math.inf, "unknown"),
        (math.nan, "unknown"),
    ],
)
def test_durations_are_written_by_their_two_largest_units(seconds, text):
    assert format_duration(seconds) == text


def test_training_flops_agree_with_a_count_of_every_product():
    # One block of 4 tokens, one layer of width 3 with a 3x3 matrix, counted product by product: a matrix
    # entry costs a multiplication and an addition, the backward pass twice the forward one.
    width, length = 3, 4
    weights = width * width
    forward = length * 2 * weights
    # The k-th token scores k tokens and sums k values; under the mask k runs from 1 to T, and T(T+1)/2 is
    # taken as T^2/2.
    attention = sum(2 * 2 * width * k for k in range(1, length + 1)) * length / (length + 1)
    assert training_flops_per_token(weights, 1, width, length) * length == pytest.approx(3 * (forward + attention))
