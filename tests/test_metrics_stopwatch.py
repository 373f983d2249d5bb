"""Seconds by name."""
import pytest

from r1jax.metrics import Stopwatch, stopwatch


def test_stopwatch_adds_up_and_starts_again(monkeypatch):
  clock = iter([0.0, 2.0, 10.0, 11.5, 20.0, 24.0])
  monkeypatch.setattr(stopwatch.time, 'perf_counter', lambda: next(clock))
  watch = Stopwatch()
  with watch('rollout'):
    pass
  with watch('rollout'):
    pass
  with pytest.raises(KeyError):
    with watch('update'):
      raise KeyError
  assert watch.pop() == {'timing_s/rollout': 3.5, 'timing_s/update': 4.0}
  assert watch.pop() == {}
