"""A host without a model: hosts_driver.py PORT NUM_HOSTS HOST LOST_S. It prints what it gathers."""
import sys
import time

from r1jax import hosts, joining


def main(port, num_hosts, host, lost_s):
  witness = joining.join(joining.Joining(
      f'127.0.0.1:{port}', int(num_hosts), int(host), wait_s=60, lost_s=int(lost_s)))
  own = hosts.index(), '\ud800 of a host' * (1 + 50 * hosts.index())
  print(ascii([(number, len(text)) for number, text in hosts.gather(own)]))
  print(ascii([text[:8] for _, text in hosts.gather(own)]))
  print(hosts.from_first(lambda: f'said by {hosts.index()}'))
  try:
    hosts.together(lambda: 1 // (1 - hosts.index()))
  except ZeroDivisionError as error:
    print(repr(error))
  print('ready', flush=True)
  if num_hosts == '2':
    time.sleep(60)
  hosts.barrier()
  witness.dismiss()


if __name__ == '__main__':
  main(*sys.argv[1:])
