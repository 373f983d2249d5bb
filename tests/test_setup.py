"""Pitfall 22: the package installs and runs on CPU, GPU and TPU from the same files."""
import re
import subprocess
import sys
import tomllib

import runs

import r1jax

PROJECT = tomllib.loads((runs.ROOT / 'pyproject.toml').read_text())['project']


def test_pitfall_22_requirements_are_ranges_and_name_no_accelerator():
  assert PROJECT['requires-python'] == '>=3.11'
  base, extras = PROJECT['dependencies'], PROJECT['optional-dependencies']
  for requirement in (*base, *(one for extra in extras.values() for one in extra)):
    assert not re.search('==|~=', requirement), requirement
  jax, = (one for one in base if re.match(r'jax\b', one))
  # An accelerator is an extra of the same jax, and the only thing that differs.
  assert extras['gpu'] == [jax.replace('jax', 'jax[cuda13]', 1)]
  assert extras['tpu'] == [jax.replace('jax', 'jax[tpu]', 1)]
  assert not [one for one in base if re.search('cuda|nvidia|rocm|tpu|torch', one)]


def test_what_one_feature_needs_is_an_extra_and_all_and_test_have_them():
  base, extras = PROJECT['dependencies'], PROJECT['optional-dependencies']
  optional = ('gguf', 'plots', 'reasoning-gym', 'tensorboard')
  assert extras['all'] == [f'r1jax[{",".join(optional)}]'] and 'r1jax[all]' in extras['test']
  names = [re.match(r'[\w-]+', one)[0] for extra in optional for one in extras[extra]]
  assert names == ['gguf', 'matplotlib', 'reasoning-gym', 'tensorboardX']
  assert not {*names} & {re.match(r'[\w-]+', one)[0] for one in base}


def test_the_version_is_said_once_and_loads_nothing():
  assert PROJECT['dynamic'] == ['version'] and re.fullmatch(r'\d+\.\d+\.\d+', r1jax.__version__)
  assert r1jax.__version__ not in (runs.ROOT / 'setup.py').read_text()
  code = 'import sys, r1jax; r1jax.__version__; sys.exit("jax" in sys.modules)'
  subprocess.run([sys.executable, '-c', code], check=True, cwd=runs.ROOT)


LOWERED = '''
import sys

class Blocker:
  """An image for accelerators may lack these."""
  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] in sys.argv[1].split():
      raise ModuleNotFoundError(f'{name} is not installed', name=name)

sys.meta_path.insert(0, Blocker())
import jax
from r1jax import models
from r1jax.sampling import draw, sampler
from r1jax.training import optimizers, train_step
from r1jax.records import Batch, Prompts
from r1jax.stages import rl
from r1jax.stages.rl import programs as rl_programs

shape = models.ModelConfig(family='llama', vocab_size=300, width=16, num_layers=2, num_heads=2,
                           num_kv_heads=1, head_dim=8, mlp_width=16)
settings = rl.DEFAULT | dict(kl_coefficient=0.1)
like = jax.ShapeDtypeStruct

def ints(*shape):
  return like(shape, 'int32')

def floats(*shape):
  return like(shape, 'float32')

for dtype in ('float32', 'bfloat16'):
  model = models.build(shape, compute_dtype=dtype, remat=dtype == 'bfloat16')
  optimizer = optimizers.make_optimizer(learning_rate=1e-3)
  sample = sampler.Sampler(
      model, group_size=2, max_new_tokens=4, chunk=4, stop_ids=(0,), compute_dtype=dtype,
      sampling=draw.Sampling(temperature=0.6, top_k=5, top_p=0.9, min_p=0.1))
  update = train_step.make_update(
      rl_programs.make_loss(model, settings), optimizer, num_micro_batches=2)
  params = jax.eval_shape(model.init, jax.random.key(0))
  state = jax.eval_shape(lambda params: train_step.init_state(params, optimizer), params)
  batch = Batch(
      ints(2, 5), ints(2), ints(4, 4), floats(4, 4), behaviour_logprobs=floats(4, 4),
      advantages=floats(4), old_logprobs=floats(4, 4), reference_logprobs=floats(4, 4))
  prompts, layout = Prompts(ints(2, 5), ints(2), ints(2)), sample.layout(2)
  slots = jax.eval_shape(
      lambda *given: sample.programs.empty_slots(*given, layout=layout), params, prompts)
  programs = {
      'prefill': (sample.programs.prefill, (params, slots, prompts, ints(1, 2), ints(1, 2))),
      'decode': (lambda *given: sample.programs.decode_chunk(*given, num_rows=4),
                 (params, slots, ints(), ints())),
      'update': (update, (state, batch, rl_programs.Normalizers(*[floats()] * 3)))}
  for name, (program, arguments) in programs.items():
    traced = jax.jit(program).trace(*arguments)
    for platform in ('cpu', 'cuda', 'tpu'):
      traced.lower(lowering_platforms=(platform,))
      print(name, dtype, platform)
'''


def test_pitfall_22_the_device_programs_lower_for_every_platform_without_optional_packages():
  optional = ('tensorflow', 'tensorflow_datasets', 'array_record', 'grain', 'math_verify',
              'ml_collections', 'reasoning_gym', 'tensorboardX', 'torch', 'transformers', 'gguf',
              'matplotlib')
  done = subprocess.run([sys.executable, '-c', LOWERED, ' '.join(optional)], capture_output=True,
                        text=True, cwd=runs.ROOT, check=False)
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == [
      f'{name} {dtype} {platform}' for dtype in ('float32', 'bfloat16')
      for name in ('prefill', 'decode', 'update') for platform in ('cpu', 'cuda', 'tpu')]
