"""A host without a model, for test_hosts.py: hosts_driver.py PORT HOST LOST_S END.

Two tell each other what they know, and say 'ready'; then both 'wait', or 'fail alike', or the
first will 'fail alone'.
"""
import os
import sys
import time

from r1jax import main
from r1jax.errors import UserError
from r1jax.runtime import hosts, joining


def tell():
  own = hosts.index(), '\ud800 of a host' * (1 + 50 * hosts.index())
  for _ in range(2):
    told = hosts.gather(own)
    assert [(number, text[:6], len(text)) for number, text in told] == [
        (0, '\ud800 of a', 11), (1, '\ud800 of a', 561)], ascii(told)
  assert hosts.from_first(lambda: hosts.index() + 10) == 10
  try:
    hosts.together(lambda: 1 // (1 - hosts.index()))
  except ZeroDivisionError:
    return
  raise AssertionError('host 0 did not hear of the error of host 1')


def fail():
  raise UserError('a fault of all hosts')


def run(end):
  tell()
  print('ready', flush=True)
  if end == 'fail alike':
    hosts.together(fail)
  if end == 'fail alone' and hosts.is_first():
    raise UserError('a fault of host 0')
  time.sleep(60)


if __name__ == '__main__':
  port, host, lost_s, end = sys.argv[1:]
  os.environ['R1JAX_SECRET'] = 'of the tests'
  with main.ending(joining.join(joining.Joining(
      f'127.0.0.1:{port}', 2, int(host), wait_s=60, lost_s=int(lost_s)))):
    run(end)
