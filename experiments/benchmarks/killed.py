r"""Compares a chain that is killed at random moments, and restarted, with an uninterrupted one.

    python -m r1jax.experiments.benchmarks.killed
    python -m r1jax.experiments.benchmarks.killed --hosts=2 \
        --config=r1_zero:tiny,debug --seconds=15,45 -- --config.mesh.fsdp=2

SIGKILL is sent at a random time within `--seconds` of each start, to a random host; the other hosts
must then end by themselves, with a one-sentence error. At the end, all files of every stage are
compared byte by byte, except for times: models, metrics, rollouts, checkpoints.
"""
import argparse
from collections.abc import Sequence
import importlib.util
import os
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
import time

from r1jax.experiments.benchmarks import ROOT


def start(config: str, workdir: pathlib.Path, hosts: int = 1, flags: Sequence[str] = (), *,
          logs: pathlib.Path) -> list:
  """Starts the processes of a run; host h writes its errors to `{logs}.{h}.err`."""
  environment = os.environ | {
      'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'PJRT_NPROC': '32', 'PYTHONUNBUFFERED': '1'}
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    port = found.getsockname()[1]
  started = []
  for host in range(hosts):
    join = () if hosts == 1 else (
        f'--coordinator=127.0.0.1:{port}', f'--num_hosts={hosts}', f'--host={host}',
        '--join_wait_s=30', '--lost_s=15')
    with open(f'{logs}.{host}.err', 'w') as errors:
      started.append(subprocess.Popen(
          [sys.executable, '-m', 'r1jax.main', f'--config={config}', f'--workdir={workdir}',
           f'--compilation_cache={logs.parent}/compiled', *join, *flags],
          env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors))
  return started


def last_words(logs: pathlib.Path, host: int) -> str:
  """The last line that a host wrote to its standard error; '' if there is none."""
  lines = pathlib.Path(f'{logs}.{host}.err').read_text().strip().splitlines()
  return lines[-1] if lines else ''


def ended(processes: list, logs: pathlib.Path, seconds: float | None = None) -> bool:
  """Whether all processes end in time, without errors; raises SystemExit if one fails."""
  end = None if seconds is None else time.monotonic() + seconds
  try:
    for host, process in enumerate(processes):
      if process.wait(None if end is None else max(0.0, end - time.monotonic())):
        raise SystemExit(f'host {host} failed by itself: {last_words(logs, host)}')
  except subprocess.TimeoutExpired:
    return False
  return True


def kill_one(processes: list, logs: pathlib.Path) -> None:
  """Kills a random host; raises SystemExit unless the others end, each with a sentence."""
  victim = random.randrange(len(processes))
  processes[victim].kill()
  for host, process in enumerate(processes):
    try:
      failed = process.wait(120)
    except subprocess.TimeoutExpired:
      raise SystemExit(f'host {host} kept running after host {victim} was killed') from None
    if host != victim and failed and not last_words(logs, host).startswith('r1jax: '):
      raise SystemExit(f'host {host} ended without a sentence: {last_words(logs, host)!r}')


def _load_runs():
  """tests/runs.py, which knows what is compared of a stage."""
  spec = importlib.util.spec_from_file_location('runs', ROOT / 'tests' / 'runs.py')
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def different(one: pathlib.Path, other: pathlib.Path) -> list[str]:
  """The files that differ between two runs, by stage; manifests may differ in the workdir."""
  from absl import logging

  from r1jax.runtime import checksums, storage
  runs = _load_runs()
  logging.set_verbosity(logging.ERROR)
  found = []
  for stage in sorted(path.name for path in one.iterdir() if path.is_dir()):
    results = [runs.result_of(workdir / stage) for workdir in (one, other)]
    for result, workdir in zip(results, (one, other)):
      result['manifest.json'] = storage.to_json(checksums.unseal(result['manifest.json'])).replace(
          str(workdir), '')    # without its checksum, which the workdir is a part of
    found += [f'{stage}: {name}' for name in sorted(results[0].keys() | results[1].keys())
              if results[0].get(name) != results[1].get(name)]
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--config', default='r1:tiny,debug')
  parser.add_argument('--hosts', type=int, default=1)
  parser.add_argument('--seconds', default='5,14')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('flags', nargs='*', help='further flags of r1jax.main')
  settings = parser.parse_args()
  low, high = map(float, settings.seconds.split(','))
  random.seed(settings.seed)
  with tempfile.TemporaryDirectory() as folder:
    whole, cut = pathlib.Path(folder, 'whole'), pathlib.Path(folder, 'cut')
    arguments = settings.hosts, settings.flags
    ended(start(settings.config, whole, *arguments, logs=whole), whole)
    kills = 0
    while not ended(processes := start(settings.config, cut, *arguments, logs=cut), cut,
                    random.uniform(low, high)):
      kill_one(processes, cut)
      kills += 1
    found = different(whole, cut)
    print(f'{settings.config} on {settings.hosts} host(s), killed {kills} times:',
          ', '.join(found) or 'nothing differs')


if __name__ == '__main__':
  main()
