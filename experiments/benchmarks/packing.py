"""Times updates on packed rows, on padded rows, and on rows that are exactly full.

    python -m r1jax.experiments.benchmarks.packing
    python -m r1jax.experiments.benchmarks.packing --difference

Lengths are like a rollout's: prompts of 100 to 300 tokens, lognormal completions of up to 2,048,
groups of eight. SFT has 512 documents of a prompt and a completion; an update takes six of their
rows. The model is small, rows have 4,096 tokens. The three forms are timed in turn; prints one JSON
line for each, with the median. A prompt's token counts as a real token once, however often it is
copied. With --difference nothing is timed; the line says how much loss and gradient of the packed
RL update differ from the padded one's.
"""
import argparse
import json
import statistics
import time

ROW_LENGTH, LONGEST_PROMPT, LONGEST = 4096, 300, 2048


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--difference', action='store_true')
  parser.add_argument('--groups', type=int, default=8)
  parser.add_argument('--group-size', type=int, default=8)
  parser.add_argument('--documents', type=int, default=512, help='of SFT')
  parser.add_argument('--width', type=int, default=128)
  parser.add_argument('--layers', type=int, default=2)
  parser.add_argument('--repeats', type=int, default=3)
  arguments = parser.parse_args()

  import numpy as np

  from r1jax import models
  rng = np.random.default_rng(0)

  def drawn(groups, size):
    return (rng.integers(100, LONGEST_PROMPT + 1, groups),
            np.clip(rng.lognormal(6, 0.8, groups * size), 1, LONGEST).astype(int))

  def full(rows, size):
    """Groups that fill a whole row each."""
    prompts = rng.integers(100, LONGEST_PROMPT + 1, rows)
    cuts = [np.sort(rng.choice(np.arange(1, ROW_LENGTH - p), size - 1, replace=False))
            for p in prompts]
    return prompts, np.concatenate([
        np.diff([0, *cut, ROW_LENGTH - p]) for p, cut in zip(prompts, cuts)])

  model = models.build(models.ModelConfig(
      family='qwen3', vocab_size=2048, width=arguments.width, num_layers=arguments.layers,
      num_heads=arguments.width // 64, num_kv_heads=1, head_dim=64, mlp_width=3 * arguments.width,
      qk_norm=True))
  lengths, exact = drawn(arguments.groups, arguments.group_size), full(10, arguments.group_size)
  if arguments.difference:
    return report_difference(model, *lengths)
  report('rl', arguments.repeats, {
      'packed': rl_update(model, lengths, ROW_LENGTH),
      'padded': rl_update(model, lengths, 0),
      'full': rl_update(model, exact, ROW_LENGTH)})
  prompts, completions = drawn(arguments.documents, 1)
  whole = documents(prompts + completions, ROW_LENGTH)
  print(json.dumps(dict(stage='sft', documents=len(prompts), rows=len(whole[1]),
                        fill=round(np.mean(whole[1] != 0), 3))), flush=True)
  chosen = rng.permutation(len(whole[1]))[:6]
  packed = [rows[chosen] for rows in whole]
  inside = [size for row in packed[1] for size in np.bincount(row)[1:]]
  report('sft', arguments.repeats, {
      'packed': sft_update(model, packed),
      'padded': sft_update(model, padded(inside)),
      'full': sft_update(model, documents([ROW_LENGTH] * 6, ROW_LENGTH))})


def rl_batch(model, prompts, completions, row_length):
  """(settings, mesh, batch, its normalizers)."""
  import jax
  import numpy as np

  from r1jax.records import Batch
  from r1jax.runtime import sharding
  from r1jax.stages import rl
  from r1jax.stages.rl import programs as rl_programs

  longest = max(LONGEST, int(completions.max()))
  settings = rl.DEFAULT | dict(
      packing=dict(row_length=row_length, rows=1), group_size=len(completions) // len(prompts),
      micro_batches=1 if row_length else len(prompts),
      sampling=rl.DEFAULT['sampling'] | dict(max_new_tokens=longest))
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  rng = np.random.default_rng(1)
  mask = np.float32(np.arange(longest) < completions[:, None])
  batch = sharding.place(Batch(
      rng.integers(0, 2048, (len(prompts), LONGEST_PROMPT)).astype(np.int32),
      prompts.astype(np.int32), rng.integers(0, 2048, mask.shape).astype(np.int32), mask,
      np.full(mask.shape, -7.0, np.float32), rng.normal(size=len(mask)).astype(np.float32)), mesh)
  normalizers = rl_programs.batch_normalizers(
      batch.completion_mask, 0.0, aggregation='sequence_mean', max_length=longest)
  return settings, mesh, batch, normalizers


