import pytest

from r1jax.errors import UserError
from r1jax.stages import datasets

DATA = datasets.data_field('the problems')


def test_every_dataset_is_checked_by_its_own_fields():
  for name, (_, section) in datasets.DATASETS.items():
    assert not list(DATA.faults(dict(section.default, name=name), 'data'))
    assert not list(DATA.faults(dict(name=name), 'data'))      # the rest has defaults
    fault, = DATA.faults(dict(section.default, name=name, sede=1), 'data')
    assert fault.startswith('data.sede is not a field: did you mean data.')
  fault, = DATA.faults(dict(name='minature'), 'data')
  assert fault.endswith("got 'minature': did you mean 'miniature'?")


def test_train_and_test_of_reasoning_gym_are_apart():
  pytest.importorskip('reasoning_gym')
  drawn = {(split, seed): [example['question'] for example in datasets.load_examples(
      dict(name='reasoning_gym', task='chain_sum', size=50, seed=seed), split)]
      for split in ('train', 'test') for seed in (0, 1)}
  assert len({tuple(questions) for questions in drawn.values()}) == 4


def test_the_difficulty_of_reasoning_gym_is_checked_and_part_of_the_identity():
  pytest.importorskip('reasoning_gym')
  data = dict(name='reasoning_gym', task='chain_sum', size=5)
  hard = data | dict(settings=dict(min_terms=7, max_terms=7))
  assert not list(DATA.faults(hard, 'data')) and DATA.computed(hard) != DATA.computed(data)
  assert all(datasets.load_examples(hard, 'train')[i]['question'].count('+')
             + datasets.load_examples(hard, 'train')[i]['question'].count('-') == 6
             for i in range(5))
  fault, = DATA.faults(data | dict(settings=dict(min_term=7)), 'data')
  assert fault.startswith('data.settings.min_term is not a setting')
  fault, = DATA.faults(data | dict(task='chain'), 'data')
  assert fault.startswith('data.task must be one of')


@pytest.mark.parametrize('name', ['jsonl', 'gsm8k'])
def test_data_without_a_folder_are_not_looked_for_at_the_root(name):
  with pytest.raises(UserError, match="a path must not be empty, got ''"):
    datasets.load_examples({'name': name, 'folder': ''}, 'train')
