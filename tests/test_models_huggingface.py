import dataclasses
import json

from checkpoints import assert_equal, random_params
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
import tokenizers

from r1jax.errors import UserError
from r1jax.models import ModelConfig, RopeScaling, build, families, hf_config, huggingface
from r1jax.runtime import checksums, sharding, storage
from r1jax.tokenization import Tokenizer, load_tokenizer

LLAMA = ModelConfig(
    family='llama', vocab_size=31, width=12, num_layers=3, num_heads=6, num_kv_heads=2, head_dim=4,
    mlp_width=10, rope_theta=5e5, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 64), norm_epsilon=1e-5,
    tied_embedding=False, max_length=256)
QWEN2 = ModelConfig(
    family='qwen2', vocab_size=31, width=12, num_layers=2, num_heads=3, num_kv_heads=3, head_dim=4,
    mlp_width=10, qkv_bias=True)
QWEN3 = ModelConfig(
    family='qwen3', vocab_size=31, width=12, num_layers=2, num_heads=4, num_kv_heads=1, head_dim=6,
    mlp_width=10, rope_theta=1e6, qk_norm=True)
CONFIGS = pytest.mark.parametrize('config', [LLAMA, QWEN2, QWEN3], ids=lambda c: c.family)

# As meta-llama/Llama-3.2-1B has it, in transformers 4's spelling.
RAW = {
    'model_type': 'llama', 'vocab_size': 128256, 'hidden_size': 2048, 'num_hidden_layers': 16,
    'num_attention_heads': 32, 'num_key_value_heads': 8, 'head_dim': 64, 'intermediate_size': 8192,
    'rms_norm_eps': 1e-05, 'rope_theta': 500000.0, 'hidden_act': 'silu', 'attention_bias': False,
    'rope_scaling': {
        'factor': 32.0, 'high_freq_factor': 4.0, 'low_freq_factor': 1.0,
        'original_max_position_embeddings': 8192, 'rope_type': 'llama3'},
    'tie_word_embeddings': True, 'max_position_embeddings': 131072, 'torch_dtype': 'bfloat16'}


@pytest.fixture
def exported(tmp_path):
  """A whole folder of LLAMA in several shards, with its tensors: (folder, {name: array})."""
  folder = tmp_path / 'exported'
  huggingface.export(folder, LLAMA, random_params(LLAMA), max_shard_bytes=2_000)
  tensors = {}
  for file in folder.glob('*.safetensors'):
    tensors |= load_file(file)
  return folder, tensors


def one_file(folder, tensors, config=LLAMA):
  """A folder with these tensors in a single file."""
  folder.mkdir()
  save_file(tensors, folder / 'model.safetensors')
  (folder / 'config.json').write_text(json.dumps(hf_config.config_json(config, None, 'float32')))
  return folder


def config_folder(folder, raw):
  (folder / 'config.json').write_text(json.dumps(raw))
  return folder


# Round trips.


@CONFIGS
@pytest.mark.parametrize('max_shard_bytes', [1, 2_000, 10**9])
def test_export_and_import_are_bit_equal(config, max_shard_bytes, tmp_path):
  params = random_params(config)
  huggingface.export(tmp_path / 'a', config, params, max_shard_bytes=max_shard_bytes)
  assert huggingface.read_config(tmp_path / 'a') == config
  assert_equal(huggingface.load_params(tmp_path / 'a', config), params)


