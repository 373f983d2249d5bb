"""Plain values as text: exact both ways, and nothing else whatever the text is."""
import collections
import json
import math
import random

import pytest

from r1jax.rewards.sandbox import values


@pytest.mark.parametrize('value', [
    None, True, 0, -1, 2**62, 2**64, -2**5000, 0.1, -0.0, 1e308, 5e-324, math.inf, -math.inf, '',
    'é中\ud800"\\[{', [], (), {}, set(), [1, [2.0, '3']], (1, (2,)), {(1, 'a'): [None]},
    {1, 'a', (2.5, None)}, {'dict': 1}, {'set': []}, {None: {True: ()}}, ['['] * 500],
    ids=lambda value: type(value).__name__)
def test_a_plain_value_survives_with_its_type(value):
  decoded = values.decode(values.encode(value))
  assert repr(decoded) == repr(value) or decoded == value
  assert type(decoded) is type(value)


def test_nan_survives():
  assert math.isnan(values.decode(values.encode(math.nan)))


def test_what_equals_a_plain_value_becomes_one():
  ordered = collections.OrderedDict(b=1, a=2)
  several = [
      collections.Counter('aab'), collections.defaultdict(int, a=1), ordered, frozenset('ab')]
  assert values.decode(values.encode(several)) == [
      {'a': 2, 'b': 1}, {'a': 1}, {'b': 1, 'a': 2}, {'a', 'b'}]


class Equal:
  def __eq__(self, other):
    return True


class Text(str):
  def __len__(self):
    return 0


CYCLE: list = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize('value', [
    Equal(), Text('a'), type('D', (dict,), {})(), type('I', (int,), {})(1), (i for i in 'a'),
    range(3), b'', 1j, object, len, CYCLE, [Equal()], {'a': Equal()}],
    ids=lambda value: type(value).__name__)
def test_nothing_else_is_encoded(value):
  with pytest.raises(values.NotPlain):
    values.encode(value)


def test_what_is_too_large_is_told_before_it_is_built():
  doubled = [0]
  for _ in range(60):
    doubled = [doubled, doubled]
  for value in (doubled, 'a' * 101, [0] * 101, 'é' * 51, 1 << 10**6):
    with pytest.raises(values.TooLarge):
      values.encode(value, 100)
  assert values.encode('a' * 98, 100)


@pytest.mark.parametrize('text', [
    b'', b'x', b'\xff', b'1 2', b'NaN', b'Infinity', b'{}', b'{"a": 1}', b'{"set": 1}', b'[', b'"',
    b'{"set": [1], "tuple": []}', b'{"set": [[]]}', b'{"dict": [[[], 1]]}', b'{"dict": [[1]]}',
    b'{"dict": [1]}', b'{"dict": ["ab"]}', b'{"int": 5}', b'{"int": "x"}', b'{"int": ""}',
    b'{"float": "1"}', b'{"float": []}', b'{"float": NaN}', b'9' * 21, b'9' * 10**6,
    b'{"int": "0x' + b'f' * 10**6 + b'"}', b'[' * 10**6, b'{"set":' * 10**5, b'"' + b'\\"' * 10**5,
    b'["' + b'\\\\"' * 10**5 + b'[' * 1000, b'{"__class__": []}', b'{"tuple": {"list": []}}'],
    ids=lambda text: repr(text)[:24])
def test_any_other_text_is_refused(text):
  with pytest.raises(values.NotPlain):
    values.decode(text)


def test_whatever_is_decoded_can_be_printed():
  longest = values.encode(-(2**14_000) + 1)
  assert repr(values.decode(longest))


def test_keys_of_one_hash_do_not_take_quadratic_time():
  modulus = 2**61 - 1    # of Python's hash of an int
  texts = [json.dumps({'int': hex(i * modulus)}) for i in range(20_000)]
  pairs = [f'[{text}, 0]' for text in texts]
  for kind, items in (('set', texts), ('dict', pairs)):
    with pytest.raises(values.NotPlain):
      values.decode(f'{{"{kind}": [{",".join(items)}]}}'.encode())


def test_random_texts_give_a_plain_value_or_are_refused():
  draw = random.Random(0)
  pieces = [b'[', b']', b'{', b'}', b'"', b',', b':', b'\\', b'"set"', b'"dict"', b'"int"', b'1',
            b'1e999', b'"0x1"', b'-', b'null', b'true', b'\xff', b'"float"', b'"nan"', b'"tuple"']
  for _ in range(5000):
    text = b''.join(draw.choices(pieces, k=draw.randrange(12)))
    try:
      values.encode(values.decode(text))
    except values.NotPlain:
      pass
