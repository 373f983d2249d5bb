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


@pytest.mark.parametrize('unit', ['\\(', '\\[', '$', '`', '<a', '```', '好', '\ud800', 'a\x00'])
def test_no_text_is_too_long(unit):
  text = unit * 10**5
  text_statistics.reflective_words(text)
  text_statistics.repetition(text)
