"""Tiny runs for the tests of stages, pipeline and resuming, and what is compared of them."""
import copy
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from r1jax import metrics, models
from r1jax.checkpoint import Checkpointer
from r1jax.models import ModelConfig, huggingface
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.stages import evaluate, loading, rl, sft
from r1jax.stages.stage import StopRequested
from r1jax.tokenization import load_tokenizer

ROOT = pathlib.Path(__file__).parents[1]
SHAPE = ModelConfig(family='qwen3', vocab_size=512, width=16, num_layers=1, num_heads=2,
                    num_kv_heads=1, head_dim=8, mlp_width=32, qk_norm=True, max_length=256)
DATA = dict(name='miniature', size=64, seed=0, min_steps=2, max_steps=4)
# What is measured of time is no part of a run's result.
TIMED = ('timing_s/', 'device_idle', 'tokens_per_second', 'model_flops_utilisation')


@pytest.fixture(scope='session')
def compiled():
  """The folder of the programs that conftest.py lets processes share."""
  return os.environ['JAX_COMPILATION_CACHE_DIR']


@pytest.fixture
def compilations():
  """The names of the programs that are compiled from now on."""
  names = []

  def listener(event, seconds, **keywords):
    if event == '/jax/core/compile/backend_compile_duration':
      names.append(keywords.get('fun_name'))
  jax.monitoring.register_event_duration_secs_listener(listener)
  yield names
  jax.monitoring.unregister_event_duration_listener(listener)


@pytest.fixture(scope='module', autouse=True)
def no_curves():
  """Where this is imported, no curves are drawn: that takes a third of a tiny run."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(metrics, 'plot_curves', lambda records, path: None)
    yield


def export_base(folder, shape=SHAPE):
  """Leaves a model with random weights and the miniature's tokenizer."""
  params = models.build(shape).init(jax.random.key(0))
  # Ten times the usual spread, so that no two tokens are equally likely.
  params = jax.tree.map(lambda x: 10 * x if x.ndim > 1 else x, params)
  tokenizer = load_tokenizer(loading.MINIATURES['miniature'])
  huggingface.export(folder, shape, params, tokenizer=tokenizer)
  return str(folder)


@pytest.fixture(scope='module')
def base(tmp_path_factory, compiled):
  """The folder of a model of SHAPE."""
  return export_base(tmp_path_factory.mktemp('base'))


@pytest.fixture
def one_device(monkeypatch):
  """Lets a config's mesh of one device fit, though the tests run with eight."""
  make_mesh = sharding.make_mesh

  def make_small_mesh(fsdp=1, tensor=1, devices=None, **more):
    return make_mesh(fsdp, tensor, devices or jax.devices()[:fsdp * tensor], **more)
  monkeypatch.setattr(sharding, 'make_mesh', make_small_mesh)


def merged(default, fields):
  """A copy of nested dicts with some fields replaced."""
  result = copy.deepcopy(dict(default))
  for name, value in fields.items():
    nested = isinstance(value, dict) and isinstance(result.get(name), dict) and result[name]
    result[name] = merged(result[name], value) if nested else value
  return result


def rl_config(base, **fields):
  """Two rollouts of 2 × 2 completions, an update each, of a random model; with overrides."""
  return merged(rl.DEFAULT, merged(dict(
      steps=2, model=dict(source=base), data=DATA, max_prompt_length=32,
      prompts_per_batch=2, group_size=2, sampling=dict(max_new_tokens=8, chunk=8),
      rewards={'exact_match': 1.0, 'format': 0.5}, optimizer=dict(learning_rate=1e-2),
      checkpoint_every=1), fields))


def evaluation_config(**fields):
  return merged(evaluate.DEFAULT, merged(dict(
      data=DATA, max_prompt_length=32, problems=2, prompts_per_batch=2, completions_per_problem=2,
      sampling=dict(max_new_tokens=8, chunk=8), correctness_reward='exact_match'), fields))


def sft_config(base, **fields):
  return merged(sft.DEFAULT, merged(dict(
      model=dict(source=base), inputs=('draw',), sample_stages=('draw',),
      row_length=64, rows=2, epochs=2, optimizer=dict(learning_rate=1e-2),
      checkpoint_every=100, log_every=1), fields))


def by_bytes(completion, example):
  """A reward that tells the completions of any model apart."""
  return sum(completion.text.encode()) % 11 / 10


