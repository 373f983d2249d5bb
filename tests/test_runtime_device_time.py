"""The share of time in which no program runs."""
import threading
import time

import jax.numpy as jnp
import pytest

from r1jax.runtime import device_time
from r1jax.runtime.device_time import IdleMeter, dispatched


class Output:
  """An array of a program that ends when the test says so, or that was donated."""

  def __init__(self, donated=False):
    self.waited_for, self.ended, self._donated = threading.Event(), threading.Event(), donated

  def block_until_ready(self):
    if self._donated:
      raise RuntimeError('BlockHostUntilReady() called on deleted or donated buffer')
    self.waited_for.set()
    self.ended.wait()


def wait_until_idle(meter):
  while meter._begun is not None:
    time.sleep(0.001)


@pytest.fixture
def set_time(monkeypatch):
  """Sets the clock that meters read."""
  now = [0.0]
  monkeypatch.setattr(device_time.time, 'perf_counter', lambda: now[0])

  def set_time(seconds):
    now[0] = seconds
  return set_time


def test_programs_run_one_after_the_other(set_time):
  with IdleMeter() as meter:
    set_time(1.0)
    first, donated, second = Output(), Output(donated=True), Output()
    assert dispatched(first) is first
    set_time(2.0)
    dispatched(donated)
    dispatched(second)
    set_time(4.0)
    first.ended.set()
    second.waited_for.wait()
    set_time(6.0)
    second.ended.set()
    wait_until_idle(meter)
    set_time(10.0)
    assert meter.pop() == pytest.approx(0.5)    # 1 to 6 of 10 seconds were busy
    set_time(12.0)
    assert meter.pop() == 1.0


def test_a_program_counts_in_both_iterations_that_it_runs_in(set_time):
  with IdleMeter() as meter:
    set_time(1.0)
    output = Output()
    dispatched(output)
    output.waited_for.wait()
    set_time(4.0)
    assert meter.pop() == pytest.approx(0.25)
    set_time(6.0)
    output.ended.set()
    wait_until_idle(meter)
    set_time(8.0)
    assert meter.pop() == pytest.approx(0.5)


def test_nothing_is_noted_where_nobody_measures():
  with IdleMeter():
    pass
  outputs = {'x': jnp.ones(2)}
  assert dispatched(outputs) is outputs
