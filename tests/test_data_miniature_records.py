import pytest

from r1jax.data import miniature, miniature_records
from r1jax.stages import datasets

pytest.importorskip('tensorflow_datasets')

SETTINGS = dict(seed=3, min_steps=2, max_steps=4)


def source(folder, split='train', size=20, **settings):
  return miniature_records.calculations_source(split, size, data_dir=folder, **SETTINGS | settings)


@pytest.mark.parametrize('split', ['train', 'test'])
def test_they_are_those_made_in_memory_in_any_order(split, tmp_path):
  want = miniature.calculations(split, 20, **SETTINGS)
  got = source(tmp_path, split)
  assert len(got) == 20
  assert [got[index] for index in reversed(range(20))] == want[::-1]
  data = dict(name='miniature', size=20, **SETTINGS)
  assert datasets.load_examples(data, split) == want
  kept = datasets.load_examples(data | dict(cache=str(tmp_path)), split)
  assert [kept[index] for index in range(20)] == want


def test_they_are_made_once(tmp_path, monkeypatch):
  want = list(source(tmp_path, size=40))
  made, calculations = [], miniature.calculations

  def noting(split, size, **settings):
    made.append(size)
    return calculations(split, size, **settings)
  monkeypatch.setattr(miniature, 'calculations', noting)
  assert list(source(tmp_path, size=40)) == want
  assert made and max(made) < 40


def test_other_settings_and_another_generator_are_other_datasets(tmp_path, monkeypatch):
  folders = [source(tmp_path), source(tmp_path, seed=4), source(tmp_path, max_steps=5),
             source(tmp_path, size=21), source(tmp_path, 'test')]
  assert len({str([dict(row) for row in folder]) for folder in folders}) == 5
  assert len(list(tmp_path.glob('miniature_*'))) == 5
  calculations = miniature.calculations
  monkeypatch.setattr(miniature, 'calculations', lambda *arguments, **settings: [
      example | dict(answer='7') for example in calculations(*arguments, **settings)])
  assert {row['answer'] for row in source(tmp_path)} == {'7'}


def test_what_cannot_be_is_refused_and_leaves_nothing(tmp_path):
  for fields, sentence in ((dict(split='val'), "split='val'"), (dict(min_steps=9), 'min_steps=9'),
                           (dict(size=0), 'size=0'), (dict(size=10 ** 5, min_steps=1, max_steps=1),
                            'size=10')):
    with pytest.raises(ValueError, match=sentence):
      source(tmp_path, **fields)
  assert not list(tmp_path.rglob('*.array_record*'))
  with pytest.raises(ValueError, match='local disk'):
    source('memory://data')
