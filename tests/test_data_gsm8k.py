import json
import os
import pathlib
import re

import pytest

from r1jax.data import gsm8k
from r1jax.errors import UserError

pytest.importorskip('tensorflow_datasets')

FOLDER = pathlib.Path(__file__).parents[1] / os.environ.get('R1JAX_GSM8K', '../shared/data/gsm8k')


@pytest.mark.skipif(not FOLDER.is_dir(), reason='GSM8K is not here: set R1JAX_GSM8K to its folder')
def test_rows_are_those_of_the_files(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.chdir(tmp_path)
  for split, size in (('train', 7473), ('test', 1319)):
    source = gsm8k.load_gsm8k(FOLDER, split)
    lines = (FOLDER / f'{split}.jsonl').read_bytes().splitlines()
    assert len(source) == len(lines) == size
    for index in (0, 1, size // 2, size - 1):
      line, row = json.loads(lines[index]), source[index]
      assert set(row) == {'question', 'answer', 'solution', 'reasoning'}
      assert (row['question'], row['solution']) == (line['question'], line['answer'])
      assert re.fullmatch(r'-?[\d,.]+', row['answer'])
      assert row['solution'].endswith(f'#### {row["answer"]}')
      assert row['reasoning'] and not re.search('####|<<|>>', row['reasoning'])
  assert gsm8k.load_gsm8k(FOLDER, 'train')[0]['answer'] == '72'
  assert gsm8k.load_gsm8k(FOLDER, 'train')[0]['reasoning'] == (
      'Natalia sold 48/2 = 24 clips in May.\n'
      'Natalia sold 48+24 = 72 clips altogether in April and May.')
  assert gsm8k.load_gsm8k(FOLDER, 'test')[0]['answer'] == '18'
  # Prepared once: the files are not needed any more.
  assert len(gsm8k.load_gsm8k(tmp_path / 'gone', 'train[:5]')) == 5
  assert [path.name for path in tmp_path.iterdir()] == ['cache']
  # Other files, of which only a word tells, are another dataset.
  (tmp_path / 'other').mkdir()
  for split in ('train', 'test'):
    text = (FOLDER / f'{split}.jsonl').read_bytes().replace(b'72', b'73')
    (tmp_path / 'other' / f'{split}.jsonl').write_bytes(text)
  assert gsm8k.load_gsm8k(tmp_path / 'other', 'train')[0]['answer'] == '73'
  assert gsm8k.load_gsm8k(FOLDER, 'train')[0]['answer'] == '72'
  with pytest.raises(UserError, match='holds what several versions of them gave .gsm8k_.*, gsm8k_'):
    gsm8k.load_gsm8k(tmp_path / 'gone', 'train')


def test_other_files_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='train.jsonl does not exist'):
    gsm8k.load_gsm8k(tmp_path, 'train', tmp_path)
  stranger = json.dumps({'question': 'How many?', 'answer': 'One. #### 1'})
  torn = stranger.replace('How many?', 'Natalia sold clips to 48 of her friends in April')
  for text in ('{}', '[1]', 'no JSON', '', torn, '\n'.join([stranger] * 7473)):
    (tmp_path / 'train.jsonl').write_text(text)
    with pytest.raises(ValueError, match="not GSM8K's train file of 7473 lines"):
      gsm8k.load_gsm8k(tmp_path, 'train', tmp_path)
