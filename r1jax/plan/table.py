"""Shows a plan as tables on a terminal, and as JSON."""
from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from r1jax import metrics
from r1jax.errors import UserError
from r1jax.plan.compiler import Traffic
from r1jax.plan.costs import InstructionCost
from r1jax.plan.estimate import Estimate, StagePlan
from r1jax.plan.topology import Topology
from r1jax.runtime import hardware
from r1jax.runtime.hardware import GIB

BOUNDS = {'overlapped': 'all overlapped', 'in_turn': 'in turn', 'serial': 'none overlapped'}
NOTE = """\
all overlapped: the longest of arithmetic, memory and network. none overlapped: their sum. in turn:
every instruction takes the longer of its arithmetic and its memory, and collectives run by
themselves. Utilisation is the model's operations over the peak. They are counted by
r1jax/models/compute.py: without padding and rematerialisation, and with every token through the
unembedding, even where a program leaves that out. Useful row-steps: of what decoding computes, the
share that belongs to completions; their lengths are lognormal where a mean length is given."""
_MAX_ROWS = 4             # collectives and instructions that are shown per program
_MIN_SECONDS = 1e-3       # per iteration, of those that are shown


def format_bytes(number: float) -> str:
  """Bytes, as '1.50 GiB'."""
  for unit, name in ((2 ** 40, 'TiB'), (GIB, 'GiB'), (2 ** 20, 'MiB')):
    if number >= unit / 10:
      return f'{number / unit:.2f} {name}'
  return f'{number / 2 ** 10:.1f} KiB'


def format_seconds(seconds: float) -> str:
  """Seconds, as '1.5 s' or '20 ms'."""
  return f'{seconds:.3g} s' if seconds >= 1 else f'{seconds * 1e3:.3g} ms'


def describe(topology: Topology) -> str:
  """One sentence: the devices, and what each of them can do."""
  chip = topology.chip
  known = not topology.local or topology.devices[0].device_kind in hardware.DEVICE_KINDS
  source = "by the maker's data sheet" if known else 'measured here'
  network = f', {chip.network / 1e9:.0f} GB/s to other chips' if chip.network else (
      ', a network that takes no time')
  return (f'{topology.name}: {len(topology.devices)} chips; each {chip.flops / 1e12:.4g} TFLOP/s '
          f'in bfloat16, {format_bytes(chip.memory)} of memory at {chip.bandwidth / 1e9:.4g} '
          f'GB/s{network} ({source}).')


def show(plan: StagePlan, topology: Topology, steps: int, *, console=None) -> None:
  """Prints the plan of a stage.

  Args:
    plan: what to print.
    topology: the devices of the plan.
    steps: optimizer updates that chip-hours are for; see `summarise`.
    console: a `rich.console.Console`; None is standard output.
  """
  mesh = ', '.join(
      f'{name}={count}' for name, count in plan.mesh.items() if count > 1) or '1 device'
  title = f'stage {plan.name!r} ({plan.kind}), mesh {mesh}'
  metrics.print_table([_memory_row(one) for one in plan.estimates], f'{title}: memory of a chip',
                      console=console)
  metrics.print_table([_time_row(one) for one in plan.estimates if one.times],
                      f'{title}: an iteration', console=console)
  rows = [_traffic_row(one, traffic) for one in plan.estimates
          for traffic in one.figures.traffic[:_MAX_ROWS]
          if traffic.seconds * one.times > _MIN_SECONDS]
  if rows:
    metrics.print_table(rows, f'{title}: its longest collectives', console=console)
  rows = [_instruction_row(one, instruction) for one in plan.estimates
          for instruction in one.figures.longest[:_MAX_ROWS]
          if instruction.seconds * one.times > _MIN_SECONDS]
  if rows:
    metrics.print_table(rows, f'{title}: its longest instructions', console=console)
  metrics.print_table(_run_rows(plan, steps), f'{title}: the run', console=console)


def _memory_row(one: Estimate) -> dict[str, str]:
  figures = one.figures
  return {
      'program': figures.name, 'arguments': format_bytes(figures.arguments),
      'outputs': format_bytes(figures.outputs - figures.aliased),
      'temporaries': format_bytes(figures.temporaries), 'total': format_bytes(figures.total),
      'besides': format_bytes(one.beside), 'of the chip': f'{one.resident / one.chip.memory:.0%}',
      'fits': 'yes' if one.fits else 'NO'}


def _time_row(one: Estimate) -> dict[str, str]:
  figures = one.figures
  if figures.too_large:
    return {'program': figures.name, 'runs': f'{one.times:g}', 'operations': 'unknown'}
  sent = sum(traffic.moved for traffic in figures.traffic)
  row = {'program': figures.name, 'runs': f'{one.times:g}',
         'operations': f'{figures.flops * one.times:.3g}',
         'memory': format_bytes(figures.bytes * one.times),
         'network': format_bytes(sent * one.times)}
  for bound, title in BOUNDS.items():
    row[title] = format_seconds(getattr(one, bound))
  row['utilisation'] = ' / '.join(
      f'{one.utilisation(getattr(one, bound)):.0%}' for bound in BOUNDS) if one.useful else '–'
  return row


