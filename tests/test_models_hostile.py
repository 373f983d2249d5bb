"""Files of strangers with random changes: each is read, or ends in a UserError, never otherwise."""
import copy
import json
import random

from checkpoints import random_params
import numpy as np
import pytest
from safetensors.numpy import load_file

from r1jax.errors import UserError
from r1jax.models import PRESETS, hf_config, huggingface, num_params, rotary

VALUES = [
    None, True, False, 0, 1, 2, 3, 7, -1, 10**9, 2**63, 10**400, 0.5, 2.0, -0.0, 1e-320, 1e308,
    float('inf'), float('nan'), '', '16', 'yarn', 'linear', 'dynamic', [], [0], [1, None], ['x'],
    [[[]]], {}, {'a': 1}, {'rope_type': 'yarn'}, {'rope_type': 'llama3', 'factor': 8.0},
    {'rope_type': 'yarn', 'factor': -1.0, 'original_max_position_embeddings': 0},
    {'full_attention': 3}, ['full_attention'], ['sliding_attention'] * 3]
TINY = [name for name in PRESETS if name.startswith('tiny_')]


def changed(rng, raw):
  """A copy of `raw` with one to three values, at any depth, replaced, removed or added."""
  raw = json.loads(json.dumps(raw))
  for _ in range(rng.randrange(1, 4)):
    place = raw
    while True:
      key = rng.choice([*place, 'rope_parameters', 'text_config', 'layer_types'])
      if not (isinstance(place.get(key), dict) and place[key] and rng.random() < 0.6):
        break
      place = place[key]
    if rng.random() < 0.1:
      place.pop(key, None)
    else:
      place[key] = copy.deepcopy(rng.choice(VALUES))
  return raw


def configs():
  for name in TINY:
    raw = hf_config.config_json(PRESETS[name], None, 'float32')
    yield raw
    if name == 'tiny_gemma3':
      yield {'model_type': 'gemma3', 'text_config': raw, 'vision_config': {}}
  yield raw | {'model_type': 'ministral', 'sliding_window': 5, 'layer_types': [
      'full_attention', 'sliding_attention']}


@pytest.mark.parametrize('raw', list(configs()), ids=lambda raw: raw['model_type'])
def test_a_changed_configuration_is_read_or_refused_in_one_sentence(raw):
  rng, refused, read = random.Random(raw['model_type']), 0, set()
  for _ in range(2000):
    try:
      config = hf_config.parse('config.json', changed(rng, raw))
      assert num_params(config) > 0 and config.longest > 0
      read.add(config)
    except UserError as error:
      assert len(str(error)) < 2_000 and '\n' not in str(error)
      refused += 1
  assert 500 < refused < 2000 and len(read) > 20
  for config in sorted(read, key=repr)[:20]:
    rotary.tables(config, np.zeros((1, 2), int))


def test_weights_beside_a_changed_configuration_are_loaded_or_refused(tmp_path):
  config = PRESETS['tiny_qwen3_moe']
  huggingface.export(tmp_path, config, random_params(config))
  raw = json.loads((tmp_path / 'config.json').read_text())
  rng, ends = random.Random(0), []
  for _ in range(60):
    (tmp_path / 'config.json').write_text(json.dumps(changed(rng, raw)))
    try:
      huggingface.load_params(tmp_path, huggingface.read_config(tmp_path))
      ends.append('read')
    except UserError:
      ends.append('refused')
  assert set(ends) == {'read', 'refused'}


def test_changed_bytes_of_a_header_are_read_or_refused(tmp_path):
  config = PRESETS['tiny_qwen2']
  huggingface.export(tmp_path, config, random_params(config))
  path = tmp_path / 'model.safetensors'
  whole, names = path.read_bytes(), load_file(path)
  length = int.from_bytes(whole[:8], 'little')
  rng, refused = random.Random(0), 0
  for _ in range(150):
    content = bytearray(whole)
    for _ in range(rng.randrange(1, 3)):
      content[rng.randrange(8 + length)] = rng.choice(b'{}[]",:0129-e.IN\xff\x00 ')
    path.write_bytes(content)
    try:
      huggingface.load_params(tmp_path, config)
    except UserError:
      refused += 1
  assert refused > 100 and len(names) > 10
