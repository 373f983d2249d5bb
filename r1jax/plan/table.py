"""A plan as tables for a person, and as JSON."""
from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from r1jax import metrics
from r1jax.plan.chips import GIB, Topology
from r1jax.plan.estimate import Estimate, StagePlan

BOUNDS = {'overlapped': 'all overlapped', 'in_turn': 'in turn', 'serial': 'none overlapped'}
_NOTE = """\
all overlapped: the longest of arithmetic, memory and network. none overlapped: their sum. in turn:
every instruction for the longer of its arithmetic and its memory, then every collective by itself.
Utilisation is the model's operations (compute.py: no padding, no rematerialisation, every token
through the unembedding, also where a program leaves that out) over the peak."""


def size(number: float) -> str:
  """Bytes, as 1.5 GiB."""
  for unit, name in ((2 ** 40, 'TiB'), (GIB, 'GiB'), (2 ** 20, 'MiB')):
    if number >= unit / 10:
      return f'{number / unit:.2f} {name}'
  return f'{number / 2 ** 10:.1f} KiB'


def duration(seconds: float) -> str:
  return f'{seconds:.3g} s' if seconds >= 1 else f'{seconds * 1e3:.3g} ms'


def assumed(topology: Topology) -> str:
  """The peaks of a topology's chips, in a sentence."""
  chip = topology.chip
  where = 'measured here' if topology.local else "by the maker's data sheet"
  network = f', {chip.network / 1e9:.0f} GB/s to other chips' if chip.network else (
      ', a network that takes no time')
  return (f'{topology.name}: {len(topology.devices)} chips; each {chip.flops / 1e12:.4g} TFLOP/s '
          f'in bfloat16, {size(chip.memory)} of memory at {chip.bandwidth / 1e9:.4g} GB/s{network} '
          f'({where}).')


def show(plan: StagePlan, topology: Topology, steps: int, *, console=None) -> None:
  """Prints the plan of a stage for a person."""
  mesh = ', '.join(
      f'{name}={count}' for name, count in plan.mesh.items() if count > 1) or '1 device'
  title = f'stage {plan.name!r} ({plan.kind}), mesh {mesh}'
  metrics.print_table([_memory_row(one) for one in plan.estimates], f'{title}: memory of a chip',
                      console=console)
  metrics.print_table([_time_row(one) for one in plan.estimates if one.times],
                      f'{title}: an iteration', console=console)
  rows = [_traffic_row(one, traffic) for one in plan.estimates
          for traffic in one.figures.traffic[:4] if traffic.seconds * one.times > 1e-3]
  if rows:
    metrics.print_table(rows, f'{title}: its longest collectives', console=console)
  rows = [_part_row(one, part) for one in plan.estimates for part in one.figures.longest[:4]
          if part.seconds * one.times > 1e-3]
  if rows:
    metrics.print_table(rows, f'{title}: its longest instructions', console=console)
  metrics.print_table(_run_rows(plan, steps), f'{title}: the run', console=console)


def _memory_row(one: Estimate) -> dict[str, str]:
  figures = one.figures
  row = {'program': figures.name, 'arguments': size(figures.arguments),
         'outputs': size(figures.outputs - figures.aliased), 'temporaries': size(
             figures.temporaries), 'total': size(figures.total), 'besides': size(one.beside),
         'of the chip': f'{one.resident / one.chip.memory:.0%}', 'fits': 'yes'}
  return row if one.fits else row | {'fits': 'NO'}


def _time_row(one: Estimate) -> dict[str, str]:
  figures = one.figures
  if figures.too_large:
    return {'program': figures.name, 'runs': f'{one.times:g}', 'operations': 'unknown'}
  sent = sum(traffic.moved for traffic in figures.traffic)
  row = {'program': figures.name, 'runs': f'{one.times:g}',
         'operations': f'{figures.flops * one.times:.3g}',
         'memory': size(figures.bytes * one.times), 'network': size(sent * one.times)}
  for bound, name in BOUNDS.items():
    row[name] = duration(getattr(one, bound))
  row['utilisation'] = ' / '.join(
      f'{one.utilisation(getattr(one, bound)):.0%}' for bound in BOUNDS) if one.useful else '–'
  return row


