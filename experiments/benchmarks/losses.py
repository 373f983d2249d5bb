"""Times each policy loss, and the shortest direct transcription of its formula.

    python -m r1jax.experiments.benchmarks.losses
    python -m r1jax.experiments.benchmarks.losses --only=grpo,gspo --rounds=400

Jitted over [512, 1024] tokens, float32, completions of random length. `loss_ms` is value, metrics
and gradient with respect to the log-probabilities; `formula_ms` is value and gradient of the
transcription, which has no metrics, no checks and no protection from what is masked;
`formula_with_metrics_ms` is the transcription with the loss's metrics written out as plainly.
`ratio` is loss_ms / formula_ms. Prints one JSON line per loss, with medians of interleaved rounds,
and one with the time of the import.
"""
import argparse
import json
import statistics
import subprocess
import sys
import time

from r1jax.experiments.benchmarks import ROOT

ROWS, LENGTH = 512, 1024


def cases(jnp, sg, losses):
  """{name: (loss, transcription)}, each a function of p, o, q, a, t, m.

  These are logprobs, old and reference logprobs [N, C], advantages [N] and [N, C], mask [N, C]. The
  function is long because it is a table.
  """
  def by_sequence(x, m):
    return jnp.mean(jnp.sum(x * m, 1) / jnp.sum(m, 1))

  def by_token(x, m):
    return jnp.sum(x * m) / jnp.sum(m)

  def clipped(r, a, low=0.2, high=0.2):
    return -jnp.minimum(r * a, jnp.clip(r, 1 - low, 1 + high) * a)

  def k3(p, q):
    return jnp.exp(q - p) - (q - p) - 1

  def sequence_log_ratio(p, o, m):
    return jnp.sum((p - o) * m, 1, keepdims=True) / jnp.sum(m, 1, keepdims=True)

  return {
      'grpo': (
          lambda p, o, q, a, t, m: losses.grpo_loss(p, o, a, m),
          lambda p, o, q, a, t, m: by_sequence(clipped(jnp.exp(p - o), a[:, None]), m)),
      'grpo_kl': (
          lambda p, o, q, a, t, m: losses.grpo_loss(
              p, o, a, m, reference_logprobs=q, kl_coefficient=0.04),
          lambda p, o, q, a, t, m: by_sequence(
              clipped(jnp.exp(p - o), a[:, None]) + 0.04 * k3(p, q), m)),
      'grpo_dual': (
          lambda p, o, q, a, t, m: losses.grpo_loss(p, o, a, m, dual_clip=3.0),
          lambda p, o, q, a, t, m: by_sequence(jnp.where(
              a[:, None] < 0, jnp.minimum(clipped(jnp.exp(p - o), a[:, None]), -3 * a[:, None]),
              clipped(jnp.exp(p - o), a[:, None])), m)),
      'grpo_truncated': (
          lambda p, o, q, a, t, m: losses.grpo_loss(p, o, a, m, behaviour_logprobs=q),
          lambda p, o, q, a, t, m: by_sequence(
              sg(jnp.minimum(jnp.exp(o - q), 2.0)) * clipped(jnp.exp(p - o), a[:, None]), m)),
      'dr_grpo': (
          lambda p, o, q, a, t, m: losses.dr_grpo_loss(p, o, a, m, max_length=LENGTH),
          lambda p, o, q, a, t, m: jnp.sum(
              clipped(jnp.exp(p - o), a[:, None]) * m) / (ROWS * LENGTH)),
      'dapo': (
          lambda p, o, q, a, t, m: losses.dapo_loss(p, o, a, m),
          lambda p, o, q, a, t, m: by_token(clipped(jnp.exp(p - o), a[:, None], 0.2, 0.28), m)),
      'bnpo': (
          lambda p, o, q, a, t, m: losses.bnpo_loss(p, o, a, m),
          lambda p, o, q, a, t, m: by_token(clipped(jnp.exp(p - o), a[:, None]), m)),
      'gspo': (
          lambda p, o, q, a, t, m: losses.gspo_loss(p, o, a, m),
          lambda p, o, q, a, t, m: jnp.mean(clipped(
              jnp.exp(sequence_log_ratio(p, o, m)), a[:, None], 3e-4, 4e-4))),
      'gspo_token': (
          lambda p, o, q, a, t, m: losses.gspo_token_loss(p, o, t, m),
          lambda p, o, q, a, t, m: by_sequence(clipped(
              sg(jnp.exp(sequence_log_ratio(p, o, m))) * jnp.exp(p - sg(p)), t, 3e-4, 4e-4), m)),
      'cispo': (
          lambda p, o, q, a, t, m: losses.cispo_loss(p, o, a, m),
          lambda p, o, q, a, t, m: by_token(
              -sg(jnp.minimum(jnp.exp(p - o), 5.0)) * a[:, None] * p, m)),
      'reinforce': (
          lambda p, o, q, a, t, m: losses.reinforce_loss(p, a, m),
          lambda p, o, q, a, t, m: by_token(-a[:, None] * p, m)),
      'rloo': (
          lambda p, o, q, a, t, m: losses.rloo_loss(p, o, a, m),
          lambda p, o, q, a, t, m: jnp.mean(clipped(
              jnp.exp(jnp.sum((p - o) * m, 1)), a))),
      'reinforce_pp': (
          lambda p, o, q, a, t, m: losses.reinforce_pp_loss(p, o, t, m),
          lambda p, o, q, a, t, m: by_token(clipped(jnp.exp(p - o), t), m)),
      'ppo_clip': (
          lambda p, o, q, a, t, m: losses.ppo_clip_loss(
              p, o, t, m, entropies=-q, entropy_coefficient=0.01),
          lambda p, o, q, a, t, m: by_token(clipped(jnp.exp(p - o), t) + 0.01 * q, m)),
      'ppo_kl': (
          lambda p, o, q, a, t, m: losses.ppo_kl_loss(p, o, t, m, old_kl_coefficient=0.5),
          lambda p, o, q, a, t, m: by_token(
              -jnp.exp(p - o) * t + 0.5 * (jnp.exp(p - o) - 1 - (p - o)), m)),
      'value': (
          lambda p, o, q, a, t, m: losses.value_loss(p, t, m, old_values=o),
          lambda p, o, q, a, t, m: by_token(0.5 * jnp.maximum(
              jnp.square(p - t), jnp.square(jnp.clip(p, o - 0.2, o + 0.2) - t)), m)),
  }