def test_a_fused_array_holds_each_tensor_where_the_docstrings_say(exported):
  tensors, params = exported[1], random_params(LLAMA)
  layer = jax.tree.map(lambda x: x[1], params['stacks']['stack_0'])
  prefix = 'model.layers.1.'
  for k in range(2):
    for r in range(3):
      rows = slice((k * 3 + r) * 4, (k * 3 + r + 1) * 4)
      query = tensors[prefix + 'self_attn.q_proj.weight'][rows]
      np.testing.assert_array_equal(query.T, layer['attention']['qkv'][:, k, r])
      out = tensors[prefix + 'self_attn.o_proj.weight'][:, rows]
      np.testing.assert_array_equal(out.T, layer['attention']['out'][k, r])
    for name, at in (('k', 3), ('v', 4)):
      rows = tensors[prefix + f'self_attn.{name}_proj.weight'][4 * k:4 * k + 4]
      np.testing.assert_array_equal(rows.T, layer['attention']['qkv'][:, k, at])
  for name, at in (('gate', 0), ('up', 1)):
    np.testing.assert_array_equal(
        tensors[prefix + f'mlp.{name}_proj.weight'].T, layer['mlp']['gate_up'][:, at])
  np.testing.assert_array_equal(tensors[prefix + 'mlp.down_proj.weight'].T, layer['mlp']['down'])
  np.testing.assert_array_equal(tensors['lm_head.weight'], params['unembedding'])


@pytest.mark.parametrize('dtype', [ml_dtypes.bfloat16, np.float16])
def test_half_precision_files_become_float32_exactly(dtype, exported, tmp_path):
  halves = {name: tensor.astype(dtype) for name, tensor in exported[1].items()}
  loaded = huggingface.load_params(one_file(tmp_path / 'halves', halves), LLAMA)
  assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype('float32')}
  assert_equal(loaded, jax.tree.map(lambda x: x.astype(dtype).astype('float32'),
                                    random_params(LLAMA)))


def test_shards_keep_to_their_limit_and_the_index_names_every_tensor(exported):
  folder, tensors = exported
  index = json.loads((folder / 'model.safetensors.index.json').read_text())
  assert index['metadata']['total_size'] == sum(tensor.nbytes for tensor in tensors.values())
  assert index['weight_map'].keys() == tensors.keys()
  shards = {file.name: load_file(file) for file in folder.glob('*.safetensors')}
  assert 3 < len(shards) < len(tensors)
  for name, file in index['weight_map'].items():
    assert name in shards[file]
    with safe_open(folder / file, 'numpy') as opened:
      assert opened.metadata() == {'format': 'pt'}   # transformers 4 insists on it
  for shard in shards.values():
    assert len(shard) == 1 or sum(tensor.nbytes for tensor in shard.values()) <= 2_000


def test_params_lie_on_the_mesh_as_the_rules_say(exported):
  mesh = sharding.make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4])
  loaded = huggingface.load_params(exported[0], LLAMA, mesh=mesh)
  assert_equal(loaded, random_params(LLAMA))
  params = random_params(LLAMA)
  placements = sharding.shardings(mesh, build(LLAMA).logical_axes, params)
  assert jax.tree.map(lambda leaf: leaf.sharding, loaded) == placements


# config.json.


def test_llama_config_in_both_spellings(tmp_path):
  config = huggingface.read_config(config_folder(tmp_path, RAW))
  assert config == ModelConfig(
      family='llama', vocab_size=128256, width=2048, num_layers=16, num_heads=32, num_kv_heads=8,
      head_dim=64, mlp_width=8192, rope_theta=500000.0,
      rope_scaling=RopeScaling(32.0, 1.0, 4.0, 8192), norm_epsilon=1e-5, tied_embedding=True,
      max_length=131072)
  new = {k: v for k, v in RAW.items() if k not in ('rope_theta', 'rope_scaling')}
  new['rope_parameters'] = RAW['rope_scaling'] | {'rope_theta': 500000.0}
  assert huggingface.read_config(config_folder(tmp_path, new)) == config
  old = RAW | {'rope_scaling': {**RAW['rope_scaling'], 'type': 'llama3'}}
  del old['rope_scaling']['rope_type']
  assert huggingface.read_config(config_folder(tmp_path, old)) == config