class NotingSampler:
  """A sampler of which a test takes note.

  Args:
    sampler: the one that does the work.
    begun: called with (params, prompts, iteration).
    drawn: called with (the rollout, iteration); what it returns is used in its place.
  """

  def __init__(self, sampler, begun=lambda *_: None, drawn=lambda rollout, _: rollout):
    self._sampler, self._begun, self._drawn = sampler, begun, drawn

  def __getattr__(self, name):
    return getattr(self._sampler, name)

  def begin(self, params, prompts, iteration):
    self._begun(params, prompts, iteration)
    drawing = self._sampler.begin(params, prompts, iteration)
    finish = drawing.finish

    def noting_finish(*arguments):
      return self._drawn(finish(*arguments), iteration)
    drawing.finish = noting_finish
    return drawing


def run_resumable(base, workdir, should_stop=lambda: False):
  """A run with all that resuming must restore; its questions whether to stop can be counted.

  Three iterations of four updates (two epochs of two mini-batches), two chunks a rollout: six
  questions an iteration. Checkpoints after the second and the third, where the reference is
  refreshed too; then two evaluations of two chunks.
  """
  in_chunks = dict(sampling=dict(max_new_tokens=8, chunk=4))
  config = rl_config(
      base, steps=12, epochs=2, mini_batches=2, kl_coefficient=0.1, reference_refresh=5,
      checkpoint_every=2, **in_chunks, evaluations={
          'base': evaluation_config(model=dict(source=base), **in_chunks),
          'trained': evaluation_config(**in_chunks)})
  return rl.run(config, {}, workdir, stage='zero', should_stop=should_stop,
                reward_functions={'bytes': (by_bytes, 1.0)})


def stop_at(count):
  """A `should_stop` that says True from its `count`-th call on."""
  calls = iter(range(1, 1 << 30))
  return lambda: next(calls) >= count


def finish(run, stops):
  """Calls `run(should_stop)` until it returns; `stops` are the calls at which it is stopped."""
  sentences = []
  for count in stops:
    with pytest.raises(StopRequested) as stopped:
      run(stop_at(count))
    sentences.append(str(stopped.value))
  return run(lambda: False), sentences


def result_of(workdir):
  """All that a stage's run leaves, but for times: files by name, arrays as bytes."""
  workdir, result = Path(workdir), {}
  for name in workdir.file_sizes():
    part = name.split('/')[0]
    if part in ('evaluations', 'model', 'samples') or name in (
        'manifest.json', 'results.json', 'results.md', 'pass_rates.jsonl'):
      result[name] = (workdir / name).read_bytes()
  result['metrics'] = [
      {key: repr(value) for key, value in record.items() if not key.startswith(TIMED)}
      for record in metrics.read_metrics(workdir)]
  result['rollouts'] = list(metrics.read_jsonl(workdir / 'rollouts'))
  result['checkpoint'] = last_checkpoint(workdir)
  return result


def last_checkpoint(workdir):
  """(step, meta, bytes of every array by item and path) of the last checkpoint, or None."""
  checkpoints = Checkpointer(Path(workdir) / 'checkpoints')
  step = checkpoints.latest_step()
  if step is None:
    return None
  arrays = {}
  with tempfile.TemporaryDirectory() as folder:
    if checkpoints.directory.is_local:
      folder = checkpoints.directory
    else:
      checkpoints.directory.copy_to(Path(folder))
    marker = json.loads((Path(folder) / step / 'checkpoint.json').read_text())
    for item in (*marker['items'], *marker['constants']):
      with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:    # on any devices
        path = f'{folder}/{marker["constants"].get(item, step)}/{item}'
        tree = reader.restore(path, ocp.args.PyTreeRestore(restore_args=jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
            reader.metadata(path).item_metadata.tree)))
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        arrays[item + jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
  return step, checkpoints.read_meta(step), arrays


def flip(path, position, bit):
  """Changes one bit of a file."""
  content = bytearray(path.read_bytes())
  content[position % len(content)] ^= 1 << bit
  path.write_bytes(content)


def assert_same(run, other):
  """Two runs left the same, bit for bit."""
  run, other = result_of(run), result_of(other)
  assert run.keys() == other.keys()
  for name in run:
    assert run[name] == other[name], name


def free_port():
  """A port of this machine that nobody listens on."""
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    return found.getsockname()[1]


def start(*arguments, compiled, **environment):
  """Starts `python *arguments` beside this process, with the same devices."""
  environment |= {
      'PYTHONPATH': str(ROOT), 'PYTHONUNBUFFERED': '1', 'JAX_COMPILATION_CACHE_DIR': compiled}
  return subprocess.Popen(
      [sys.executable, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      text=True, cwd=ROOT, env=os.environ | environment)
