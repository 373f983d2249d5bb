"""A host without a model, that prints what it gathers: hosts_driver.py PORT HOST LOST_S END.

Of two hosts that both 'wait', or 'fail alike', or the first of which will 'fail alone'.
"""
import sys
import time

from r1jax import hosts, joining, main


def run(end):
  own = hosts.index(), '\ud800 of a host' * (1 + 50 * hosts.index())
  print(ascii([(number, len(text)) for number, text in hosts.gather(own)]))
  print(ascii([text[:8] for _, text in hosts.gather(own)]))
  print(hosts.from_first(lambda: f'said by {hosts.index()}'))
  try:
    hosts.together(lambda: 1 // (1 - hosts.index()))
  except ZeroDivisionError as error:
    print(repr(error))
  print('ready', flush=True)
  if end == 'fail alike':
    hosts.together(lambda: int('x'))
  if end == 'fail alone' and hosts.is_first():
    raise ValueError('a fault of host 0')
  time.sleep(60)


if __name__ == '__main__':
  port, host, lost_s, end = sys.argv[1:]
  with main.ending(joining.join(joining.Joining(
      f'127.0.0.1:{port}', 2, int(host), wait_s=60, lost_s=int(lost_s)))):
    run(end)