def test_absent_fields_mean_what_they_mean_in_transformers(tmp_path):
  fields = ('num_key_value_heads', 'head_dim', 'rms_norm_eps', 'rope_theta', 'rope_scaling',
            'hidden_act', 'attention_bias', 'tie_word_embeddings')
  bare = {key: value for key, value in RAW.items() if key not in fields}
  config = huggingface.read_config(config_folder(tmp_path, bare))
  assert config == ModelConfig(
      family='llama', vocab_size=128256, width=2048, num_layers=16, num_heads=32, num_kv_heads=32,
      head_dim=64, mlp_width=8192, rope_theta=10_000.0, norm_epsilon=1e-6, tied_embedding=False,
      max_length=131072)
  scaling = {'rope_type': 'llama3', 'factor': 8, 'low_freq_factor': 1, 'high_freq_factor': 4}
  scaled = huggingface.read_config(config_folder(tmp_path, bare | {'rope_scaling': scaling}))
  assert scaled.rope_scaling.original_max_length == 131072
  bare['model_type'] = 'qwen3'
  assert huggingface.read_config(config_folder(tmp_path, bare)).head_dim == 128


def test_a_sliding_window_that_no_layer_uses_is_accepted(tmp_path):
  raw = RAW | {'model_type': 'qwen2', 'sliding_window': 4096, 'use_sliding_window': False}
  config = huggingface.read_config(config_folder(tmp_path, raw))
  assert config.qkv_bias
  for unused in ({'use_sliding_window': True, 'max_window_layers': 16},
                 {'layer_types': ['full_attention'] * 16},
                 {'use_sliding_window': True, 'sliding_window': None, 'max_window_layers': 0}):
    assert huggingface.read_config(config_folder(tmp_path, raw | unused)) == config


@pytest.mark.parametrize('change, words', [
    ({'model_type': 'gpt2'}, "model_type='gpt2'.* use a checkpoint of llama, qwen2, qwen3"),
    ({'hidden_act': 'gelu'}, "hidden_act='gelu'.* 'silu'"),
    ({'attention_bias': True}, 'attention_bias=True'),
    ({'mlp_bias': True}, 'mlp_bias=True'),
    ({'quantization_config': {'quant_method': 'awq'}}, 'quantization_config=.*awq'),
    ({'use_sliding_window': True, 'sliding_window': 512, 'max_window_layers': 4},
     'use_sliding_window=True.* full attention'),
    ({'layer_types': ['full_attention', 'sliding_attention']}, 'layer_types=.*sliding_attention'),
    ({'partial_rotary_factor': 0.5}, 'partial_rotary_factor=0.5'),
    ({'rope_scaling': {'rope_type': 'dynamic', 'factor': 4.0}},
     "rope_type='dynamic'.* remove it if no sequence is longer"),
    ({'rope_scaling': {'rope_type': 'longrope'}}, "rope_type='longrope'.* 'llama3' or 'linear'"),
    ({'rope_scaling': None, 'rope_parameters': {'full_attention': {'rope_theta': 1e4}}},
     'rope_parameters=.*one set'),
    ({'rope_scaling': {'rope_type': 'llama3', 'factor': 8.0}}, 'has no low_freq_factor: add it'),
    ({'hidden_size': None}, 'has no hidden_size: add it'),
    ({'vocab_size': '32000'}, "vocab_size='32000': it must be an integer above 0"),
    ({'num_hidden_layers': 0}, 'num_hidden_layers=0: it must be an integer above 0'),
    ({'rms_norm_eps': True}, 'rms_norm_eps=True: it must be a number above 0'),
    ({'num_key_value_heads': 5}, 'num_kv_heads=5'),
    ({'architectures': ['LlamaForSequenceClassification']}, 'a reward model or classifier, so nam'),
    ({'quantization': {'group_size': 64, 'bits': 4}}, 'quantization=.*weights of MLX'),
    ({'num_hidden_layers': 10**9}, 'num_hidden_layers=1000000000.*use at most 10,000'),
    ({'num_hidden_layers': 10**400}, 'num_hidden_layers=1000.*must be an integer above 0'),
    ({'hidden_size': 2**40}, 'width must be from 1 to 1,048,576, got 1099511627776'),
    ({'rms_norm_eps': float('nan')}, 'rms_norm_eps=nan: it must be a number above 0'),
    ({'rope_theta': float('inf')}, 'rope_theta=inf: it must be a number'),
    ({'rope_theta': 1.0}, 'rope_theta=1.0.*above 1'),
    ({'layer_types': 5}, 'layer_types=5'),
])
def test_what_the_model_does_not_have_is_refused_by_name(change, words, tmp_path):
  with pytest.raises(ValueError, match=words):
    huggingface.read_config(config_folder(tmp_path, RAW | change))


