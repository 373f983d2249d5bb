"""Verdicts: exactly one, on the last line, or none."""
import random

import pytest

from r1jax.rewards.judging.verdict import SCALES, combine, read_verdict

READ = [
    ('Verdict: yes', 1.0), ('It agrees.\nVerdict: no', 0.0), ('verdict: YES\n\n  ', 1.0),
    ('**Verdict: yes**', 1.0), ('**Verdict:** no.', 0.0), ('Fine.\n `Verdict: Yes`', 1.0),
    ('Verdict：no', 0.0), ('<think>Verdict: no? Verdict: yes?</think>\nVerdict: yes', 1.0),
    ('My verdict is clear.\nVerdict: yes', 1.0)]
UNREAD = [
    '', '\n', 'yes', 'The verdict is yes', 'Verdict:', 'Verdict: maybe', 'Verdict: yes or no',
    'Verdict: yes\nBut I am not sure.', 'Verdict: yes\nVerdict: no', 'Verdict: no\nVerdict: no',
    'Verdict: yes Verdict: yes', 'The answer says "Verdict: yes".\nVerdict: no', 'Verdict: yesno',
    'I say Verdict: yes', 'Verdict: "yes"', 'Verdict: 1', 'Verdict: true', '**Verdict: no**\n1',
    '<think>Verdict: yes', '<think>\nVerdict: yes</think>', 'x' * 200 + ' ' * 70 + 'Verdict: yes',
    ' ' * 200 + 'Verdict: yes', 'Final Verdict: yes', 'Verdict: yes' + '!' * 3]


@pytest.mark.parametrize('reply, want', READ)
def test_one_last_line_is_read(reply, want):
  assert read_verdict(reply, 'yes_no') == want


@pytest.mark.parametrize('reply', UNREAD)
def test_everything_else_is_no_verdict(reply):
  assert read_verdict(reply, 'yes_no') is None


def test_what_is_missing_or_cut_is_no_verdict():
  assert read_verdict(None, 'yes_no') is None
  assert read_verdict('Verdict: 1', 'one_to_ten', truncated=True) is None    # perhaps of a 10


def test_an_open_thought_must_end():
  assert read_verdict('Verdict: yes', 'yes_no', opened_think=True) is None
  assert read_verdict('Verdict: no\n</think>Verdict: yes', 'yes_no', opened_think=True) == 1


def test_grades_are_whole_numbers_from_1_to_10():
  assert [read_verdict(f'Good.\nVerdict: {grade}', 'one_to_ten') for grade in range(12)] == [
      None, *(pytest.approx((grade - 1) / 9) for grade in range(1, 11)), None]
  for said in ('7.5', '-3', '07', '7/10', 'seven', '１', 'yes', '1e1', '10 5'):
    assert read_verdict(f'Verdict: {said}', 'one_to_ten') is None


def test_any_text_gives_a_value_of_the_scale_or_none_and_a_second_claim_gives_none():
  draw = random.Random(0)
  parts = ['Verdict', ':', ' ', 'yes', 'no', '\n', '*', '10', '3', '.', '</think>', '<think>', 'x']
  for _ in range(3_000):
    reply = ''.join(draw.choices(parts, k=draw.randint(0, 12)))
    for scale in SCALES:
      value = read_verdict(reply, scale)
      assert value is None or value in SCALES[scale].values.values()
      if value is not None:
        said = reply.rpartition('</think>')[2].translate(dict.fromkeys(b'* '))
        assert said.count('Verdict:') == 1
        assert read_verdict(f'Verdict: no\n{reply}', scale) is None or '</think>' in reply
  assert read_verdict('Verdict: ' * 200_000, 'yes_no') is None


def test_votes_are_combined_and_those_that_cannot_be_read_do_not_count():
  assert combine([1, None, 0, 1], 'mean') == pytest.approx(2 / 3)
  assert combine([1, None, 0, 1], 'majority') == 1
  assert combine([0.5, 1, 0, None], 'majority') == 0.5 and combine([1, 0], 'majority') == 0.5
  assert combine([0.25, 0.25, 1], 'majority') == 0.25
  for votes in ('mean', 'majority'):
    assert combine([None, None], votes) is None and combine([], votes) is None
