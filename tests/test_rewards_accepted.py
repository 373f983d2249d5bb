import pytest

from r1jax.rewards import accuracy, choice, skills
from r1jax.rewards.accepted import any_accepted
from r1jax.rewards.completion import Completion


def test_the_best_verdict_over_accepted_answers_counts():
  verdicts = {'a': None, 'b': 0.0, 'c': 0.5, 'd': 1.0}
  reward = any_accepted(lambda completion, example: verdicts[example['answer']])
  for answers, value in ((['a'], None), (['a', 'b'], 0.0), (['c', 'b', 'a'], 0.5),
                         (['b', 'd', 'unknown'], 1.0)):
    assert reward(None, {'answer': answers[0], 'answers': answers}) == value
  assert reward(None, {'answer': 'c'}) == 0.5


@pytest.mark.parametrize('reward, answers, right, wrong', [
    (accuracy.number_reward, ['4', '7'], '<answer>7</answer>', '<answer>5</answer>'),
    (accuracy.gsm8k_reward, ['4', '7'], '<answer>7</answer>', '<answer>5</answer>'),
    (choice.choice_reward, ['A', 'B'], '<answer>B</answer>', '<answer>C</answer>'),
    (accuracy.exact_match_reward, ['x', 'y'], '<answer>y</answer>', '<answer>x y</answer>'),
    (skills.skill_reward, ['x', 'y'], 'y', 'z'),
])
def test_any_accepted_answer_is_right(reward, answers, right, wrong):
  example = {'answer': answers[0], 'answers': answers, 'check': 'exact'}
  assert reward(Completion(right, 1, False), example) == 1
  assert reward(Completion(wrong, 1, False), example) == 0
  assert reward(Completion(right, 1, False), {'check': 'exact'}) is None