def test_config_that_is_absent_or_no_json(tmp_path):
  with pytest.raises(FileNotFoundError, match='config.json does not exist; it is empty: name'):
    huggingface.read_config(tmp_path)
  for text in ('{"model_type": ', '[]', '[' * 100_000, '{"a": 1, "a": 2}',
               '{"a": %s}' % ('9' * 5_000)):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(ValueError, match='config.json is not valid JSON .*: download it again'):
      huggingface.read_config(tmp_path)


# Weights that do not fit.


@pytest.mark.parametrize('change, words', [
    (lambda t: t.pop('model.layers.2.mlp.up_proj.weight'),
     r'missing: model\.layers\.2\.mlp\.up_proj\.weight\)'),
    (lambda t: t.update({'model.layers.3.mlp.up_proj.weight': np.zeros((10, 12), np.float32)}),
     r'unexpected: model\.layers\.3\.mlp\.up_proj\.weight\)'),
    (lambda t: t.update({'model.norm.weight': np.zeros(13, np.float32)}),
     r'wrong shape: model\.norm\.weight \[13\], expected \[12\]\)'),
    (lambda t: t.update({'model.norm.weight': np.zeros(12, np.int8)}),
     r'model\.norm\.weight .* the type I8: save the checkpoint in one of F32, F16, BF16'),
])
def test_tensors_that_do_not_fit_are_named(change, words, exported, tmp_path):
  tensors = exported[1]
  change(tensors)
  with pytest.raises(ValueError, match=words):
    huggingface.load_params(one_file(tmp_path / 'changed', tensors), LLAMA)