def _traffic_row(one: Estimate, traffic: Traffic) -> dict[str, str]:
  where = f'in {traffic.loops} loop{"s" if traffic.loops > 1 else ""}'
  return {'program': one.figures.name, 'collective': traffic.kind, 'axes': traffic.axes,
          'of': traffic.shape, 'where': where if traffic.loops else 'outside loops',
          'runs': f'{traffic.times * one.times:g}',
          'sent': format_bytes(traffic.moved * one.times),
          'time': format_seconds(traffic.seconds * one.times)}


def _instruction_row(one: Estimate, instruction: InstructionCost) -> dict[str, str]:
  return {'program': one.figures.name, 'instruction': instruction.opcode, 'of': instruction.shape,
          'where': instruction.where.replace('closed_call/', '')[-40:],
          'runs': f'{instruction.times * one.times:g}',
          'operations': f'{instruction.flops * one.times:.3g}',
          'memory': format_bytes(instruction.bytes * one.times),
          'time': format_seconds(instruction.seconds * one.times)}


def _run_rows(plan: StagePlan, steps: int) -> list[dict[str, str]]:
  if plan.work is None:
    return [{'bound': 'it does not fit', 'an iteration': 'unknown'}]
  summary, drawn = summarise(plan, steps), plan.work.useful_row_steps
  of_decoding = {} if drawn is None else {'useful row-steps': f'{drawn:.0%}'}
  return [{'bound': title, 'an iteration': format_seconds(summary[bound]['seconds']),
           'tokens/s': f'{summary[bound]["tokens_per_second"]:,.0f}',
           'utilisation': f'{summary[bound]["utilisation"]:.1%}',
           f'chip-hours of {summary["iterations"]:,} iterations':
               f'{summary[bound]["chip_hours"]:,.1f}',
           **of_decoding} for bound, title in BOUNDS.items()]


def summarise(plan: StagePlan, steps: int) -> dict[str, Any]:
  """What a run of the stage takes: by bound, seconds of an iteration, tokens/s, chip-hours.

  Args:
    plan: one whose `work` is known.
    steps: optimizer updates that chip-hours are for; 0: as many as the stage has, or one iteration
      where that depends on its data.
  """
  work, num_chips = plan.work, plan.estimates[0].num_chips
  if work is None:
    raise UserError(f'stage {plan.name!r} has no work to summarise: a program of it does not fit')
  iterations = (-(-steps // work.updates) if steps and work.updates else work.iterations) or 1
  found: dict[str, Any] = {'fits': plan.fits, 'iterations': iterations,
                           'useful_row_steps': work.useful_row_steps}
  for bound in BOUNDS:
    seconds = plan.seconds(bound)
    found[bound] = {
        'seconds': seconds, 'tokens_per_second': work.tokens / seconds if seconds else 0.0,
        'utilisation': plan.utilisation(bound),
        'chip_hours': iterations * seconds * num_chips / 3600}
  return found


def to_dict(plan: StagePlan, topology: Topology, steps: int) -> dict[str, Any]:
  """A plan as `--json` writes it; bytes, seconds and operations are those of one chip."""
  return {
      'stage': plan.name, 'kind': plan.kind, 'mesh': dict(plan.mesh), 'topology': topology.name,
      'chip': dataclasses.asdict(topology.chip), 'chips': len(topology.devices),
      'fits': plan.fits, 'programs': [_program_dict(one) for one in plan.estimates],
      'run': None if plan.work is None else summarise(plan, steps)}


def _program_dict(one: Estimate) -> dict[str, Any]:
  bounds = {bound: getattr(one, bound) for bound in BOUNDS}
  return dataclasses.asdict(one.figures) | {
      'times': one.times, 'beside': one.beside, 'resident': one.resident, 'fits': one.fits,
      'compute_seconds': one.compute_seconds, 'memory_seconds': one.memory_seconds,
      'network_seconds': one.network_seconds, **bounds,
      'utilisation': {bound: one.utilisation(seconds) for bound, seconds in bounds.items()}}


def show_search(tried: Sequence[Mapping[str, Any]], *, console=None) -> None:
  """Prints what a search compiled, in its order."""
  metrics.print_table(
      [{'settings': ' '.join(one['flags']) or 'as it is',
        'memory of a chip': format_bytes(one['resident']),
        'an iteration, in turn': format_seconds(one['seconds']) if one['seconds'] else '–',
        'fits': 'yes' if one['fits'] else 'NO'} for one in tried],
      'search: settings compiled', console=console)