def _traffic_row(one: Estimate, traffic) -> dict[str, str]:
  return {'program': one.figures.name, 'collective': traffic.kind, 'axes': traffic.axes,
          'of': traffic.shape, 'where': 'outside loops' if not traffic.loops else
          f'in {traffic.loops} loop{"s" if traffic.loops > 1 else ""}',
          'runs': f'{traffic.times * one.times:g}', 'sent': size(traffic.moved * one.times),
          'time': duration(traffic.seconds * one.times)}


def _part_row(one: Estimate, part) -> dict[str, str]:
  return {'program': one.figures.name, 'instruction': part.opcode, 'of': part.shape,
          'where': part.where.replace('closed_call/', '')[-40:],
          'runs': f'{part.times * one.times:g}', 'operations': f'{part.flops * one.times:.3g}',
          'memory': size(part.bytes * one.times),
          'time': duration(part.seconds * one.times)}


def _run_rows(plan: StagePlan, steps: int) -> list[dict[str, str]]:
  if plan.work is None:
    return [{'bound': 'it does not fit', 'an iteration': 'unknown'}]
  summary = summarise(plan, steps)
  return [{'bound': name, 'an iteration': duration(summary[bound]['seconds']),
           'tokens/s': f'{summary[bound]["tokens_per_second"]:,.0f}',
           'utilisation': f'{summary[bound]["utilisation"]:.1%}',
           f'chip-hours of {summary["iterations"]:,} iterations':
               f'{summary[bound]["chip_hours"]:,.1f}'} for bound, name in BOUNDS.items()]


def summarise(plan: StagePlan, steps: int) -> dict[str, Any]:
  """Of a stage's run: by bound the seconds of an iteration, tokens/s, utilisation, chip-hours.

  `steps` are optimiser updates; 0: as many as the stage has, or one iteration where its data say.
  """
  work, chips = plan.work, plan.estimates[0].num_chips
  iterations = (-(-steps // work.updates) if steps and work.updates else work.iterations) or 1
  found: dict[str, Any] = {'fits': plan.fits, 'iterations': iterations}
  for bound in BOUNDS:
    seconds = plan.seconds(bound)
    found[bound] = {
        'seconds': seconds, 'tokens_per_second': work.tokens / seconds if seconds else 0.0,
        'utilisation': plan.utilisation(bound),
        'chip_hours': iterations * seconds * chips / 3600}
  return found


def to_dict(plan: StagePlan, topology: Topology, steps: int) -> dict[str, Any]:
  """A plan as JSON has it; bytes, seconds, operations of one chip."""
  return {
      'stage': plan.name, 'kind': plan.kind, 'mesh': dict(plan.mesh), 'topology': topology.name,
      'chip': dataclasses.asdict(topology.chip), 'chips': len(topology.devices),
      'fits': plan.fits, 'programs': [_program_dict(one) for one in plan.estimates],
      'run': None if plan.work is None else summarise(plan, steps)}


def _program_dict(one: Estimate) -> dict[str, Any]:
  return dataclasses.asdict(one.figures) | {
      'times': one.times, 'beside': one.beside, 'resident': one.resident, 'fits': one.fits,
      'compute_seconds': one.compute_seconds, 'memory_seconds': one.memory_seconds,
      'network_seconds': one.network_seconds} | {
          bound: getattr(one, bound) for bound in BOUNDS} | {
              'utilisation': {bound: one.utilisation(getattr(one, bound)) for bound in BOUNDS}}


def note() -> str:
  return _NOTE


def show_search(found: Sequence[Mapping[str, Any]], *, console=None) -> None:
  """Prints what a search tried, in its order."""
  metrics.print_table(
      [{'settings': ' '.join(one['flags']) or 'as it is', 'memory of a chip': size(one['resident']),
        'an iteration, in turn': duration(one['seconds']) if one['seconds'] else '–',
        'fits': 'yes' if one['fits'] else 'NO'} for one in found],
      'search: settings compiled', console=console)