@pytest.mark.parametrize('dtype', [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize('value', [np.nan, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_the_tensors_name(
    dtype, value, exported, tmp_path):
  for name in ('model.layers.1.mlp.up_proj.weight', 'model.norm.weight', 'lm_head.weight'):
    tensors = {other: tensor.astype(dtype) for other, tensor in exported[1].items()}
    tensors[name].reshape(-1)[-1] = value
    folder = one_file(tmp_path / name, tensors)
    with pytest.raises(UserError, match=f'The tensor {name} of {folder} has weights that are NaN '):
      huggingface.load_params(folder, LLAMA)


def test_a_repeated_tensor_that_is_not_finite_is_told_as_such(tmp_path):
  huggingface.export(tmp_path / 'a', QWEN3, random_params(QWEN3))
  tensors = load_file(tmp_path / 'a' / 'model.safetensors')
  tensors['model.embed_tokens.weight'][0, 0] = np.nan
  tensors['lm_head.weight'] = tensors['model.embed_tokens.weight']
  with pytest.raises(UserError, match='model.embed_tokens.weight of .* has weights that are NaN'):
    huggingface.load_params(one_file(tmp_path / 'b', tensors, QWEN3), QWEN3)


def test_many_missing_tensors_are_counted(exported, tmp_path):
  tensors = {name: t for name, t in exported[1].items() if 'proj' not in name}
  with pytest.raises(ValueError, match='missing: [^,]*, [^,]*, [^,]* and 18 more'):
    huggingface.load_params(one_file(tmp_path / 'changed', tensors), LLAMA)


def test_more_layers_than_there_are_tensors_of_are_refused_at_once(exported, monkeypatch):
  monkeypatch.setattr(families, 'tensors', None)   # which would make a name for each
  config = dataclasses.replace(LLAMA, num_layers=10_000)
  with pytest.raises(ValueError, match='of 3 layers, but its configuration describes 10000'):
    huggingface.load_params(exported[0], config)


def test_a_tied_head_may_be_there_if_it_equals_the_embedding(tmp_path):
  params = random_params(QWEN3)
  huggingface.export(tmp_path / 'a', QWEN3, params)
  tensors = load_file(tmp_path / 'a/model.safetensors')
  assert 'lm_head.weight' not in tensors
  tensors['lm_head.weight'] = tensors['model.embed_tokens.weight']
  tensors['model.layers.0.self_attn.rotary_emb.inv_freq'] = np.ones(3, np.float32)
  assert_equal(huggingface.load_params(one_file(tmp_path / 'b', tensors, QWEN3), QWEN3), params)
  tensors['lm_head.weight'] = tensors['lm_head.weight'] + 1
  with pytest.raises(ValueError, match='lm_head.weight .* tie_word_embeddings is true: set it'):
    huggingface.load_params(one_file(tmp_path / 'c', tensors, QWEN3), QWEN3)


@pytest.mark.parametrize('keep', [0, 7, 100, -1])
def test_a_torn_file_is_named(keep, exported):
  file = sorted(exported[0].glob('*.safetensors'))[1]
  file.write_bytes(file.read_bytes()[:keep])
  with pytest.raises(ValueError, match=f'{file.name} is truncated .*: download it again'):
    huggingface.load_params(exported[0], LLAMA)


def test_a_missing_shard_is_named(exported):
  file = sorted(exported[0].glob('*.safetensors'))[2]
  file.unlink()
  with pytest.raises(FileNotFoundError, match=f'{file.name}, named in .* is missing: download'):
    huggingface.load_params(exported[0], LLAMA)


def test_a_folder_without_weights_or_with_a_bad_index(exported, tmp_path):
  for folder in (tmp_path, tmp_path / 'nowhere'):
    with pytest.raises(FileNotFoundError, match=f'{folder} has neither model.safetensors nor'):
      huggingface.load_params(folder, LLAMA)
  for text, words in (('{', 'is not valid JSON'), ('{}', 'has no weight_map')):
    (exported[0] / 'model.safetensors.index.json').write_text(text)
    with pytest.raises(ValueError, match=f'index.json {words}.*: download it again'):
      huggingface.load_params(exported[0], LLAMA)


@pytest.mark.parametrize('name', [
    '../{}', '/etc/{}', 'a/../../{}', 'sub/{}', '..\\{}', 'file:{}', 'gs://bucket/{}', '', '..',
    'pytorch_model.bin'])
def test_an_index_names_files_beside_it_alone(name, exported):
  index = exported[0] / 'model.safetensors.index.json'
  content = json.loads(index.read_text())
  file = content['weight_map']['model.norm.weight']
  (exported[0] / '..' / file).write_bytes((exported[0] / file).read_bytes())
  content['weight_map']['model.norm.weight'] = name.format(file)
  index.write_text(json.dumps(content))
  with pytest.raises(ValueError, match='index.json names the file .*: only .safetensors files bes'):
    huggingface.load_params(exported[0], LLAMA)


def test_shards_that_are_links_are_read_as_a_hubs_cache_has_them(exported, tmp_path):
  blobs = tmp_path / 'blobs'
  blobs.mkdir()
  for i, file in enumerate(exported[0].glob('*.safetensors')):
    file.rename(blobs / str(i))
    file.symlink_to(blobs / str(i))
  assert_equal(huggingface.load_params(exported[0], LLAMA), random_params(LLAMA))


@pytest.mark.parametrize('change, words', [
    (lambda n: f'module.{n}', "begin with 'module.', as PyTorch's parallel wrappers leave"),
    (lambda n: f'_orig_mod.{n}', "begin with '_orig_mod.', as torch.compile.*_orig_mod` inst"),
    (lambda n: f'base_model.model.{n}', "as peft leave them: merge the adapter"),
    (lambda n: n.replace('up_proj.weight', 'up_proj.qweight'),
     'up_proj.qweight: its weights are quantised by GPTQ or AWQ; name the model'),
    (lambda n: n.replace('up_proj.weight', 'up_proj.lora_A.weight'),
     'beside an adapter that is not merged; merge it with `merge_and_unload`'),
    (lambda n: n.replace('lm_head', 'score'), 'has score.weight: it is a reward model or classif'),
    (lambda n: n.removeprefix('model.'), "lack the prefix 'model.': it is a bare model"),
    (lambda n: n.replace('lm_head', 'inv.rotary_emb.inv_freq').replace('.weight', '') if
     'lm_head' in n else n, 'has no lm_head.weight, and tie_word_embeddings is false: set it'),
])
def test_weights_of_something_around_a_model_are_named(change, words, exported, tmp_path):
  tensors = {change(name): tensor for name, tensor in exported[1].items()}
  with pytest.raises(ValueError, match=words):
    huggingface.load_params(one_file(tmp_path / 'changed', tensors), LLAMA)


def test_a_pointer_of_git_lfs_is_not_a_damaged_file(exported):
  file = sorted(exported[0].glob('*.safetensors'))[0]
  file.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n')
  with pytest.raises(ValueError, match=f'{file.name} is a pointer of git-LFS, .*`git lfs pull`'):
    huggingface.load_params(exported[0], LLAMA)


def test_a_tensor_in_two_shards_is_refused(exported):
  first, second = sorted(exported[0].glob('*.safetensors'))[:2]
  save_file(load_file(first) | load_file(second), second)
  with pytest.raises(ValueError, match=f'is in two files of .*, {first.name} and {second.name}'):
    huggingface.load_params(exported[0], LLAMA)


def test_shards_in_a_bucket_are_read_as_those_on_a_disk():
  folder, params = 'memory://weights/a', random_params(LLAMA)
  huggingface.export(folder, LLAMA, params, max_shard_bytes=2_000)
  assert huggingface.read_config(folder) == LLAMA
  assert_equal(huggingface.load_params(folder, LLAMA), params)
  lost = next(path for path in storage.Path(folder).iterdir() if '.safetensors' in path.name)
  lost.remove()
  with pytest.raises(FileNotFoundError, match=f'{lost.name}, named in .* is missing: download'):
    huggingface.load_params(folder, LLAMA)
  storage.Path(folder).remove()


# Export.


@pytest.fixture
def tokenizer(tmp_path):
  words = {'<s>': 0, '</s>': 1, 'one': 2, '<|end|>': 3}
  backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token='one'))
  return Tokenizer({
      'tokenizer.json': backend.to_str(),
      'tokenizer_config.json': json.dumps({'bos_token': '<s>', 'eos_token': '</s>'}),
      'generation_config.json': json.dumps({'eos_token_id': [3, 1]}),
  }, source='a test')


def test_export_carries_tokenizer_and_stop_ids(tokenizer, tmp_path):
  huggingface.export(tmp_path / 'a', QWEN2, random_params(QWEN2), tokenizer=tokenizer)
  raw = json.loads((tmp_path / 'a/config.json').read_text())
  assert (raw['bos_token_id'], raw['eos_token_id']) == (0, [3, 1])
  assert load_tokenizer(tmp_path / 'a').stop_ids == (3, 1)


def test_generation_settings_come_along(tokenizer, tmp_path):
  """What was read is what is written; where nothing was, the stop ids are, for other engines."""
  huggingface.export(tmp_path / 'made', QWEN2, random_params(QWEN2), tokenizer=Tokenizer(
      {name: text for name, text in tokenizer._files.items() if name != 'generation_config.json'},
      source='a test'))
  written = json.loads((tmp_path / 'made/generation_config.json').read_text())
  assert written == {'bos_token_id': 0, 'eos_token_id': [1]}
  assert load_tokenizer(tmp_path / 'made').stop_ids == (1,)

  settings = {'eos_token_id': [3, 1], 'do_sample': True, 'temperature': 0.6, 'top_p': 0.95,
              'top_k': 20, 'repetition_penalty': 1.05}
  files = tokenizer._files | {'generation_config.json': json.dumps(settings)}
  folder = tmp_path / 'kept'
  huggingface.export(folder, QWEN2, random_params(QWEN2), tokenizer=Tokenizer(files, source='b'))
  assert json.loads((folder / 'generation_config.json').read_text()) == settings
  loaded = load_tokenizer(folder)
  assert (loaded.stop_ids, loaded.sampling) == (
      (3, 1), {'temperature': 0.6, 'top_p': 0.95, 'top_k': 20})
  transformers = pytest.importorskip('transformers')
  theirs = transformers.GenerationConfig.from_pretrained(folder)
  assert (theirs.eos_token_id, theirs.temperature, theirs.top_p) == ([3, 1], 0.6, 0.95)


def test_an_export_keeps_the_tokenizer_files_it_came_with_byte_for_byte(tokenizer, tmp_path):
  came = {'tokenizer.model': bytes(range(256)), 'vocab.json': b'{"a": 0}\r\n',
          'merges.txt': b'a b\n',
          'added_tokens.json': b'{}', 'special_tokens_map.json': b'{ "eos_token": "</s>" }',
          'chat_template.jinja': '中{{ messages }}'.encode(), 'vocab.txt': b'',
          'generation_config.json': b'{"eos_token_id": [3]}'}
  tokenizer.save(tmp_path / 'base')
  for name, content in came.items():
    (tmp_path / 'base' / name).write_bytes(content)
  huggingface.export(tmp_path / 'a', QWEN2, random_params(QWEN2),
                     tokenizer=load_tokenizer(tmp_path / 'base'))
  huggingface.export(tmp_path / 'b', QWEN2, random_params(QWEN2),
                     tokenizer=load_tokenizer(tmp_path / 'a'))
  for name, content in came.items():
    assert (tmp_path / 'b' / name).read_bytes() == content, name
  written = checksums.unseal((tmp_path / 'b' / 'r1jax_checksums.json').read_bytes())['files']
  assert came.keys() <= written.keys() == {path.name for path in (tmp_path / 'b').iterdir()} - {
      'r1jax_checksums.json'}


def test_an_export_that_fails_half_way_leaves_no_config(tmp_path):
  class Full:
    bos_id, stop_ids = None, (1,)

    def save(self, folder):
      raise OSError(28, 'No space left on device')

  with pytest.raises(OSError, match='No space left'):
    huggingface.export(tmp_path / 'a', QWEN2, random_params(QWEN2), tokenizer=Full())
  with pytest.raises(FileNotFoundError, match='config.json'):
    huggingface.read_config(tmp_path / 'a')


def test_export_overwrites_nothing(exported, tmp_path):
  folder, tensors = exported
  with pytest.raises(FileExistsError, match='already exists: remove it or use another'):
    huggingface.export(folder, LLAMA, jax.tree.map(np.zeros_like, random_params(LLAMA)))
  assert_equal(huggingface.load_params(folder, LLAMA), random_params(LLAMA))
  (tmp_path / 'b').mkdir()
  save_file(tensors, tmp_path / 'b/model.safetensors')
  with pytest.raises(FileExistsError, match='model.safetensors already exists'):
    huggingface.export(tmp_path / 'b', LLAMA, random_params(LLAMA))


def test_export_refuses_before_it_writes(tmp_path):
  params = random_params(LLAMA)
  narrow = dataclasses.replace(LLAMA, mlp_width=8)
  with pytest.raises(ValueError, match=r'down has the shape \(3, 10, 12\), but .* \(3, 8, 12\)'):
    huggingface.export(tmp_path / 'a', narrow, params)
  with pytest.raises(ValueError, match="dtype='int8' .* float32, bfloat16"):
    huggingface.export(tmp_path / 'a', LLAMA, params, dtype='int8')
  biased = dataclasses.replace(LLAMA, qkv_bias=True)
  with pytest.raises(ValueError, match="family='llama' .* qkv_bias belongs to 'qwen2'"):
    huggingface.export(tmp_path / 'a', biased, random_params(biased))
  assert not (tmp_path / 'a').exists()
