"""Compiles an experiment for devices that are not at hand, and says what it would take there.

    python -m r1jax.plan --config=experiments/r1_zero.py:qwen3_8b --topology=v5p:4x4x4 \\
        --config.mesh.fsdp=-1

Any field of the config is overridden as for `r1jax.main`. No weights and no data are read: a model
whose source is not at hand has the shape of `model.preset`. Prompts are as long as they may be.

  --topology=T      v5e:4x4, v6e:16x16, v5p:8x8x16 (with libtpu: pip install 'r1jax[plan]'), or
                    local: this machine's devices; local:8, eight virtual ones of its CPU
  --stage=a,b       these stages alone
  --mean_length=N   completions have N tokens on average; by default all have the greatest length,
                    to which the programs run either way
  --steps=N         updates that chip-hours are for; by default those of the config
  --search          look for a mesh and settings with which all these stages fit, and plan them
  --json=FILE       the figures as JSON, too
"""
import os
import sys


def main() -> None:
  """Parses flags and prints the plan; ends with one sentence on an error a user can mend."""
  from r1jax import main as runner
  from r1jax.plan import chips
  topology = _topology(sys.argv[1:])
  if topology:
    try:
      chips.prepare(topology)     # before jax starts, which reading the config does
    except ValueError as error:
      runner.end(error, str(error))
  from absl import app, flags
  from ml_collections import config_flags
  flag = config_flags.DEFINE_config_file('config', help_string='experiment file, as file.py:size')
  named = flags.DEFINE_string('topology', None, 'devices to compile for, as v5p:8x8x16, or local')
  stages = flags.DEFINE_list('stage', [], 'stages to plan, and no others: a,b')
  mean_length = flags.DEFINE_integer('mean_length', 0, 'mean tokens of a completion; 0: as many as '
                                     'it may have', lower_bound=0)
  steps = flags.DEFINE_integer('steps', 0, 'updates that chip-hours are for; 0: the config\'s',
                               lower_bound=0)
  search = flags.DEFINE_bool('search', False, 'look for settings with which all stages fit')
  json_file = flags.DEFINE_string('json', '', 'file for the figures as JSON')
  cache = flags.DEFINE_string('cache', os.path.expanduser('~/.cache/r1jax/plan'),
                              'folder that keeps figures between plans; empty for none')
  flags.mark_flags_as_required(['config', 'topology'])

  def run(_) -> None:
    runner.quieten_libraries()
    try:
      _plan(flag.value, named.value, stages.value, mean_length.value, steps.value, search.value,
            json_file.value, cache.value)
    except (ValueError, OSError, ImportError) as error:
      runner.end(error, runner.sentence(error))

  app.run(run, flags_parser=runner.flags_parser(flag, '--topology=v5e:4x4'))


def _topology(arguments: list[str]) -> str:
  """The value of --topology, before flags are parsed."""
  for i, argument in enumerate(arguments):
    name, _, value = argument.lstrip('-').partition('=')
    if argument.startswith('-') and name == 'topology':
      return value or (arguments[i + 1] if i + 1 < len(arguments) else '')
  return ''


def _plan(config, name, only, mean_length, steps, search, json_file, cache) -> None:
  import itertools
  import json
  import pathlib

  import rich.console

  from r1jax import checks, pipeline
  from r1jax.plan import chips, estimate, table
  from r1jax.plan import search as searching
  from r1jax.stages.config import plain
  config = plain(config)
  pipeline.check(config)
  for stage in only:
    if stage not in config['stages']:
      raise ValueError(f'stage={stage!r} is not in the config: '
                       f'{checks.did_you_mean(stage, config["stages"])}')
  topology = chips.open_topology(name)
  console = rich.console.Console(width=None if sys.stdout.isatty() else 160)
  print(table.assumed(topology), flush=True)
  tell = lambda said: print(said + ' ...', file=sys.stderr, flush=True)
  options = dict(mean_length=mean_length, cache=cache)
  names, results, searched, flags = only or list(config['stages']), [], [], []
  if search:
    searched, found = searching.search(config, names, topology, progress=tell, **options)
    table.show_search(searched, console=console)
    if found:
      flags = list(dict.fromkeys(itertools.chain.from_iterable(
          searching.flags_between(config, found, stage) for stage in names)))
    print(f'It fits with {" ".join(flags) or "its own settings"}' if found else
          'Nothing of this fits: take a larger slice, or shorter completions.')
    config = found
  for stage in names if config else ():
    plan = estimate.plan_stage(
        config, stage, topology, **options,
        progress=lambda program: tell(f'stage {stage!r}: {program}'))
    table.show(plan, topology, steps, console=console)
    results.append(table.to_dict(plan, topology, steps))
  print(table.note())
  if json_file:
    pathlib.Path(json_file).write_text(json.dumps(
        {'stages': results, 'searched': searched, 'flags': flags}, indent=1))


if __name__ == '__main__':
  main()
