"""Fixtures of tests that compare formulas: with a worker, or where none may be asked."""
import pytest

from r1jax.rewards import workers


class NoPool:
  """Stands for a pool where no question may be asked."""

  def equivalent(self, gold, answer):
    raise AssertionError(f'A worker was asked whether {answer!r} is {gold!r}.')


class FuzzPool:
  """Answers at random within the contract, and sees that questions stay within theirs."""

  def equivalent(self, gold, answer):
    assert len(gold) <= 3000 and len(answer) <= 3000 and answer.isprintable()
    return (None, False, True)[len(answer) % 3]


@pytest.fixture(autouse=True)
def no_pool():
  """In modules that import it, a worker is asked only by tests that use `pool`."""
  before = workers.current_pool()
  workers.use_pool(NoPool())
  yield
  workers.use_pool(before)


@pytest.fixture(scope='module')
def pool():
  with workers.WorkerPool(num_workers=1, timeout_s=20.0) as pool:
    yield pool
