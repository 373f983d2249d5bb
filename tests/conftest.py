"""What the tests share: eight virtual devices, strict ranks, a tiny model, its prompts."""
import os
import tempfile

# Read when jax starts. Without PJRT_NPROC, collectives of many devices deadlock on few cores.
_FLAGS = ['--xla_force_host_platform_device_count=8']
# Tests compile more than they run, so machine code is not optimised, and the emitters of fusions,
# which take half of the time of compiling, are left out (jax 0.12 ignores that). test_optimized.py
# runs some of the tests with this variable, as users compile programs.
if 'R1JAX_TEST_OPTIMIZED' not in os.environ:
  _FLAGS += ['--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters',
             '--xla_cpu_parallel_codegen_split_count=1']
  os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
# Flags of the environment come last, and win.
os.environ['XLA_FLAGS'] = ' '.join((*_FLAGS, os.environ.get('XLA_FLAGS', '')))
os.environ['PJRT_NPROC'] = '32'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# What one process has compiled, the others of these tests read: workers and those that tests start.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _programs = tempfile.TemporaryDirectory(prefix='r1jax_programs_', ignore_cleanup_errors=True)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _programs.name
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'

import collections
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models import Model, ModelConfig, build
from r1jax.records import Prompts


def pytest_configure(config):
  config.addinivalue_line('markers', 'slow: takes more than a few seconds')
  config.addinivalue_line('markers', 'optimized: runs programs with the optimisations of users')
  if config.pluginmanager.has_plugin('xdist'):
    config.option.loadscopereorder = False    # files in order, not those of many tests first


def pytest_collection_modifyitems(items):
  """Files with slow tests come first, so that no worker is left alone with one at the end."""
  slow = {item.path for item in items if item.get_closest_marker('slow')}
  items.sort(key=lambda item: item.path not in slow)


def pytest_terminal_summary(terminalreporter):
  """Says in one line what was skipped, and why."""
  reasons = collections.Counter(
      str(report.longrepr[2]).removeprefix('Skipped: ')
      for report in terminalreporter.stats.get('skipped', ()) if isinstance(report.longrepr, tuple))
  if reasons:
    terminalreporter.write_line('Skipped: ' + '; '.join(
        f'{count} ({" ".join(reason.split())})' for reason, count in sorted(reasons.items())))


@pytest.fixture
def strict_ranks():
  """Arrays of different ranks no longer broadcast."""
  with jax.numpy_rank_promotion('raise'):
    yield


class Tiny(NamedTuple):
  model: Model
  params: dict


def _random_params(model, seed=0):
  """Parameters large enough that the distributions over tokens are far from uniform."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    centre, deviation = (1, 0.1) if path[-1].key == 'scale' else (0, 0.3)
    return jnp.asarray(rng.normal(centre, deviation, leaf.shape), jnp.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope='session')
def random_params():
  return _random_params


@pytest.fixture(scope='session')
def tiny_config():
  return ModelConfig(family='qwen3', vocab_size=40, width=16, num_layers=2, num_heads=4,
                     num_kv_heads=2, head_dim=8, mlp_width=24, qk_norm=True)


@pytest.fixture(scope='session')
def tiny(tiny_config):
  model = build(tiny_config)
  return Tiny(model, _random_params(model))


@pytest.fixture(scope='session')
def prompts():
  """Four prompts of different lengths, the padding filled with real token ids."""
  tokens = np.random.default_rng(1).integers(0, 40, (4, 6))
  return Prompts(jnp.asarray(tokens, jnp.int32), jnp.array([6, 1, 4, 5]), jnp.array([7, 3, 11, 0]))


@pytest.fixture(scope='session')
def teacher_forced(tiny):
  """f(params, prompts, tokens [N, C], temperature) -> (log-probabilities, entropies) [N, C].

  The naive way: each row is its prompt and its completion, with nothing shared, cached or chunked.
  """
  @jax.jit
  def score(params, rows, places, tokens, temperature):
    positions = jnp.broadcast_to(jnp.arange(rows.shape[1]), rows.shape)
    hidden, _, _ = tiny.model.apply(
        params, rows, positions=positions, segment_ids=jnp.ones_like(rows))
    log_p = jax.nn.log_softmax(tiny.model.unembed(params, hidden) / temperature)
    log_p = jnp.take_along_axis(log_p, places[..., None] - 1, 1)     # of the position before
    return (jnp.take_along_axis(log_p, tokens[..., None], -1)[..., 0],
            -jnp.sum(jnp.exp(log_p) * log_p, -1))

  def teacher_forced(params, prompts, tokens, temperature):
    group_size = len(tokens) // len(prompts.tokens)
    starts = np.repeat(np.asarray(prompts.lengths), group_size)
    places = starts[:, None] + np.arange(tokens.shape[1])
    rows = np.pad(np.repeat(np.asarray(prompts.tokens), group_size, 0),
                  ((0, 0), (0, tokens.shape[1])))
    np.put_along_axis(rows, places, np.asarray(tokens), 1)
    return score(params, rows, places, tokens, temperature)
  return teacher_forced
