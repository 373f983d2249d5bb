"""Streaming weights: what each device gets, what is read and held, 8-bit blocks, interruptions."""
import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
import tracemalloc

from checkpoints import assert_equal, random_params
import jax
import ml_dtypes
import numpy as np
import pytest
from runs import compilations  # noqa: F401 (fixture)
from safetensors.numpy import load_file, save_file

from r1jax.models import (
  Experts,
  Latent,
  ModelConfig,
  build,
  families,
  fp8,
  hf_config,
  huggingface,
  safetensors_io,
  streaming,
)
from r1jax.runtime import sharding, storage
from r1jax.stages import loading
from r1jax.tokenization import load_tokenizer

LLAMA = ModelConfig(
    family='llama', vocab_size=24, width=12, num_layers=2, num_heads=6, num_kv_heads=2, head_dim=4,
    mlp_width=10, tied_embedding=False)
QWEN2 = dataclasses.replace(LLAMA, family='qwen2', qkv_bias=True, num_kv_heads=6)
DEEPSEEK = ModelConfig(
    family='deepseek_v3', vocab_size=40, width=16, num_heads=4, num_kv_heads=4, head_dim=10,
    mlp_width=24, num_layers=3, tied_embedding=False, layers=((('dense',), 1), (('experts',), 2)),
    experts=Experts(count=4, per_token=2, width=8, routing='sigmoid', groups=2, groups_per_token=1,
                    shared=1),
    latent=Latent(rank=12, rope_dim=4, value_dim=6, query_rank=14))


@pytest.fixture
def mesh():
  return sharding.make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4])


@pytest.fixture
def bytes_per_read(monkeypatch):
  """Sets how many bytes may be read at once."""
  return lambda size: monkeypatch.setattr(streaming, 'READ_BYTES', size)


# Every device gets its part.


@pytest.mark.parametrize('config, size', [(LLAMA, 4), (QWEN2, 200), (DEEPSEEK, 300)],
                         ids=lambda value: getattr(value, 'family', value))
def test_reads_of_any_size_make_the_same_parameters_on_any_mesh(
    config, size, mesh, bytes_per_read, tmp_path):
  params = random_params(config)
  huggingface.export(tmp_path / 'a', config, params)
  bytes_per_read(size)
  if config is QWEN2:
    assert_equal(huggingface.load_params(tmp_path / 'a', config), params)
  loaded = huggingface.load_params(tmp_path / 'a', config, mesh=mesh)
  assert_equal(loaded, params)
  placements = sharding.shardings(mesh, build(config).logical_axes, params)
  assert jax.tree.map(lambda leaf: leaf.sharding, loaded) == placements
  for leaf, array in zip(jax.tree.leaves(loaded), jax.tree.leaves(params)):
    for shard in leaf.addressable_shards:
      np.testing.assert_array_equal(shard.data, array[shard.index])


def test_each_byte_is_read_once_for_all_devices_and_in_bounded_reads(
    mesh, bytes_per_read, tmp_path):
  config = dataclasses.replace(LLAMA, width=32, mlp_width=64, vocab_size=100)
  tensors = families.tensors(config, families.FAMILIES['llama'])
  bytes_per_read(2_000)
  counts = {name: np.zeros((t.shape + (1,))[:2], int) for name, t in tensors.items()}

  def read(name, rows, columns):
    part = counts[name][slice(*rows), slice(*columns)]
    part += 1
    assert part.size * 4 <= 2_000 or rows[1] - rows[0] <= 3 * config.head_dim
    return part.astype(np.float32)

  streaming.assemble(config, tensors, read, mesh=mesh)
  assert all((count == 1).all() for count in counts.values())


@pytest.mark.parametrize('name, wanted, rows, columns', [
    ('model.layers.1.self_attn.q_proj.weight', ((0, 2), (3, 9), (1, 2), (0, 5), (0, 4)),
     (12, 24), (3, 9)),
    ('model.layers.1.self_attn.o_proj.weight', ((1, 2), (0, 1), (0, 3), (0, 4), (6, 12)),
     (6, 12), (0, 12)),
    ('model.layers.1.mlp.up_proj.weight', ((1, 2), (0, 6), (1, 2), (5, 10)), (5, 10), (0, 6)),
    ('model.layers.0.mlp.up_proj.weight', ((1, 2), (0, 6), (1, 2), (5, 10)), None, None),
    ('model.layers.1.mlp.gate_proj.weight', ((1, 2), (0, 6), (1, 2), (5, 10)), None, None),
])
def test_only_what_a_process_holds_is_read(name, wanted, rows, columns):
  """As of a process whose devices hold the box `wanted` of a parameter and nothing else."""
  tensor = families.tensors(LLAMA, families.FAMILIES['llama'])[name]
  shape = random_params(LLAMA)
  for key in tensor.path:
    shape = shape[key]
  asked = []

  def read(name, rows, columns):
    asked.append((rows, columns))
    return np.zeros((rows[1] - rows[0], columns[1] - columns[0]))

  list(streaming._reads(name, tensor, shape.shape, [wanted], read))
  assert asked == ([] if rows is None else [(rows, columns)])


