import math
import re

import pytest

from r1jax.data import reasoning_gym

pytest.importorskip('reasoning_gym')


@pytest.mark.parametrize('task', reasoning_gym.TASKS)
def test_examples_depend_on_task_seed_and_index_alone(task):
  def make(seed):
    return reasoning_gym.reasoning_gym_source(task, 40, seed)

  source, again = make(3), make(3)
  backwards = [again[i] for i in reversed(range(40))][::-1]
  examples = [source[i] for i in range(len(source))]
  assert examples == backwards
  assert all(set(example) == {'question', 'answer', 'task'} for example in examples)
  assert all(isinstance(value, str) and value for row in examples for value in row.values())
  # The package's own seeds 3 and 4 share all examples but one: a test set would be trained on.
  other = [make(4)[i]['question'] for i in range(40)]
  assert len({row['question'] for row in examples} & set(other)) <= 5


@pytest.mark.parametrize('task, solve', [
    ('gcd', lambda question: math.gcd(*map(int, re.findall(r'\d+', question)))),
    ('lcm', lambda question: math.lcm(*map(int, re.findall(r'\d+', question)))),
    ('products', lambda question: math.prod(map(int, re.findall(r'\d+', question)))),
    ('spell_backward', lambda question: question.split()[-1][::-1]),
])
def test_pitfall_17_the_answers_are_right(task, solve):
  source = reasoning_gym.reasoning_gym_source(task, 30, 0)
  for index in range(30):
    assert source[index]['answer'] == str(solve(source[index]['question']))


def test_pitfall_17_other_tasks_are_refused():
  for task, nearest in (('countdown', None), ('chain_sums', 'chain_sum')):
    with pytest.raises(ValueError, match=f"'{task}' is not .*did you mean '{nearest or ''}"):
      reasoning_gym.reasoning_gym_source(task, 10, 0)


def test_settings_reach_the_task_or_are_refused():
  source = reasoning_gym.reasoning_gym_source(
      'chain_sum', 5, 0, {'min_terms': 7, 'max_terms': 7})
  assert all(len(re.findall(r'\d+', source[i]['question'])) == 7 for i in range(5))
  for settings, words in (
      ({'min_term': 2}, "settings.min_term is not .* did you mean 'min_terms'"),
      ({'seed': 1}, 'settings.seed is not a setting'),
      ({'min_terms': '2'}, "settings.min_terms must be of the type of its default, 2, got '2'"),
      ({'min_terms': True}, 'min_terms must be of the type of its default, 2, got True'),
      ({'min_terms': 5, 'max_terms': 2}, "'min_terms': 5, 'max_terms': 2} is refused")):
    with pytest.raises(ValueError, match=words):
      reasoning_gym.reasoning_gym_source('chain_sum', 5, 0, settings)
  for size, seed in ((0, 0), (2**32, 0), (5, -1)):
    with pytest.raises(ValueError, match='use a size'):
      reasoning_gym.reasoning_gym_source('chain_sum', size, seed)
  with pytest.raises(IndexError):
    source[5]
