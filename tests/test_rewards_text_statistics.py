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


@pytest.mark.parametrize('text, latin, han', [
    ('', 0, 0), ('The sum is 12.', 1, 0), ('答案是12', 0, 1), ('the answer 答案', 0.5, 0.5),
    (r'答案 $x_{max}$ \(sum\) `code` <think> \frac 12 x y', 0, 1),
    ('```python\nprint(x)\n``` 好', 0, 1), ('it costs $5 and then $6 好', 0.8, 0.2),
    ("don't 好", 0.5, 0.5), ('2 + 2 = 4', 0, 0)])
def test_language_shares(text, latin, han):
  assert text_statistics.language_shares(text) == pytest.approx({'latin': latin, 'han': han})


def test_mixed_is_both_languages():
  assert text_statistics.is_mixed('first we add 然后相减')
  assert not text_statistics.is_mixed('first we add, then subtract')
  assert not text_statistics.is_mixed('先加然后相减 $x + y$ 得到十二个苹果 Janet')
  assert not text_statistics.is_mixed('12 + 7')


@pytest.mark.parametrize('unit', ['\\(', '\\[', '$', '`', '<a', '```', '好', '\ud800', 'a\x00'])
def test_no_text_is_too_long(unit):
  text = unit * 10**5
  text_statistics.reflective_words(text)
  text_statistics.repetition(text)
  text_statistics.language_shares(text)