# Memory. Arrays on devices are not in tracemalloc's sight, so that it sees buffers only.


def peak_of_buffers(run):
  run()   # what jax allocates once is not counted
  tracemalloc.start()
  kept = run()
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  del kept
  return peak


def test_memory_of_import_and_export_is_that_of_reads(mesh, bytes_per_read, tmp_path):
  config = dataclasses.replace(LLAMA, width=256, mlp_width=1024, num_layers=8, vocab_size=2048)
  params = random_params(config)
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
  largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
  assert size > 28 * 2**20 and largest == 16 * 2**20
  huggingface.export(tmp_path / 'a', config, params, max_shard_bytes=size // 8)
  del params
  bytes_per_read(2**19)
  peak = peak_of_buffers(lambda: huggingface.load_params(tmp_path / 'a', config, mesh=mesh))
  assert peak < 4 * 2**19   # what is read, its transpose, and one small parameter
  loaded = huggingface.load_params(tmp_path / 'a', config, mesh=mesh)
  folders = iter('bc')
  peak = peak_of_buffers(lambda: huggingface.export(
      tmp_path / next(folders), config, loaded, max_shard_bytes=size // 2))
  assert peak < 7 * 2**20   # the embedding, 2 MiB, as fetched and as written; small parameters
  for path in (tmp_path / 'b').glob('*.safetensors'):
    for name, array in load_file(path).items():
      np.testing.assert_array_equal(array, streaming.extract(
          loaded, families.tensors(config, families.FAMILIES['llama'])[name]))


def test_an_export_of_sharded_parameters_is_that_of_arrays_byte_for_byte(
    mesh, monkeypatch, tmp_path):
  params = random_params(DEEPSEEK)
  huggingface.export(tmp_path / 'a', DEEPSEEK, params, max_shard_bytes=4_000)
  placed = jax.device_put(params, sharding.shardings(mesh, build(DEEPSEEK).logical_axes, params))
  monkeypatch.setattr(streaming, '_SMALL_BYTES', 0)
  huggingface.export(tmp_path / 'b', DEEPSEEK, placed, max_shard_bytes=4_000)
  names = [path.name for path in sorted((tmp_path / 'a').iterdir())]
  assert names == [path.name for path in sorted((tmp_path / 'b').iterdir())] and len(names) > 5
  for name in names:
    assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()


@pytest.mark.parametrize('addressable', [True, False])
def test_a_part_of_a_split_parameter_takes_the_memory_of_the_part(addressable, compilations):
  """Of one expert: nothing that is larger is gathered, and one program cuts all experts."""
  mesh = sharding.make_mesh(fsdp=2, expert=2, tensor=2, devices=jax.devices()[:8])
  whole = np.random.default_rng(0).standard_normal((4, 8, 64, 2, 32)).astype(np.float32)
  whole[2, 6, 3, 1] = -0.0
  placement = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(
      None, ('expert', 'fsdp'), None, None, 'tensor'))
  array, sizes = jax.device_put(whole, placement), (1, 1, 64, 1, 32)
  cut = streaming._slicer(placement, addressable)
  for expert in (0, 1, 6):
    starts = np.array([2, expert, 0, 1, 0], np.int32)
    part = np.asarray(cut(array, starts, sizes))
    assert part.tobytes() == whole[2:3, expert:expert + 1, :, 1:].tobytes()
    if expert == 0:
      assert compilations
      del compilations[:]
  assert not compilations
  compiled = cut.lower(array, starts, sizes).compile()
  assert ('all-gather' in compiled.as_text()) == (not addressable)
  memory, held = compiled.memory_analysis(), part.nbytes // (2 if addressable else 1)
  assert memory.output_size_in_bytes == held and memory.temp_size_in_bytes <= 2 * held
  with pytest.raises(ValueError, match='take all of such an axis, or one index'):
    cut(array, starts, (1, 2, 64, 1, 32))


TWO_PROCESSES = """
import os, pathlib, sys
folder, port, number = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
import jax
import numpy as np
jax.distributed.initialize(f'127.0.0.1:{port}', 2, number)
from r1jax.runtime import sharding, storage
from r1jax.models import huggingface, streaming
streaming.READ_BYTES, streaming._SMALL_BYTES = 4_000, 500
config = huggingface.read_config(folder / 'a')
params = huggingface.load_params(folder / 'a', config, mesh=sharding.make_mesh(expert=2, tensor=2))
whole = huggingface.load_params(folder / 'a', config)
for leaf, array in zip(jax.tree.leaves(params), jax.tree.leaves(whole)):
  assert len(leaf.addressable_shards) == 2
  for shard in leaf.addressable_shards:
    np.testing.assert_array_equal(shard.data, np.asarray(array)[shard.index])
huggingface.export(folder / 'b', config, params, max_shard_bytes=2_000)
assert (folder / 'b/config.json').exists()
def full(path, parts):
  next(iter(parts))
  raise OSError(28, 'No space left', str(path))
storage.Path.write_parts = full   # which the first alone calls
try:
  huggingface.export(folder / 'c', config, params)
except OSError as error:
  assert error.strerror == 'No space left'
  print('done', flush=True)
os._exit(0)   # a process that waits for the other's end may wait for long
"""


def test_two_processes_read_and_write_together(tmp_path):
  huggingface.export(tmp_path / 'a', DEEPSEEK, random_params(DEEPSEEK), max_shard_bytes=2_000)
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  environment = os.environ | {
      'XLA_FLAGS': '--xla_force_host_platform_device_count=2', 'JAX_PLATFORMS': 'cpu',
      'PYTHONPATH': os.pathsep.join(sys.path)}
  processes = [subprocess.Popen(
      [sys.executable, '-c', TWO_PROCESSES, str(tmp_path), str(port), str(number)],
      env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
      for number in range(2)]
  try:
    for process in processes:
      out, errors = process.communicate(timeout=120)
      assert out.endswith('done\n'), errors[-2_000:]
  finally:
    for process in processes:
      process.kill()
  for path in (tmp_path / 'a').iterdir():
    assert path.read_bytes() == (tmp_path / 'b' / path.name).read_bytes()


# 8-bit weights.

BLOCK = (128, 128)
WIDE = dataclasses.replace(
    DEEPSEEK, width=160, mlp_width=200, vocab_size=20,
    experts=Experts(count=4, per_token=2, width=136, routing='sigmoid', groups=2,
                    groups_per_token=1, shared=1))
FP8 = {'activation_scheme': 'dynamic', 'fmt': 'e4m3', 'quant_method': 'fp8',
       'weight_block_size': list(BLOCK)}


def in_eight_bits(tensors, block=BLOCK):
  """(what is published, what it means): projections of all layers quantised block by block.

  Written with loops over blocks, unlike the code under test.
  """
  published, meant = {}, dict(tensors)
  for name, array in tensors.items():
    if not name.endswith('proj.weight') and 'proj_with_mqa' not in name:
      published[name] = array.astype(ml_dtypes.bfloat16)
      meant[name] = published[name].astype(np.float32)
      continue
    values = np.zeros(array.shape, ml_dtypes.float8_e4m3fn)
    scales = np.zeros([(size + b - 1) // b for size, b in zip(array.shape, block)], np.float32)
    meant[name] = np.zeros(array.shape, np.float32)
    for i in range(scales.shape[0]):
      for j in range(scales.shape[1]):
        at = (slice(i * block[0], (i + 1) * block[0]), slice(j * block[1], (j + 1) * block[1]))
        scales[i, j] = np.abs(array[at]).max() / 448
        values[at] = (array[at] / scales[i, j]).astype(ml_dtypes.float8_e4m3fn)
        meant[name][at] = values[at].astype(np.float32) * scales[i, j]
    published |= {name: values, name + '_scale_inv': scales}
  return published, meant


@pytest.fixture(scope='module')
def eight_bits(tmp_path_factory):
  """(config, published tensors, the parameters that they mean)."""
  folder = tmp_path_factory.mktemp('eight_bits')
  huggingface.export(folder / 'a', WIDE, random_params(WIDE))
  published, meant = in_eight_bits(load_file(folder / 'a/model.safetensors'))
  scales = [array.shape for name, array in published.items() if 'scale_inv' in name]
  assert (2, 2) in scales and (1, 2) in scales and (2, 1) in scales
  write(folder / 'b', meant)
  return published, huggingface.load_params(folder / 'b', WIDE)


def write(folder, tensors, quantised=None, config=WIDE):
  folder.mkdir()
  save_file(tensors, folder / 'model.safetensors')
  raw = hf_config.config_json(config, None, 'bfloat16')
  (folder / 'config.json').write_text(json.dumps(raw | (
      {} if quantised is None else {'quantization_config': quantised})))
  return folder


@pytest.mark.parametrize('size', [2**24, 60_000])
def test_deepseeks_eight_bit_weights_are_dequantised(
    size, eight_bits, mesh, bytes_per_read, tmp_path):
  published, params = eight_bits
  folder = write(tmp_path / 'a', published, FP8)
  assert huggingface.read_config(folder) == WIDE
  bytes_per_read(size)   # reads of rows and columns that do not end where a block ends
  assert_equal(huggingface.load_params(folder, WIDE, mesh=mesh), params)


@pytest.mark.parametrize('rows, columns', [
    ((0, 300), (0, 200)), ((127, 129), (0, 200)), ((5, 100), (90, 130)), ((290, 300), (199, 200)),
    ((130, 131), (128, 200))])
def test_any_part_of_an_eight_bit_weight_is_that_part_of_the_whole(rows, columns):
  array = np.random.default_rng(0).standard_normal((300, 200)).astype(np.float32)
  published, meant = in_eight_bits({'q_proj.weight': array}, (128, 64))
  at, scales = (slice(*rows), slice(*columns)), published['q_proj.weight_scale_inv']
  part = fp8.dequantise(
      published['q_proj.weight'][at], scales[rows[0] // 128:, columns[0] // 64:], (128, 64),
      first_row=rows[0], first_column=columns[0])
  np.testing.assert_array_equal(part, meant['q_proj.weight'][at])


@pytest.mark.parametrize('change, words', [
    ({'quant_method': 'gptq'}, "quantization_config=.*'gptq'.* with quant_method 'fp8'"),
    ({'fmt': 'e5m2'}, "quantization_config=.*e5m2.* fmt 'e4m3'"),
    ({'weight_block_size': None}, r'weight_block_size=None: it must be .* as \[128, 128\]'),
    ({'weight_block_size': [128, 0]}, r'weight_block_size=\[128, 0\]: it must be'),
    ({'weight_block_size': 128}, 'weight_block_size=128: it must be'),
])
def test_another_quantisation_is_refused(change, words, tmp_path):
  folder = write(tmp_path / 'a', {}, FP8 | change)
  for read in (huggingface.read_config, lambda folder: huggingface.load_params(folder, WIDE)):
    with pytest.raises(ValueError, match=words):
      read(folder)


NAME = 'model.layers.0.mlp.up_proj.weight'


@pytest.mark.parametrize('change, quantised, words', [
    (lambda t: t.pop(f'{NAME}_scale_inv'), FP8, rf'missing: {NAME}_scale_inv\)'),
    (lambda t: t.update({f'{NAME}_scale_inv': np.ones((2, 1), np.float32)}), FP8,
     rf'wrong shape: {NAME}_scale_inv \[2, 1\], expected \[2, 2\]'),
    (lambda t: t.update({f'{NAME}_scale_inv': np.ones((2, 2), np.int8)}), FP8,
     f'{NAME}_scale_inv .* the type I8: save'),
    (lambda t: t.update({'model.norm.weight_scale_inv': np.ones((1,), np.float32)}), FP8,
     'unexpected: model.norm.weight_scale_inv'),
    (lambda t: [t.pop(n) for n in list(t) if 'scale_inv' in n], None,
     'type F8_E4M3, but config.json has no quantization_config .*: use the model in'),
])
def test_eight_bit_weights_that_do_not_fit_are_named(
    change, quantised, words, eight_bits, tmp_path):
  tensors = dict(eight_bits[0])
  change(tensors)
  with pytest.raises(ValueError, match=words):
    huggingface.load_params(write(tmp_path / 'a', tensors, quantised), WIDE)


# Interrupted, truncated, misplaced.


def test_an_import_that_was_interrupted_is_called_again(
    mesh, bytes_per_read, monkeypatch, tmp_path):
  params = random_params(LLAMA)
  huggingface.export(tmp_path / 'a', LLAMA, params, max_shard_bytes=2_000)
  before = {path: path.read_bytes() for path in (tmp_path / 'a').iterdir()}
  bytes_per_read(200)
  read, left = safetensors_io.File.read, iter(range(20))

  def failing(*args):
    if next(left, None) is None:
      raise OSError(5, 'Input/output error')
    return read(*args)

  with monkeypatch.context() as patched:
    patched.setattr(safetensors_io.File, 'read', failing)
    with pytest.raises(OSError, match='Input/output'):
      huggingface.load_params(tmp_path / 'a', LLAMA, mesh=mesh)
  assert {path: path.read_bytes() for path in (tmp_path / 'a').iterdir()} == before
  assert_equal(huggingface.load_params(tmp_path / 'a', LLAMA, mesh=mesh), params)


def test_a_checkpoint_in_a_bucket_is_read_where_it_lies(mesh, monkeypatch, tmp_path):
  tokenizer = load_tokenizer(loading.MINIATURES['miniature'])
  config = dataclasses.replace(LLAMA, vocab_size=tokenizer.vocab_size)
  params, remote = random_params(config), storage.Path('memory://cut')
  huggingface.export(remote, config, params, tokenizer=tokenizer)
  def load():
    return loading.load_model(
        str(remote), {}, compute_dtype='float32', remat=False, mesh=mesh)
  cat, left = type(remote.fs).cat_ranges, iter(range(9))

  def cut(*args, **kwargs):
    if next(left, None) is None:
      raise OSError(104, 'Connection reset by peer')
    return cat(*args, **kwargs)

  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'nothing is written there'))
  with monkeypatch.context() as patched:
    patched.setattr(type(remote.fs), 'cat_ranges', cut)
    with pytest.raises(OSError, match='Connection reset'):
      load()
  loaded = load()
  assert_equal(loaded.params, params)
  assert {leaf.sharding.mesh for leaf in jax.tree.leaves(loaded.params)} == {mesh}

  weights = remote / 'model.safetensors'   # and one that the bucket has only in part
  (remote / 'r1jax_checksums.json').remove()    # as a model that r1jax has not written
  weights.write_bytes(weights.read_bytes()[:-10])
  with pytest.raises(ValueError, match='model.safetensors is truncated .*: download it again'):
    load()
  remote.remove()


def test_an_export_that_is_interrupted_leaves_no_file_that_looks_whole(monkeypatch, tmp_path):
  params, extract, left = random_params(LLAMA), streaming.extract, iter(range(8))

  def failing(*args):
    if next(left, None) is None:
      raise RuntimeError('device lost')
    return extract(*args)

  monkeypatch.setattr(streaming, 'extract', failing)
  with pytest.raises(RuntimeError, match='device lost'):
    huggingface.export(tmp_path / 'a', LLAMA, params, max_shard_bytes=3_000)
  names = sorted(path.name for path in (tmp_path / 'a').iterdir())
  assert names and 'config.json' not in names and not [n for n in names if 'partial' in n]
  for name in names:
    load_file(tmp_path / 'a' / name)


def test_an_index_that_names_a_tensor_its_file_lacks(tmp_path):
  huggingface.export(tmp_path / 'a', LLAMA, random_params(LLAMA), max_shard_bytes=2_000)
  index = tmp_path / 'a/model.safetensors.index.json'
  content = json.loads(index.read_text())
  files = sorted(set(content['weight_map'].values()))
  content['weight_map']['model.norm.weight'] = files[0]
  index.write_text(json.dumps(content))
  with pytest.raises(ValueError, match=(
      f'index.json places model.norm.weight in .*{files[0]}, which .* it: download both again')):
    huggingface.load_params(tmp_path / 'a', LLAMA)
  index.write_text(json.dumps({'weight_map': {'model.norm.weight': 3}}))
  with pytest.raises(ValueError, match='index.json has no weight_map: download it again'):
    huggingface.load_params(tmp_path / 'a', LLAMA)


def test_weights_of_another_family_are_named(tmp_path):
  huggingface.export(tmp_path / 'a', QWEN2, random_params(QWEN2))
  with pytest.raises(ValueError, match='do not match .*unexpected: .*k_proj.bias'):
    huggingface.load_params(
        tmp_path / 'a', dataclasses.replace(QWEN2, family='llama', qkv_bias=False))
