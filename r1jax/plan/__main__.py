r"""Compiles an experiment for devices that need not be here, and prints what it would take there.

    python -m r1jax.plan --config=r1_zero:qwen3_8b --topology=v5p:4x4x4 \
        --config.mesh.fsdp=-1

Any field of the config can be overridden, as for `r1jax.main`. No weights and no data are read: a
model whose source is not here has the shape of `model.preset`. Prompts have the greatest length.

  --topology=T      v5e:4x4, v6e:16x16, v5p:8x8x16 (these need libtpu: pip install 'r1jax[plan]');
                    local: this machine's devices; local:8: eight virtual devices of its CPU
  --stage=a,b       plan only these stages
  --mean_length=N   mean tokens of a completion, for useful work and tokens/s; by default all have
                    the greatest length, to which the programs run in any case
  --steps=N         updates that chip-hours are for; by default those of the config
  --search          look for a mesh and settings with which all these stages fit, and plan them
  --json=FILE       also write the figures as JSON
  --cache=FOLDER    keep figures between plans; empty for none
"""
import functools
import itertools
import os
import sys
from typing import Any

from r1jax.errors import UserError


def main() -> None:
  """Parses flags and prints the plan; ends with one sentence on an error that a user can fix."""
  from r1jax import command
  from r1jax.plan.topology import prepare_environment
  name = _topology_flag(sys.argv[1:])
  if name:
    try:
      prepare_environment(name)     # before jax is imported, which reading the config does
    except UserError as error:
      command.end(error, str(error))
  from absl import app, flags
  from ml_collections import config_flags
  flag = config_flags.DEFINE_config_file(
      'config', help_string='experiment: name:size, or file.py:size')
  named = flags.DEFINE_string('topology', None, 'devices to compile for: v5p:8x8x16, local')
  stages = flags.DEFINE_list('stage', [], 'plan only these stages: a,b')
  mean_length = flags.DEFINE_integer(
      'mean_length', 0, 'mean tokens of a completion; 0: the greatest length', lower_bound=0)
  steps = flags.DEFINE_integer(
      'steps', 0, 'updates that chip-hours are for; 0: those of the config', lower_bound=0)
  search = flags.DEFINE_bool('search', False, 'look for settings with which all stages fit')
  json_file = flags.DEFINE_string('json', '', 'file to write the figures to as JSON')
  cache = flags.DEFINE_string('cache', os.path.expanduser('~/.cache/r1jax/plan'),
                              'folder that keeps figures between plans; empty for none')
  flags.mark_flags_as_required(['config', 'topology'])

  def run(_) -> None:
    command.quieten_libraries()
    with command.errors_in_a_sentence():
      _plan(flag.value, named.value or '', stages.value, mean_length.value, steps.value,
            search.value, json_file.value, cache.value)

  app.run(run, flags_parser=command.flags_parser(
      flag, __doc__ or '', ('--config=EXPERIMENT', '--topology=v5e:4x4')))


def _topology_flag(arguments: list[str]) -> str:
  """The value of --topology, before flags are parsed; '' without one."""
  for i, argument in enumerate(arguments):
    name, _, value = argument.lstrip('-').partition('=')
    if argument.startswith('-') and name == 'topology':
      return value or (arguments[i + 1] if i + 1 < len(arguments) else '')
  return ''


def _plan(config, name: str, only: list[str], mean_length: int, steps: int, search: bool,
          json_file: str, cache: str) -> None:
  """Plans stages and prints it; the arguments are the values of the flags."""
  import json
  import pathlib

  import rich.console

  from r1jax import checks, pipeline
  from r1jax.plan import estimate, table
  from r1jax.plan.topology import open_topology
  from r1jax.stages.config import plain
  config = plain(config)
  pipeline.check(config)
  config['mesh'] = pipeline.MESH.default | config.get('mesh', {})
  for stage in only:
    if stage not in config['stages']:
      raise UserError(
          f'stage={stage!r} is not in the config: {checks.did_you_mean(stage, config["stages"])}')
  topology = open_topology(name)
  console = rich.console.Console(width=None if sys.stdout.isatty() else 160)
  print(table.describe(topology), flush=True)
  options: dict[str, Any] = dict(mean_length=mean_length, cache=cache)
  names, results, searched, flags = only or list(config['stages']), [], [], []
  if search:
    config, searched, flags = _search(config, names, topology, console, **options)
  for stage in names if config else ():
    plan = estimate.plan_stage(config, stage, topology, **options,
                               progress=functools.partial(_print_program, stage))
    table.show(plan, topology, steps, console=console)
    results.append(table.to_dict(plan, topology, steps))
  print(table.NOTE)
  if json_file:
    pathlib.Path(json_file).write_text(json.dumps(
        {'stages': results, 'searched': searched, 'flags': flags}, indent=1))


def _search(config, names, topology, console, **options):
  """(the config that fits or None, what was tried, the flags that lead to it); prints them."""
  from r1jax.plan import search, table
  tried, found = search.search(config, names, topology, progress=_print_progress, **options)
  table.show_search(tried, console=console)
  if found is None:
    print('No settings were found that fit: use a larger slice, or shorter completions.')
    return None, tried, []
  flags = list(dict.fromkeys(itertools.chain.from_iterable(
      search.flags_between(config, found, stage) for stage in names)))
  print(f'It fits with {" ".join(flags) or "its own settings"}')
  return found, tried, flags


def _print_program(stage: str, program: str) -> None:
  _print_progress(f'stage {stage!r}: {program}')


def _print_progress(text: str) -> None:
  print(f'{text} ...', file=sys.stderr, flush=True)


if __name__ == '__main__':
  main()
