import os
import pathlib
import resource
import shutil
import subprocess
import sys
import uuid

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs

from r1jax import checkpoint, records
from r1jax.checkpoint import (
  Checkpointer,
  Manifest,
  read_manifest,
  write_manifest,
)
from r1jax.errors import UserError
from r1jax.runtime import checksums
from r1jax.runtime.storage import Path


@pytest.fixture(params=['local', 'memory'])
def directory(request, tmp_path):
  return str(tmp_path) if request.param == 'local' else f'memory://{uuid.uuid4().hex}'


def make_state():
  random = np.random.default_rng(0)
  params = {'layers': ({'w': jnp.asarray(random.normal(size=(6, 8)), jnp.float32)},),
            'embed': jnp.asarray([[1.5, jnp.nan], [-0.0, jnp.inf]], jnp.bfloat16)}
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
  return records.TrainState(params, optimizer.init(params), *map(jnp.int32, (4, 0, 0)))


def assert_bit_equal(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.dtype == b.dtype
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def child(script, *arguments, **environment):
  """Starts a Python process of its own on the CPU."""
  environment |= {'PYTHONPATH': str(pathlib.Path(checkpoint.__file__).parents[1]),
                  'JAX_PLATFORMS': 'cpu'}
  return subprocess.Popen([sys.executable, '-c', script, *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=os.environ | environment)


def test_pitfall_20_everything_comes_back_bit_for_bit(directory):
  items = {'state': make_state(), 'rng': {'key': jax.random.key(7), 'seen': np.arange(3) << 40},
           'nothing': optax.EmptyState(), 'bare': jax.random.key(1)}
  meta = {'iteration': 3, 'position': 2**40, 'place': [1, 4], 'kl_coefficient': 0.1, 'name': '中'}
  with Checkpointer(directory) as saver:
    saver.save(12, items, meta)
  reader = Checkpointer(directory)
  assert reader.latest_step() == 12 and reader.read_meta(12) == meta
  restored = reader.restore(12, items)
  assert_bit_equal(restored, items)
  assert isinstance(restored['state'].optimizer[1][0], optax.ScaleByAdamState)
  alone = reader.restore(12, {'rng': items['rng']})
  assert list(alone) == ['rng'] and isinstance(alone['rng']['seen'], np.ndarray)


RESHARDED = '''
import sys
import jax, jax.numpy as jnp
from r1jax.checkpoint import Checkpointer

def put(shape, *spec):
  mesh = jax.make_mesh(shape, ('a', 'b'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  return jax.device_put(jnp.arange(32.).reshape(4, 8), jax.NamedSharding(mesh, jax.P(*spec)))

saved, wanted = put((4, 1), 'a', None), put((2, 2), 'b', 'a')
with Checkpointer(sys.argv[1]) as saver:
  saver.save(1, {'params': {'w': saved}}, {})
  saver.wait()
  template = {'w': jax.ShapeDtypeStruct(saved.shape, saved.dtype, sharding=wanted.sharding)}
  restored = saver.restore(1, {'params': template})['params']['w']
assert restored.sharding == wanted.sharding and (restored == saved).all()
'''


def test_restores_onto_other_meshes_and_other_numbers_of_devices(tmp_path):
  flags = {'XLA_FLAGS': '--xla_force_host_platform_device_count=4', 'PJRT_NPROC': '32'}
  process = child(RESHARDED, tmp_path, **flags)
  complaint = process.communicate()[1].decode()
  assert process.returncode == 0, complaint
  template = {'w': jax.ShapeDtypeStruct((4, 8), jnp.float32)}
  restored = Checkpointer(tmp_path).restore(1, {'params': template})
  assert_bit_equal(restored['params'], {'w': jnp.arange(32.).reshape(4, 8)})


def test_save_is_a_copy_of_donated_and_changed_arrays(tmp_path):
  update = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
  state, host = {'w': jnp.arange(1 << 16, dtype=jnp.float32)}, {'n': np.arange(1 << 16)}
  want = jax.tree.map(np.array, (state, host))
  with Checkpointer(tmp_path) as saver:
    saver.save(1, {'state': state, 'host': host}, {})
    for _ in range(4):
      state = update(state)
    host['n'][:] = -1
    saver.wait()
    restored = saver.restore(1, {'state': state, 'host': host})
  assert_bit_equal((restored['state'], restored['host']), want)


def test_the_latest_are_kept_and_none_is_overwritten(directory):
  tree = {'x': jnp.ones(2)}
  with Checkpointer(directory, keep=2) as saver:
    assert saver.latest_step() is None
    for step in (1, 9, 10):
      saver.save(step, {'a': tree}, {})
    saver.wait()
    assert saver.steps() == [9, 10]
    assert [path.name for path in Path(directory).iterdir()] == ['10', '9']
    with pytest.raises(ValueError, match='already has a checkpoint of step 10'):
      saver.save(10, {'a': tree}, {})
  with pytest.raises(ValueError, match='keep=0'):
    Checkpointer(directory, keep=0)


def test_missing_checkpoint_and_item_are_named(directory):
  with pytest.raises(FileNotFoundError, match='no checkpoint of step 3.*none'):
    Checkpointer(directory).read_meta(3)
  with Checkpointer(directory) as saver:
    saver.save(2, {'params': {'w': jnp.ones(3)}}, {})
    saver.wait()
    with pytest.raises(FileNotFoundError, match=r'step 3.*\(2\)'):
      saver.restore(3, {})
    with pytest.raises(ValueError, match="no item 'optimizer', only params"):
      saver.restore(2, {'optimizer': {}})
    with pytest.raises(TypeError, match="leaf 'step' is 3 .int."):
      saver.save(3, {'state': {'step': 3}}, {})


@pytest.mark.parametrize('template, complaint', [
    ({'w': jnp.ones((2, 3)), 'b': (jnp.ones(4),)}, r"'b/0' is float32\[3\] .* float32\[4\]"),
    ({'w': jnp.ones((2, 3), jnp.bfloat16), 'b': (jnp.ones(3),)}, r"'w' is float32.* bfloat16\["),
    ({'w': jnp.ones((2, 3)), 'b': ()}, "'b/0' is .* missing in the template"),
    ({'w': jnp.ones((2, 3)), 'b': (jnp.ones(3),) * 2}, "'b/1' is missing in the checkpoint"),
])
def test_a_template_that_does_not_fit_is_refused_by_leaf(tmp_path, template, complaint):
  with Checkpointer(tmp_path) as saver:
    saver.save(2, {'params': {'w': jnp.ones((2, 3)), 'b': (jnp.ones(3),)}}, {})
    saver.wait()
    with pytest.raises(ValueError, match=complaint):
      saver.restore(2, {'params': template})


@pytest.mark.parametrize('damage', [
    pathlib.Path.unlink, lambda path: os.truncate(path, path.stat().st_size // 2)])
def test_a_damaged_checkpoint_is_refused_with_advice(tmp_path, damage):
  items = {'params': make_state().params, 'other': {'x': jnp.ones(3)}}
  with Checkpointer(tmp_path) as saver:
    saver.save(1, items, {})
    saver.save(2, items, {})
    saver.wait()
    files = [path for path in (tmp_path / '2' / 'params').rglob('*') if path.is_file()]
    torn = max(files, key=lambda path: path.stat().st_size)
    damage(torn)
    with pytest.raises(ValueError, match='2 is damaged .*remove that folder .* step 1') as error:
      saver.restore(2, items)
    assert torn.name in str(error.value) and '\n' not in str(error.value)
    assert_bit_equal(saver.restore(2, {'other': items['other']})['other'], items['other'])
    assert_bit_equal(saver.restore(1, items), items)
    (tmp_path / '2' / 'checkpoint.json').write_text('{"meta"')
    with pytest.raises(ValueError, match='checkpoint.json is not as it was written'):
      saver.read_meta(2)


@pytest.fixture(scope='module')
def two_checkpoints(tmp_path_factory):
  """A folder with steps 4 and 8, which have another reference each, and a function to restore."""
  folder = tmp_path_factory.mktemp('checkpoints')
  items, reference = {'params': {'w': jnp.arange(6.)}}, {'w': jnp.ones(3)}
  with Checkpointer(folder) as saver:
    for step in (4, 8):
      saver.save(step, items, {'iteration': step}, {'reference': (step, reference)})
  return folder, items | {'reference': reference}


def files_in(folder):
  return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


def restore_as_a_run(folder, items):
  reader = Checkpointer(folder)
  reader.read_meta(reader.latest_step())
  return reader.restore(reader.latest_step(), items)


def test_a_flipped_bit_in_any_file_is_refused_by_name_and_the_one_before_offered(
    two_checkpoints, tmp_path):
  whole, items = two_checkpoints
  names = [name for name in files_in(whole) if name.split('/')[0] in ('8', 'reference-8')]
  assert len(names) > 10 and '8/checkpoint.json' in names
  random = np.random.default_rng(0)
  for name in names:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    runs.flip(tmp_path / name, random.integers(1 << 30), random.integers(8))
    folder, file = name.split('/', 1)
    with pytest.raises(UserError) as refused:
      restore_as_a_run(tmp_path, items)
    said = str(refused.value)
    assert f'{tmp_path}/{folder} is damaged ({file} ' in said and '\n' not in said
    assert said.endswith('to resume from step 4'), said
  # What the sentence says helps.
  assert 'remove the folders reference-8 and 8 in ' in said
  for folder in ('8', 'reference-8'):
    shutil.rmtree(tmp_path / folder)
  assert_bit_equal(restore_as_a_run(tmp_path, items), items)


def test_every_bit_of_a_sealed_file_counts(two_checkpoints, tmp_path):
  content = (two_checkpoints[0] / '8' / 'checkpoint.json').read_bytes()
  for position in range(len(content)):
    changed = bytearray(content)
    changed[position] ^= 1 << position % 8
    with pytest.raises(ValueError, match='is not as it was written'):
      checksums.unseal(bytes(changed))
  assert checksums.unseal(content)['meta'] == {'iteration': 8}


def test_a_missing_or_longer_file_is_named(two_checkpoints, tmp_path):
  whole, items = two_checkpoints
  for change, complaint in (
      (pathlib.Path.unlink, ' is missing'),
      (lambda path: path.write_bytes(path.read_bytes() + b'x'), 'has [0-9]+ of its [0-9]+ bytes')):
    for name in ('8/params/_METADATA', 'reference-8/reference/manifest.ocdbt'):
      shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
      change(tmp_path / name)
      with pytest.raises(UserError, match=f'{name.split("/", 1)[1]} ?{complaint}.*from step 4'):
        restore_as_a_run(tmp_path, items)
  shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
  (tmp_path / 'reference-8' / 'checkpoint.json').unlink()
  with pytest.raises(UserError, match='checkpoint.json is missing.*from step 4'):
    restore_as_a_run(tmp_path, items)


def test_checkpoints_of_a_version_without_checksums_are_refused(tmp_path):
  (tmp_path / '3').mkdir()
  (tmp_path / '3' / 'checkpoint.json').write_text('{"meta": {}, "items": {}, "files": {}}')
  with pytest.raises(UserError, match='checkpoint.json is not as .* folder to start over'):
    Checkpointer(tmp_path).read_meta(3)


# What is written once.


def test_a_constant_is_written_once_and_stays_as_long_as_it_is_needed(directory):
  tree = {'x': jnp.ones(2)}

  def folders():
    return {path.name: (path / 'checkpoint.json').read_text()
            for path in Path(directory).iterdir()}
  with Checkpointer(directory, keep=2) as saver:
    saver.save(1, {'a': tree}, {}, {'reference': (0, {'x': jnp.zeros(2)})})
    saver.wait()
    written = folders()['reference-0']
    saver.save(2, {'a': tree}, {}, {'reference': (0, {'x': jnp.zeros(2)})})
    saver.wait()
    assert folders().keys() == {'1', '2', 'reference-0'}
    saver.save(3, {'a': tree}, {}, {'reference': (3, {'x': jnp.full(2, 3.)})})
    saver.wait()
    assert folders().keys() == {'2', '3', 'reference-0', 'reference-3'}
    assert folders()['reference-0'] == written
    for step, value in ((2, 0.), (3, 3.)):
      found = saver.restore(step, {'reference': tree, 'a': tree})
      assert_bit_equal(found, {'reference': {'x': jnp.full(2, value)}, 'a': tree})
    saver.save(4, {'a': tree}, {}, {'reference': (3, {'x': jnp.full(2, 3.)})})
    saver.wait()
    assert folders().keys() == {'3', '4', 'reference-3'}


def test_a_constant_of_a_run_that_died_before_its_checkpoint_is_written_again(tmp_path):
  tree = {'x': jnp.zeros(2)}
  with Checkpointer(tmp_path) as saver:
    saver.save(1, {'a': tree}, {}, {'reference': (0, tree)})
    saver.save(2, {'a': tree}, {}, {'reference': (2, tree)})
  shutil.rmtree(tmp_path / '2')    # as if killed between the two
  (tmp_path / 'reference-5.orbax-checkpoint-tmp').mkdir()
  new = {'x': jnp.ones(2)}
  with Checkpointer(tmp_path) as saver:
    saver.save(2, {'a': tree}, {}, {'reference': (2, new)})
    saver.wait()
    assert_bit_equal(saver.restore(2, {'reference': tree}), {'reference': new})
  assert {path.name for path in tmp_path.iterdir()} == {'1', '2', 'reference-0', 'reference-2'}


def test_a_full_disk_leaves_the_step_before_and_speaks_at_the_next_call(tmp_path):
  """The limit on a file's size makes the real writer fail as a full disk does."""
  big = {'w': jax.random.normal(jax.random.key(0), (1 << 16,))}
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  with Checkpointer(tmp_path) as saver:
    saver.save(1, {'params': big}, {})
    saver.wait()
    try:
      resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, hard))
      with pytest.raises(OSError, match='step 2 could not be written.*intact') as caught:
        saver.save(2, {'params': big}, {})
        saver.save(3, {'params': big}, {})
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert '\n' not in str(caught.value) and '(File too large)' in str(caught.value)
    assert saver.steps() == [1] and os.listdir(tmp_path) == ['1']
    assert_bit_equal(saver.restore(1, {'params': big})['params'], big)
    saver.save(3, {'params': big}, {})
    saver.wait()
    assert saver.steps() == [1, 3]


def test_what_cannot_be_cleaned_up_after_a_full_disk_hides_nothing(tmp_path, monkeypatch):
  """Orbax may still be writing into the folder that is to be removed."""
  def full(path, content):
    raise OSError(28, 'No space left on device', str(path))

  def busy(path):
    raise OSError(39, 'Directory not empty', str(path))
  saver = Checkpointer(tmp_path)
  monkeypatch.setattr(Path, 'write_bytes', full)
  saver.save(1, {'params': {'w': jnp.ones(3)}}, {})
  monkeypatch.setattr(Path, 'remove', busy)
  with pytest.raises(OSError, match='step 1 could not be written .*No space left on device'):
    saver.close()


def test_a_full_disk_at_the_last_file_is_no_checkpoint(directory, monkeypatch):
  def full(path, content):
    raise OSError(28, 'No space left on device', str(path))

  tree = {'w': jnp.ones(3)}
  saver = Checkpointer(directory)
  saver.save(1, {'params': tree}, {})
  saver.wait()
  monkeypatch.setattr(Path, 'write_bytes', full)
  saver.save(2, {'params': tree}, {})
  with pytest.raises(OSError, match='No space left on device'):
    saver.close()
  assert Checkpointer(directory).steps() == [1]
  assert_bit_equal(saver.restore(1, {'params': tree})['params'], tree)


KILLED = '''
import os, sys, threading
import jax.numpy as jnp
from r1jax.checkpoint import Checkpointer
from r1jax.runtime.storage import Path

directory, moment = sys.argv[1:]
tree = lambda step: {'w': jnp.full(1000, step)}
saver = Checkpointer(directory)
saver.save(1, {'params': tree(1)}, {})
saver.wait()

def stop(*_, **__):
  print('saving', flush=True)
  threading.Event().wait()

if moment == 'orbax':
  os.rename = os.replace = stop  # Orbax's commit: its files are written, under another name
else:
  Path.write_bytes = stop        # ours
saver.save(2, {'params': tree(2)}, {})
saver.wait()
'''


def test_kill_9_in_a_save_leaves_the_step_before(tmp_path):
  moments = ('orbax', 'marker')
  processes = [child(KILLED, tmp_path / moment, moment) for moment in moments]
  for moment, process in zip(moments, processes):
    assert process.stdout.readline() == b'saving\n'
    process.kill()
    process.communicate()
    left = [path.name for path in (tmp_path / moment).iterdir()]
    assert len(left) == 2, left  # there is a torn save beside step 1
    tree = {'w': jnp.full(1000, 1)}
    with Checkpointer(tmp_path / moment) as saver:
      assert saver.latest_step() == 1
      assert_bit_equal(saver.restore(1, {'params': tree})['params'], tree)
      saver.save(2, {'params': tree}, {})
      saver.wait()
      assert sorted(path.name for path in (tmp_path / moment).iterdir()) == ['1', '2']


def test_reading_changes_nothing(tmp_path):
  (tmp_path / '7.orbax-checkpoint-tmp').mkdir()  # another process is writing
  reader = Checkpointer(tmp_path)
  assert reader.latest_step() is None
  reader.close()
  assert os.listdir(tmp_path) == ['7.orbax-checkpoint-tmp']


def test_manifest_round_trip_and_complaints(directory):
  manifest = Manifest('rl', 'zero', '0' * 16, parents={'base': '1' * 16}, model={'width': 8},
                      tokenizer='miniature', template='r1_zero', files={'params.bin': (1, 7)},
                      scores={'pass@1': 0.5})
  with pytest.raises(FileNotFoundError, match='params.bin is missing'):
    write_manifest(directory, manifest)
  with pytest.raises(FileNotFoundError, match='is not an Artifact'):
    read_manifest(directory)
  (Path(directory) / 'params.bin').write_bytes(b'1')
  write_manifest(directory, manifest)
  assert read_manifest(directory) == manifest
  for text in ('{"kind": "rl"}', '[]', 'x', '{"files": [], "parents": [], "colour": 1}'):
    (Path(directory) / 'manifest.json').write_text(text)
    with pytest.raises(ValueError, match='manifest.json is not the manifest'):
      read_manifest(directory)


def test_the_arrays_are_on_the_disk_before_the_file_that_makes_them_a_checkpoint(
    tmp_path, monkeypatch):
  synced, at_rename, fsync, replace = set(), {}, os.fsync, os.replace

  def record(opened):
    fsync(opened)
    synced.add(os.readlink(f'/proc/self/fd/{opened}'))

  def look(source, target):
    at_rename[os.path.basename(target)] = set(synced)
    replace(source, target)
  monkeypatch.setattr(os, 'fsync', record)
  monkeypatch.setattr(os, 'replace', look)
  with Checkpointer(tmp_path) as saver:
    saver.save(3, {'x': {'w': jnp.arange(4.)}}, {})
  files = {str(path) for path in (tmp_path / '3').rglob('*') if path.name != 'checkpoint.json'}
  assert files <= at_rename['checkpoint.json'] and str(tmp_path) in synced