def report_difference(model, prompts, completions):
  import jax
  import jax.numpy as jnp
  import optax

  from r1jax.stages.rl import programs as rl_programs
  from r1jax.training import train_step

  keep = optax.GradientTransformation(lambda params: params, lambda gradient, state, params: (
      jax.tree.map(jnp.zeros_like, gradient), gradient))
  params, found = model.init(jax.random.key(0)), []
  for row_length in (ROW_LENGTH, 0):
    settings, mesh, batch, normalizers = rl_batch(model, prompts, completions, row_length)
    update = jax.jit(train_step.make_update(
        rl_programs.make_loss(model, settings), keep, num_micro_batches=settings['micro_batches'],
        split=rl_programs.split if row_length else None))
    given = rl_programs.pack(batch, settings, mesh) if row_length else batch
    state, measured = update(train_step.init_state(params, keep), given, normalizers)
    found.append((measured, jax.tree.leaves(state.optimizer)))
  (measured, packed), (want, wanted) = found
  largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in wanted)
  print(json.dumps(dict(
      loss=float(want['loss']), loss_difference=abs(float(measured['loss'] - want['loss'])),
      largest_gradient=largest, gradient_difference=max(
          float(jnp.max(jnp.abs(a - b))) for a, b in zip(packed, wanted)))))


def rl_update(model, lengths, row_length):
  """(an update to call, real tokens, places in the rows, places without padding)."""
  import jax

  from r1jax.stages.rl import programs as rl_programs
  from r1jax.training import optimizers, train_step

  prompts, completions = lengths
  settings, mesh, batch, normalizers = rl_batch(model, prompts, completions, row_length)
  optimizer = optimizers.make_optimizer(learning_rate=1e-6)
  programs = rl_programs.make_programs(model, optimizer, optimizer, settings, (0,), lambda: False)
  real = int(prompts.sum() + completions.sum())
  places, used = len(prompts) * LONGEST_PROMPT + batch.completion_mask.size, real
  if row_length:
    segments = rl_programs.pack(batch, settings, mesh).packing
    places = int(segments.num_micro_batches) * row_length
    used = int((segments.segment_ids != 0).sum())
  state = train_step.init_state(model.init(jax.random.key(0)), optimizer)

  def update():
    nonlocal state
    given = rl_programs.pack(batch, settings, mesh) if row_length else batch
    state, measured = programs.update(state, given, normalizers)
    return measured
  return update, real, places, used


def documents(lengths, row_length):
  """[tokens, segment_ids, positions, weights] of packed random documents."""
  import numpy as np

  from r1jax.data.packing import pack

  rng = np.random.default_rng(1)
  rows = pack([rng.integers(0, 2048, length) for length in lengths], row_length=row_length,
              overlong='error')
  return [rows.tokens, rows.segment_ids, rows.positions, rows.weights]


def padded(lengths):
  """Random documents, each padded to the longest in a row of its own, as `documents` has them."""
  import numpy as np
  parts = [documents([length], max(lengths)) for length in lengths]
  return [np.concatenate(same) for same in zip(*parts)]


def sft_update(model, rows):
  """(an update to call, real tokens, places in the rows, places without padding)."""
  import jax
  import numpy as np

  from r1jax.stages import sft
  from r1jax.training import optimizers, train_step

  optimizer = optimizers.make_optimizer(learning_rate=1e-6)
  step = jax.jit(train_step.make_update(
      sft.make_loss(model), optimizer, num_micro_batches=len(rows[0])), donate_argnums=0)
  state = train_step.init_state(model.init(jax.random.key(0)), optimizer)
  normalizer = np.float32(rows[3][:, 1:].sum())

  def update():
    nonlocal state
    state, measured = step(state, tuple(rows), normalizer)
    return measured
  real = int((rows[1] != 0).sum())
  return update, real, rows[0].size, real


def report(stage, repeats, forms):
  import jax
  seconds = {name: [] for name in forms}
  for _ in range(1 + repeats):      # the first time is compiling
    for name, (update, *_) in forms.items():
      begun = time.perf_counter()
      jax.block_until_ready(update())
      seconds[name].append(time.perf_counter() - begun)
  for name, (_, real, places, used) in forms.items():
    each = statistics.median(seconds[name][1:])
    print(json.dumps(dict(
        stage=stage, form=name, real_tokens=real, places=places, fill=round(used / places, 3),
        real_share=round(real / places, 3), seconds=round(each, 3),
        real_tokens_per_second=round(real / each),
        range=[round(min(seconds[name][1:]), 3), round(max(seconds[name][1:]), 3)])), flush=True)


if __name__ == '__main__':
  from r1jax.command import restart_with_allocator
  restart_with_allocator()
  main()
