"""Plain numbers against Python's own arithmetic."""

import decimal
from fractions import Fraction
import random

import pytest

from r1jax.rewards import exact_numbers, spelling


def test_integers_and_decimals_read_as_python_reads_them():
  rng = random.Random(0)
  for _ in range(500):
    value = decimal.Decimal(rng.randrange(-10**12, 10**12)).scaleb(-rng.randrange(6))
    for form in ('{:f}', '{:,f}', '${:,f}$', '**{:f}**.', ' {{{:f}}}'):
      written = form.format(value)
      assert exact_numbers.parse_number(written) == Fraction(value), written


def test_fractions_read_as_python_reads_them():
  rng = random.Random(1)
  for _ in range(200):
    numerator, denominator = rng.randrange(-999, 1000), rng.randrange(1, 1000)
    value = Fraction(numerator, denominator)
    for written in (f'{numerator}/{denominator}', rf'$\dfrac{{{numerator}}}{{{denominator}}}$'):
      assert exact_numbers.parse_number(written) == value, written


@pytest.mark.parametrize('text, value', [
    ('42.', 42), ('+7', 7), ('\u22125', -5), ('007', 7), ('.5', '1/2'), ('(72)', 72), ('{72}', 72),
    ('1{,}234', 1234), (r'10,\!000', 10000), (r'1\,234', 1234), ('1 234 567.5', '1234567.5'),
    ("1'234", 1234), ('12,34,567', 1234567), ('１，２３４', 1234), ('４２', 42),
    ('1e-5', '1/100000'), ('7.2E1', 72), (r'7.2\times 10^{1}', 72), ('7.2·10¹', 72), ('10³', 1000),
    (r'\frac12', '1/2'), (r'\frac {7}{2}', '7/2'), (r'\frac{1}{-2}', '-1/2'), ('7 / 2', '7/2'),
    (r'\cfrac12', '1/2'), ('½', '1/2'), (r'3\frac12', '7/2'), ('3 1/2', '7/2'), ('-3½', '-7/2'),
    ('2^{10}', 1024), ('2**10', 1024), ('-2^2', -4), ('(-2)^3', -8), ('2^{-3}', '1/8'), ('5!', 120),
    (r'\sqrt{144}', 12), ('√144', 12), (r'\sqrt[3]{27}', 3), (r'\sqrt{\frac14}', '1/2'),
    (r'0.\overline{3}', '1/3'), (r'0.1\bar6', '1/6'), (r'0.\dot{3}', '1/3'), ('0.(3)', '1/3'),
    (r'0.\dot{1}4285\dot{7}', '1/7'), ('0.333...', '1/3'), (r'0.1666\ldots', '1/6'),
    ('0.3\u0305', '1/3'), ('0.16\u0307', '1/6')])
def test_notation_is_read(text, value):
  assert exact_numbers.parse_number(text) == Fraction(value)


@pytest.mark.parametrize('text', [
    '', '.', '-', '--5', '1,23', '12,5', '0,005', '5,5,5', '1.234.567', '1.234,5', '1 234,5',
    '1 23', '2024 100', '1 = 2 = 5', '1/0', r'\frac{1}{0}', '1/2/3', r'\frac123', '3+9', '2*5',
    '99**98**97', '2^99999', '0^0', '10^{10^{10}}', '1001!', '5!!', '1e9999', '1.2.3',
    r'\sqrt{72}', r'\sqrt16', r'\sqrt{-4}', '4^{1/2}', '1011_2', '10 apples', '10 thousand',
    '5 or 7', '50%', '$5', '٤٢', '\u202e42', '4\x002', '4\ud8002', '9' * 301])
def test_what_is_no_number_is_not_read(text):
  assert exact_numbers.parse_number(text) is None


@pytest.mark.parametrize('mark', ['9', '*', '$', '**9', ',999'])
def test_a_text_of_any_length_is_refused_at_once(mark):
  assert exact_numbers.parse_number(mark * 10**6) is None
  spelling.undecorated(mark * 10**6)


@pytest.mark.parametrize('exact, written, places, rounded', [
    ('1/3', '0.333', 3, True), ('1/3', '0.3333333', 7, True), ('2/3', '0.667', 3, True),
    ('-2/3', '-0.667', 3, True), ('2/3', '0.666', 3, False), ('1/3', '0.33', 2, False),
    ('1/3', '0.334', 3, False), ('1/8', '0.13', 2, False), ('0.1234', '0.123', 3, False),
    ('1/3', '0.333', None, False)])
def test_pitfall_16_a_rounded_decimal_equals_only_what_has_no_finite_one(
    exact, written, places, rounded):
  assert exact_numbers.rounds_to(Fraction(exact), Fraction(written), places) is rounded
