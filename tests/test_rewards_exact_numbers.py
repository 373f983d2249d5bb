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
    for form in ('{:f}', '{:,f}', '${:,f}$', '**{:f}**.', ' {:f}%'):
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
    ('42.', 42), ('$42', 42), (r'\$1,234', 1234), ('-$5', -5), ('$-5', -5), ('5 €', 5), ('+7', 7),
    ('\u22125', -5), ('1{,}234', 1234), (r'10,\!000', 10000), ('007', 7), ('5°', 5),
    (r'5^{\circ}', 5), ('50%', 50), (r'50\%', 50), (r'\frac12', Fraction(1, 2)),
    ('1e-5', Fraction(1, 10**5)), ('.5', Fraction(1, 2))])
def test_decoration_is_read(text, value):
  assert exact_numbers.parse_number(text) == value


@pytest.mark.parametrize('text', [
    '', '.', '-', '--5', '1,23', '12,34,567', '0,005', '5,5,5', '1 = 2 = 5', '1/0', r'\frac{1}{0}',
    '3+9', '2*5', '99**98**97', '1e999', '1.2.3', '10 apples', '10 thousand', '5 or 7', '٤٢',
    '４２',
    '\u202e42', '4\x002', '4\ud8002', '9' * 201])
def test_what_is_no_plain_number_is_not_read(text):
  assert exact_numbers.parse_number(text) is None


@pytest.mark.parametrize('mark', ['9', '*', '$', '**9', ',999'])
def test_a_text_of_any_length_is_refused_at_once(mark):
  assert exact_numbers.parse_number(mark * 10**6) is None
  spelling.undecorated(mark * 10**6)


@pytest.mark.parametrize('text, number', [
    ('3 + 4 = 7.', '7'), ('It costs $1,234.50!', '1234.50'), ('10-7', '7'), ('so x=-3', '-3'),
    ('a 1/2 cup', '1/2'), ('等于42。', '42'), ('wait...5', '5'), ('42kg', '42'),
    (r'hence $\frac{1}{2}$', '1/2'), ('H2O and v1.5', None), ('none', None)])
def test_last_number_of_prose(text, number):
  found = exact_numbers.last_number(text)
  assert (found and exact_numbers.parse_number(found)) == (number and Fraction(number))


def test_last_number_reads_only_the_end():
  assert exact_numbers.last_number('7' + ' ' * 1000) is None
  assert exact_numbers.parse_number(exact_numbers.last_number('9' * 10**7)) is None


@pytest.mark.parametrize('gold, answer, equal', [
    ('1/3', '0.333', True), ('1/3', '0.3333333', True), ('2/3', '0.667', True),
    ('-2/3', '-0.667', True), ('2/3', '0.666', False), ('1/3', '0.33', False),
    ('1/3', '0.334', False), ('1/8', '0.125', True), ('1/8', '0.13', False),
    ('1/8', '0.1250001', False), ('0.1234', '0.123', False),
    ('42', '42.0', True), ('42', '42.0001', False), ('42', 'x', False)])
def test_pitfall_16_a_rounded_decimal_equals_only_what_has_no_finite_one(gold, answer, equal):
  assert exact_numbers.equals(Fraction(gold), answer) is equal