def written_out(jnp, name, formula):
  """The transcription, with the loss's metrics computed in the most direct way."""
  level = {'gspo': 'mean', 'gspo_token': 'mean', 'rloo': 'sum'}.get(name, 'token')

  def loss(p, o, q, a, t, m):
    metrics = {}

    def mean(x):
      return jnp.sum(x * m) / jnp.sum(m)
    if name == 'value':
      acts = jnp.square(jnp.clip(p, o - 0.2, o + 0.2) - t) > jnp.square(p - t)
      metrics = {'mean': mean(p), 'error': mean(jnp.square(p - t)), 'clip_ratio': mean(acts)}
    elif name != 'reinforce':
      log_ratio = (p - o) * m
      if level != 'token':
        log_ratio = jnp.sum(log_ratio, 1, keepdims=True)
        log_ratio = log_ratio / jnp.sum(m, 1, keepdims=True) if level == 'mean' else log_ratio
      ratio = jnp.exp(log_ratio)
      advantage = t if name in ('gspo_token', 'reinforce_pp', 'ppo_clip', 'ppo_kl') else a[:, None]
      metrics = {'mean': mean(ratio), 'max': jnp.max(ratio * m)}
      if name != 'ppo_kl':
        metrics |= {'low': mean((ratio < 0.8) & (advantage < 0)),
                    'high': mean((ratio > 1.2) & (advantage > 0))}
      if name == 'grpo_kl':
        metrics['kl'] = mean(jnp.exp(q - p) - (q - p) - 1)
      if name == 'ppo_kl':
        metrics['kl_old'] = mean(jnp.exp(p - o) - (p - o) - 1)
      if name == 'grpo_dual':
        metrics['dual'] = mean((ratio > 3) & (advantage < 0))
      if name == 'grpo_truncated':
        weight = jnp.exp(o - q)
        metrics |= {'weight': mean(jnp.minimum(weight, 2)), 'share': mean(weight > 2)}
      if name == 'ppo_clip':
        metrics['entropy'] = mean(-q)
    return formula(p, o, q, a, t, m), metrics
  return loss


def import_seconds(code: str, rounds: int = 5) -> float:
  """Median seconds of a fresh process that runs `code`."""
  def once():
    start = time.perf_counter()
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
    return time.perf_counter() - start
  return statistics.median(once() for _ in range(rounds))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', default='', help='names separated by commas; default: all losses')
  parser.add_argument('--rounds', type=int, default=200)
  parser.add_argument('--no-import', action='store_true', help="leave out the import's time")
  arguments = parser.parse_args()

  import jax
  import jax.numpy as jnp
  import numpy as np

  from r1jax import losses

  rng = np.random.default_rng(0)
  old = rng.normal(-2, 1, (ROWS, LENGTH))
  args = [jnp.asarray(x, jnp.float32) for x in (
      old + rng.normal(0, 0.3, old.shape), old, old + rng.normal(0, 0.3, old.shape),
      rng.normal(size=ROWS), rng.normal(size=old.shape),
      np.arange(LENGTH) < rng.integers(1, LENGTH + 1, ROWS)[:, None])]
  device = jax.devices()[0]
  known = cases(jnp, jax.lax.stop_gradient, losses)
  for name in filter(None, arguments.only.split(',')) if arguments.only else known:
    ours, formula = known[name]
    programs = {
        'loss': jax.value_and_grad(ours, has_aux=True), 'formula': jax.value_and_grad(formula),
        'formula_with_metrics': jax.value_and_grad(
            written_out(jnp, name, formula), has_aux=True)}
    programs = {key: jax.jit(f).lower(*args).compile() for key, f in programs.items()}
    results = {key: jax.block_until_ready(f(*args)) for key, f in programs.items()}
    np.testing.assert_allclose(results['loss'][0][0], results['formula'][0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(results['loss'][1], results['formula'][1], rtol=1e-3, atol=1e-8)
    seconds: dict[str, list[float]] = {key: [] for key in programs}
    for _ in range(arguments.rounds):
      for key, program in programs.items():
        start = time.perf_counter()
        jax.block_until_ready(program(*args))
        seconds[key].append(time.perf_counter() - start)
    medians = {key: 1e3 * statistics.median(x) for key, x in seconds.items()}
    print(json.dumps(dict(
        loss=name, tokens=ROWS * LENGTH, device=device.device_kind,
        **{f'{key}_ms': round(x, 3) for key, x in medians.items()},
        ratio=round(medians['loss'] / medians['formula'], 3))), flush=True)

  if not arguments.no_import:
    with_losses = import_seconds('from r1jax import losses, advantages, divergences')
    alone = import_seconds('import jax')
    print(json.dumps(dict(import_s=round(with_losses, 3), jax_alone_s=round(alone, 3),
                          difference_s=round(with_losses - alone, 3))))


if __name__ == '__main__':
  main()
