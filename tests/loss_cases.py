"""What the tests of losses share: small arguments, a float64 reference in loops, differences."""
from typing import Any

import jax
import numpy as np


def float32(x) -> Any:
  """A numpy array. Losses are annotated for jax arrays, and take numpy arrays too."""
  return np.asarray(x, np.float32)


N, C = 6, 5
LENGTHS = np.array([5, 2, 0, 4, 1, 5])
MASK = float32(np.arange(C) < LENGTHS[:, None])
HOLES = MASK.copy()
HOLES[0, 2] = HOLES[3, 0] = 0
ARRAYS = ('logprobs', 'old_logprobs', 'reference_logprobs', 'behaviour_logprobs', 'entropies')


def example(seed=0, shape=(N, C), token_advantages=False):
  """Arrays of policy_loss, float32; ratios from 0.4 to 2.5, clipped and unclipped of both signs."""
  rng = np.random.default_rng(seed)
  old = rng.normal(-2, 1, shape)
  return {name: np.float32(value) for name, value in dict(
      logprobs=old + rng.uniform(-0.9, 0.9, shape), old_logprobs=old,
      advantages=rng.normal(size=shape if token_advantages else shape[0]),
      reference_logprobs=old + rng.normal(0, 0.5, shape),
      behaviour_logprobs=old + rng.normal(0, 0.6, shape),
      entropies=rng.uniform(0, 3, shape)).items()}


def chosen(args, settings):
  """The arrays that these settings weigh; the others are left out."""
  needs = {'reference_logprobs': 'kl_coefficient', 'entropies': 'entropy_coefficient',
           'behaviour_logprobs': 'correction'}
  return {name: x for name, x in args.items() if needs.get(name, 'clip') in settings}


def value_and_grad(loss, args, mask, **settings):
  """((loss, metrics), gradient by logprobs)."""
  rest = {name: x for name, x in args.items() if name != 'logprobs'}

  def of(logprobs):
    return loss(logprobs=logprobs, **rest, completion_mask=mask, **settings)
  return jax.value_and_grad(of, has_aux=True)(args['logprobs'])


def reference_loss(
    logprobs, old_logprobs, advantages, mask=MASK, reference_logprobs=None, behaviour_logprobs=None,
    entropies=None, *, now=None, ratio_level='token', clip='ppo', clip_epsilon_low=0.2,
    clip_epsilon_high=0.2, dual_clip=None, aggregation='token_mean', max_length=None,
    kl_coefficient=0.0, kl_estimator='k3', old_kl_coefficient=None, entropy_coefficient=0.0,
    correction='token_truncate', correction_low=0.0, correction_high=2.0):
  """The formulas, token by token, in float64.

  `now` is where the parameters stand: what carries no gradient is computed from it, so that
  differences of this function by `logprobs` are the gradient.
  """
  now = np.float64(logprobs if now is None else now)
  new = np.float64(logprobs)
  old = now if old_logprobs is None else np.float64(old_logprobs)
  sums, tokens = [], 0
  for n in range(len(new)):
    places = np.flatnonzero(mask[n])
    mean_now = np.mean([now[n, t] - old[n, t] for t in places]) if len(places) else 0.0
    mean_new = np.mean([new[n, t] - old[n, t] for t in places]) if len(places) else 0.0
    terms = []
    for t in places:
      a = np.float64(advantages[n] if np.ndim(advantages) == 1 else advantages[n, t])
      rho, rho_now = {
          'token': (np.exp(new[n, t] - old[n, t]), np.exp(now[n, t] - old[n, t])),
          'sequence': (np.exp(mean_new), np.exp(mean_now)),
          'sequence_token': (np.exp(mean_now) * np.exp(new[n, t] - now[n, t]), np.exp(mean_now)),
          'product': (np.exp(mean_new * len(places)), np.exp(mean_now * len(places))),
      }[ratio_level]
      low, high = 1 - clip_epsilon_low, 1 + clip_epsilon_high
      if clip == 'cispo':
        gain = min(max(rho_now, low), high) * a * new[n, t]
      elif clip == 'none':
        gain = rho * a
      else:
        gain = min(rho * a, min(max(rho, low), high) * a)
        if dual_clip is not None and a < 0:
          gain = max(gain, dual_clip * a)
      if behaviour_logprobs is not None:
        level, form = correction.split('_')
        over = [t] if level == 'token' else places
        w = np.exp(sum(old[n, s] - np.float64(behaviour_logprobs[n, s]) for s in over))
        inside = correction_low <= w <= correction_high
        gain *= min(w, correction_high) if form == 'truncate' else w * inside
      term = -gain
      if reference_logprobs is not None:
        x = np.float64(reference_logprobs[n, t]) - new[n, t]
        k3 = np.exp(x) - x - 1
        term += kl_coefficient * {
            'k1': -x, 'k2': x * x / 2, 'k3': k3,
            'k3_corrected': np.exp(new[n, t] - old[n, t]) * k3}[kl_estimator]
      if old_kl_coefficient is not None:
        x = new[n, t] - old[n, t]
        term += old_kl_coefficient * (np.exp(x) - 1 - x)
      if entropies is not None:
        term -= entropy_coefficient * np.float64(entropies[n, t])
      terms.append(term)
    sums.append(sum(terms) / len(terms) if terms and aggregation == 'sequence_mean' else sum(terms))
    tokens += len(terms)
  divisor = {'sequence_mean': len(sums), 'sequence_sum': len(sums), 'token_mean': max(tokens, 1),
             'fixed_length': len(sums) * (max_length or np.shape(mask)[1])}[aggregation]
  return sum(sums) / divisor


def finite_differences(function, x, step=1e-6):
  gradient = np.zeros(np.shape(x))
  for at in np.ndindex(gradient.shape):
    moved = [np.array(x, np.float64) for _ in range(2)]
    moved[0][at] -= step
    moved[1][at] += step
    gradient[at] = (function(moved[1]) - function(moved[0])) / (2 * step)
  return gradient
