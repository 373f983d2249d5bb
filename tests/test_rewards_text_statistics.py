"""Readings of completions against counting by hand."""

import collections
import random

import pytest

from r1jax.rewards import text_statistics


@pytest.mark.parametrize('text, count', [
    ('', 0), ('Wait, wait. WAIT!', 3), ('However, that is wrong; let me check but verify.', 5),
    ('waiting butter checked mistaken', 0), ('mistake retry error evaluate', 4),
    ('等一下，这是错误。但是我们检查', 4), ('但是but', 2), ('不错', 0)])
def test_reflective_words_are_whole_words(text, count):
  assert text_statistics.reflective_words(text) == count


def test_pitfall_19_repetition_is_the_share_of_repeated_ngrams():
  rng = random.Random(0)
  for _ in range(50):
    words = rng.choices('abcd', k=rng.randrange(60))
    counts = collections.Counter(tuple(words[i:i + 3]) for i in range(len(words) - 2))
    repeated = sum(count - 1 for count in counts.values())
    expected = repeated / max(counts.total(), 1)
    assert text_statistics.repetition(' '.join(words), n=3) == pytest.approx(expected)


def test_repetition_of_known_texts():
  assert text_statistics.repetition('one two three') == 0
  assert text_statistics.repetition('one two three four five six') == 0
  assert text_statistics.repetition('so ' * 103) == pytest.approx(0.99)
  assert text_statistics.repetition('对' * 103) == pytest.approx(0.99)


@pytest.mark.parametrize('text, least, most', [
    ('', 1, 1), ('5', 1, 1), ('then 5+3=8, then 8-2=6, then 6*2=12', 1, 1), ('the the', 0.5, 0.7),
    ('等等，等等，错了', 1, 1), ('the the the', 0.4, 0.5),
    ('so ' * 103, 0, 0.1), ('5 ' * 99, 0, 0.1),
    ('we add one and go on. ' * 20, 0, 0.2), (' '.join(f'so {i}' for i in range(99)), 0.2, 0.3),
    ('It is a truth universally acknowledged, that a man in possession of a fortune', 1, 1)])
def test_variety_falls_with_repeated_words_and_phrases(text, least, most):
  assert least <= text_statistics.variety(text) <= most
  assert text_statistics.variety(text + ' ' * 10**6) <= 1


@pytest.mark.parametrize('unit', ['\\(', '\\[', '$', '`', '<a', '```', '好', '\ud800', 'a\x00'])
def test_no_text_is_too_long(unit):
  text = unit * 10**5
  text_statistics.reflective_words(text)
  text_statistics.repetition(text)
  assert 0 <= text_statistics.variety(text) <= 1
