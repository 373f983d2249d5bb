"""A curriculum: which problems are drawn follows how often the policy solves each of them now.

Sampling for learnability (Foster et al., "Learning to Reason at the Frontier of Learnability",
arXiv:2502.12272): problems that are solved sometimes, but not always, teach most; their weight is
the variance p(1 − p) of a verdict. The other rule, 1 − p, is the prioritized sampling of Kimi k1.5
(arXiv:2501.12599). Departures: the paper measures many problems from time to time and draws part
of the batches from the best of them; here every problem has a running estimate, which the rollouts
of training update, and is drawn in proportion to its weight, so that nothing is sampled only to be
measured. A floor keeps every problem in play, as estimates grow old.

An estimate is the mean of a Beta distribution, p = (passed + ½) / (judged + 1), of decayed counts:
when k of n judged completions pass, passed ← decay · passed + k and judged ← decay · judged + n. A
problem without any has p = ½.
"""
from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

RULES = ('learnability', 'failure')
_STREAM = 0x63757272    # tells these random numbers from others of the same seed and iteration
_NEVER, _ALWAYS = 0.05, 0.95    # decayed rates that count as never or always solved


@dataclasses.dataclass(frozen=True, eq=False)
class Curriculum:
  """Running estimates of n problems; `follow` returns a new one.

  Attributes:
    ids: [n] int, their example ids, ascending.
    passed, judged: [n] float32, decayed counts of completions that passed and that were judged.
    drawn: [n] int32, how often each was drawn.
    rule: 'learnability' weights a problem by 4p(1 − p), 'failure' by 1 − p; both are at most 1.
    floor: is added to the weights.
    decay: of the counts, each time a problem is drawn; 1 never forgets, 0 remembers the last time.
    seed: of the draws.
  """
  ids: np.ndarray
  passed: np.ndarray
  judged: np.ndarray
  drawn: np.ndarray
  rule: str
  floor: float
  decay: float
  seed: int

  @property
  def estimates(self) -> np.ndarray:
    """[n]: the estimated pass rates, above 0 and below 1."""
    return (self.passed.astype(float) + 0.5) / (self.judged.astype(float) + 1)

  @property
  def weights(self) -> np.ndarray:
    """[n]: what the chances of being drawn are in proportion to."""
    rates = self.estimates
    return self.floor + (4 * rates * (1 - rates) if self.rule == 'learnability' else 1 - rates)

  def order(self, iteration: int, start: int) -> IterationOrder:
    """The problems' places in the order in which an iteration draws them.

    It is weighted sampling without replacement: the first place is drawn by the weights, the next
    one among the others, and so on (Efraimidis and Spirakis, 2006: by rising e / weight with
    exponential e). It depends on nothing but the seed, the iteration and the estimates.

    Args:
      iteration: the number of the iteration.
      start: the example counter at which the iteration begins.
    """
    rng = np.random.default_rng((self.seed, iteration, _STREAM))
    arrivals = rng.standard_exponential(len(self.ids)) / self.weights
    return IterationOrder(np.argsort(arrivals, kind='stable'), start)

  def follow(self, ids: np.ndarray, verdicts: np.ndarray) -> Curriculum:
    """The curriculum after a rollout.

    Args:
      ids: [B] int, the example ids of the problems that were drawn, each once.
      verdicts: [B, G]: 1 or 0; NaN for completions that were not judged. A problem none of whose
        completions was judged keeps its estimate.
    """
    places = np.searchsorted(self.ids, ids)
    known = ~np.isnan(verdicts)
    rated = known.any(1)
    counts = {}
    for name, found in (('passed', np.nansum(verdicts, 1)), ('judged', known.sum(1))):
      counts[name] = before = getattr(self, name).copy()
      at = places[rated]
      before[at] = np.float32(self.decay) * before[at] + found[rated].astype(np.float32)
    drawn = self.drawn.copy()
    drawn[places] += 1
    return dataclasses.replace(self, **counts, drawn=drawn)

  def metrics(self) -> dict[str, float]:
    """What a person sees of it, over all n problems.

    `data/running_pass_rate` is the mean estimate; `data/seen` the share that was ever drawn;
    `data/effective_problems` the exponential of the entropy of the weights: of how many equally
    likely problems one draws. `data/never_solved` and `data/always_solved` are shares of the
    problems that were ever judged, before training or in it: those whose decayed rate is at most
    0.05, or at least 0.95.
    """
    shares = self.weights / self.weights.sum()
    rated = self.judged > 0
    rates = self.passed[rated] / self.judged[rated]
    found = {
        'data/running_pass_rate': self.estimates.mean(), 'data/seen': (self.drawn > 0).mean(),
        'data/effective_problems': np.exp(-(shares * np.log(np.maximum(shares, 1e-300))).sum())}
    if rated.any():
      found |= {'data/never_solved': (rates <= _NEVER).mean(),
                'data/always_solved': (rates >= _ALWAYS).mean()}
    return {name: float(value) for name, value in found.items()}

  @property
  def state(self) -> dict[str, np.ndarray]:
    """What changes, for a checkpoint."""
    return {'passed': self.passed, 'judged': self.judged, 'drawn': self.drawn}

  def restored(self, state: Mapping[str, Any]) -> Curriculum:
    """The curriculum with the `state` of a checkpoint."""
    return dataclasses.replace(self, **state)


def begin(
    ids: np.ndarray, *, rule: str, floor: float, decay: float, seed: int,
    judged: np.ndarray | None = None, passed: np.ndarray | None = None,
) -> Curriculum:
  """The curriculum before the first draw.

  Args:
    ids: [n] example ids, ascending.
    rule: as of Curriculum.
    floor: likewise.
    decay: likewise.
    seed: likewise.
    judged: [n] completions that were judged before, as by a stage of pass rates; None: none.
    passed: [n] how many of them passed.
  """
  none = np.zeros(len(ids))
  return Curriculum(
      ids, passed=np.asarray(none if passed is None else passed, np.float32),
      judged=np.asarray(none if judged is None else judged, np.float32),
      drawn=np.zeros(len(ids), np.int32), rule=rule, floor=floor, decay=decay, seed=seed)


class IterationOrder:
  """The places of an iteration's problems by example counter; after the last, the first again."""

  def __init__(self, places: np.ndarray, start: int):
    self._places, self._start = places, start

  def __getitem__(self, counter: int) -> int:
    return int(self._places[(counter - self._start) % len(self._places)])
