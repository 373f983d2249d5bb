"""How a stage declares its settings: each field once, with type, range, default, meaning and kind.

A stage's settings are a `Section` of `Field`s and other sections. From that one table come

  - the default config (`Section.default`), which experiment files copy and change;
  - validation (`Section.faults`): all faults are found at once, before anything is loaded;
  - the list that `--help_config` prints (`describe`);
  - what identifies a result (`Section.computed`).

There are two kinds of fields. Most decide *what is computed* and are part of a result's identity.
The others (`how=True`) decide how it is run, watched or measured: changing one neither restarts a
run nor invalidates a finished one.
"""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
import dataclasses
import math
from typing import Any

import jax

from r1jax import checks
from r1jax.errors import UserError
from r1jax.runtime import sharding

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Field:
  """One setting. Its type is that of its default; an int serves as a float, a list as a tuple.

  Floats must be finite. The bounds are those of numbers.

  Attributes:
    default: the value where nothing is set.
    meaning: one sentence, with units.
    choices: the words or numbers that it may be, if only some are.
    at_least, at_most: bounds that are allowed themselves.
    above, below: bounds that are not.
    how: whether it only decides how the run is done, watched or measured.
    extends: the run goes on from its last checkpoint when this number is raised; 0 is no limit.
    exports: whether it only decides how the result is written, which a run that goes on from its
      last checkpoint does again.
    restart: why a change starts the run again, where a reader would expect it to go on.
    names: what outside the config the value names: 'files' (paths), 'splits' (a folder of
      train.jsonl and test.jsonl) or 'model' (a path); what is there is part of the identity.
    type: of the values besides None, where the default is None.
  """
  default: Any
  meaning: str
  choices: Collection = ()
  at_least: float = -math.inf
  at_most: float = math.inf
  above: float = -math.inf
  below: float = math.inf
  how: bool = False
  extends: bool = False
  exports: bool = False
  restart: str = ''
  names: str = ''
  type: type = object

  def faults(self, value: Any, path: str) -> Iterator[str]:
    """What is wrong with a value, as sentences that begin with the field's path."""
    if value is None and self.default is None:
      return
    expected = self.type if self.default is None else type(self.default)
    allowed = {float: (float, int), tuple: (tuple, list)}.get(expected, (expected,))
    if expected is not object and (
        not isinstance(value, allowed) or isinstance(value, bool) != (expected is bool)):
      example = ' or None' if self.default is None else f' such as {self.default!r}'
      yield (f'{path} must be {_article(expected.__name__)}{example}, got '
             f'{value!r} ({_article(type(value).__name__)})')
    elif self.choices and value not in self.choices:
      yield (f'{path} must be one of {", ".join(repr(choice) for choice in self.choices)}, got '
             f'{value!r}{_nearest(value, self.choices)}')
    elif expected in (int, float) and not self._in_range(value):
      yield f'{path} must be {self.range}, got {value!r}'

  def _in_range(self, value: Any) -> bool:
    # The bounds that are not allowed themselves refuse infinities, and all refuse nan.
    return self.at_least <= value <= self.at_most and self.above < value < self.below

  @property
  def range(self) -> str:
    """The numbers that are allowed, in words: 'at least 0 and below 1'."""
    bounds = [f'{word} {bound:.10g}' for word, bound in (
        ('at least', self.at_least), ('above', self.above), ('at most', self.at_most),
        ('below', self.below)) if math.isfinite(bound)]
    return ' and '.join(bounds) or 'a finite number'

  def computed(self, value: Any) -> Any:
    """The value as it enters the identity: an int where a float is meant counts as that float."""
    return float(value) if isinstance(self.default, float) and _is_number(value) else value


@dataclasses.dataclass(frozen=True)
class Section:
  """Fields that belong together.

  Attributes:
    fields: by name, in the order in which they are listed.
    meaning: what they are for.
    pairs: what is wrong with values that are right by themselves, as sentences that begin with a
      field's name.
    how: as of Field, for the whole section.
    partial: whether fields that are left out have their defaults; by default, all are left out.
  """
  fields: Mapping[str, Field | Section | Named | Entries | Sections | Weights]
  meaning: str = ''
  pairs: Callable[[Config], Iterable[str]] = lambda config: ()
  how: bool = False
  partial: bool = False

  @property
  def default(self) -> dict[str, Any]:
    """The default of every field; a new dict."""
    return {} if self.partial else self.filled({})

  def filled(self, config: Config) -> dict[str, Any]:
    """The config, with the default of every field that it lacks."""
    return {name: field.default for name, field in self.fields.items()} | dict(config)

  def check(self, config: Any, path: str) -> None:
    """Raises one UserError that names all that is wrong with a config, if anything is."""
    refuse(self.faults(config, path))

  def faults(self, config: Any, path: str) -> Iterator[str]:
    """All that is wrong with a config, as sentences that begin with a field's path."""
    if not isinstance(config, Mapping):
      yield f'{path} must hold the fields {", ".join(self.fields)}, got {config!r}'
      return
    config = self.filled(config) if self.partial else config
    found = [fault for name, value in config.items()
             for fault in self._faults_of(name, value, path)]
    found += [f'{path}.{name} is missing; its default is {field.default!r}'
              for name, field in self.fields.items() if name not in config]
    yield from found or (f'{path}.{fault}' for fault in self.pairs(config))

  def _faults_of(self, name: str, value: Any, path: str) -> Iterator[str]:
    if name in self.fields:
      yield from self.fields[name].faults(value, f'{path}.{name}')
    else:
      advice = (f'did you mean {path}.{checks.nearest(name, self.fields)}?' if self.fields else
                f'{path} has none')
      yield f'{path}.{name} is not a field: {advice}'

  def computed(self, config: Config) -> Any:
    """The fields that decide what is computed; those that are not known here count among them.

    As of all `computed`: what has not the form that is declared here, as in a config that another
    version of r1jax has written, stays as it is.
    """
    if not isinstance(config, Mapping):
      return config
    config = self.filled(config) if self.partial else config
    known = {name: self.fields[name].computed(value) for name, value in config.items()
             if name in self.fields and not self.fields[name].how}
    return known | {name: value for name, value in config.items() if name not in self.fields}


@dataclasses.dataclass(frozen=True)
class Named:
  """A section whose field `name` chooses its other fields; those left out have their defaults.

  Attributes:
    sections: by name.
    meaning: what is chosen.
    required: whether it must not be left empty.
    how: as of Field.
  """
  sections: Mapping[str, Section]
  meaning: str
  required: bool = True
  how: bool = False

  @property
  def default(self) -> dict[str, Any]:
    """Nothing is chosen."""
    return {}

  def faults(self, config: Any, path: str) -> Iterator[str]:
    """As `Section.faults`."""
    if not isinstance(config, Mapping):
      yield f'{path} must hold a name and its fields, got {config!r}'
    elif config or self.required:
      name = config.get('name')
      section = self.sections.get(str(name))
      if section is not None:
        yield from section.faults(self._filled(config), path)
      else:
        yield (f'{path}.name must be one of {", ".join(map(repr, self.sections))}, got {name!r}'
               f'{_nearest(name, self.sections)}')

  def _filled(self, config: Config) -> dict[str, Any]:
    fields = {field: value for field, value in config.items() if field != 'name'}
    return self.sections[config['name']].default | fields

  def computed(self, config: Config) -> Any:
    """As `Section.computed`, with the name and the defaults."""
    if not isinstance(config, Mapping) or config.get('name') not in [*self.sections]:
      return config
    return {'name': config['name'],
            **self.sections[config['name']].computed(self._filled(config))}


@dataclasses.dataclass(frozen=True)
class Entries:
  """Any number of sections of one form, by names of the user's choice.

  Attributes:
    section: the form of each.
    meaning: what they are for.
    partial: whether fields that are left out have their defaults.
    how: as of Field.
  """
  section: Section
  meaning: str
  partial: bool = False
  how: bool = False

  @property
  def default(self) -> dict[str, Any]:
    """None."""
    return {}

  def faults(self, config: Any, path: str) -> Iterator[str]:
    """As `Section.faults`."""
    if not isinstance(config, Mapping):
      yield (f'{path} must hold names, each with the fields {", ".join(self.section.fields)}, '
             f'got {config!r}')
      return
    yield from checks.name_faults(config, path)
    for name, entry in config.items():
      yield from self.section.faults(self._filled(entry), f'{path}.{name}')

  def _filled(self, entry: Any) -> Any:
    return self.section.default | dict(entry) if self.partial and isinstance(
        entry, Mapping) else entry

  def computed(self, config: Config) -> Any:
    """As `Section.computed`, of each."""
    if not isinstance(config, Mapping):
      return config
    return {name: self.section.computed(self._filled(entry)) for name, entry in config.items()}


@dataclasses.dataclass(frozen=True)
class Sections:
  """Settings of some of several things; those left out have their defaults.

  Attributes:
    sections: by name, all that there are.
    meaning: of what.
    how: as of Field.
  """
  sections: Mapping[str, Section]
  meaning: str
  how: bool = False

  @property
  def default(self) -> dict[str, Any]:
    """None."""
    return {}

  def faults(self, config: Any, path: str) -> Iterator[str]:
    """As `Section.faults`."""
    if not isinstance(config, Mapping):
      yield f'{path} must hold names, each with its settings, got {config!r}'
      return
    for name, given in config.items():
      if name not in self.sections:
        yield (f'{path}.{name} is not one of {", ".join(self.sections)}'
               f'{_nearest(name, self.sections)}')
      else:
        yield from self.sections[name].faults(self._filled(name, given), f'{path}.{name}')

  def _filled(self, name: str, given: Any) -> Any:
    return self.sections[name].default | dict(given) if isinstance(given, Mapping) else given

  def computed(self, config: Config) -> Any:
    """As `Section.computed`, of each, with the defaults."""
    if not isinstance(config, Mapping):
      return config
    return {name: self.sections[name].computed(self._filled(name, given))
            if name in self.sections else given for name, given in config.items()}


@dataclasses.dataclass(frozen=True)
class Weights:
  """A finite weight for each of some names.

  Attributes:
    names: those that there are.
    meaning: what is weighted.
    how: as of Field.
  """
  names: Collection[str]
  meaning: str
  how: bool = False

  @property
  def default(self) -> dict[str, float]:
    """None."""
    return {}

  def faults(self, config: Any, path: str) -> Iterator[str]:
    """As `Section.faults`."""
    if not isinstance(config, Mapping):
      yield (f'{path} must hold weights by name, such as {{{next(iter(self.names))!r}: 1.0}}, '
             f'got {config!r}')
      return
    for name, weight in config.items():
      if name not in self.names:
        yield (f'{path}.{name} is not one of {", ".join(self.names)}'
               f'{_nearest(name, self.names)}')
      elif isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(
          weight):
        yield f'{path}.{name} must be a finite number, got {weight!r}'

  def computed(self, config: Config) -> Any:
    """The weights, all as floats."""
    if not isinstance(config, Mapping):
      return config
    return {name: float(weight) if _is_number(weight) else weight
            for name, weight in config.items()}


Spec = Field | Section | Named | Entries | Sections | Weights


def refuse(faults: Iterable[str]) -> None:
  """Raises one UserError that names all faults, if there are any."""
  found = list(faults)
  if found:
    raise UserError(found[0] if len(found) == 1 else f'{len(found)} settings are wrong: ' +
                     '; '.join(f'({number}) {fault}' for number, fault in enumerate(found, 1)))


def check_mesh(config: Mapping[str, Any], mesh: jax.sharding.Mesh, where: str) -> None:
  """Refuses a mesh that cannot split a training batch into whole groups, rows and places.

  Args:
    config: the stage's; one without micro-batches does not train, and any mesh will do.
    mesh: the mesh of devices.
    where: the path of the config.

  Raises:
    UserError: naming the field, and of what it must be a multiple.
  """
  if 'micro_batches' not in config:
    return
  packing = config.get('packing') or {}
  if packing.get('row_length'):
    rows, length = f'{where}.packing.rows', f'{where}.packing.row_length'
    sizes = [('batch', rows, packing['rows']), ('sequence', length, packing['row_length'])]
  else:
    field = 'rows' if 'rows' in config else 'prompts_per_batch'
    divisors = [name for name in ('mini_batches', 'micro_batches') if config.get(name, 1) > 1]
    sizes = [('batch', ' / '.join((f'{where}.{field}', *divisors)),
              config[field] // math.prod(config[name] for name in divisors))]
    sizes += [('sequence', f'{where}.{name}', config[name])
              for name in ('row_length', 'max_prompt_length') if name in config]
    if 'sampling' in config:
      sizes.append(('sequence', f'{where}.sampling.max_new_tokens',
                    config['sampling']['max_new_tokens']))
  for axis, what, size in sizes:
    sharding.check_divides(mesh, axis, size, what)


def plain(config: Any) -> Any:
  """A config (ConfigDict or dict) as dicts, lists and numbers."""
  config = config.to_dict() if hasattr(config, 'to_dict') else config
  if isinstance(config, Mapping):
    return {key: plain(value) for key, value in config.items()}
  return [plain(value) for value in config] if isinstance(config, (list, tuple)) else config


def changed_fields(section: Section, before: Config, after: Config, path: str) -> list[str]:
  """The fields by which two configs compute different things, as ['config.sampling.top_p']."""
  return _differences(section.computed(before), section.computed(after), path)


def _differences(before: Config, after: Config, path: str) -> list[str]:
  changed = []
  for name in sorted(before.keys() | after.keys()):
    old, new = (plain(config.get(name)) for config in (before, after))
    if isinstance(old, Mapping) and isinstance(new, Mapping):
      changed += _differences(old, new, f'{path}.{name}')
    elif old != new or (name in before) != (name in after):
      changed.append(f'{path}.{name}')
  return changed


def describe(section: Section, config: Config, path: str) -> list[str]:
  """The fields of a config as lines: path = value, the default where it is another, the meaning."""
  lines = []
  for name, field in section.fields.items():
    value = config.get(name, field.default)
    if isinstance(field, Section):
      lines += [f'{path}.{name}: {field.meaning}'] if field.meaning else []
      lines += describe(field, value, f'{path}.{name}')
      continue
    default = '' if plain(value) == plain(field.default) else f' (default {field.default!r})'
    kind = ' [how]' if field.how or section.how else ''
    lines.append(f'{path}.{name} = {value!r}{default}{kind}')
    lines.append(f'    {field.meaning}{_allowed(field)}')
    if isinstance(field, Entries):
      for entry, fields in value.items():
        lines += [f'  {line}' for line in describe(field.section, fields, f'{path}.{name}.{entry}')]
    if isinstance(field, Sections):
      for entry, fields in value.items():
        lines += [f'  {line}' for line in describe(
            field.sections[entry], fields, f'{path}.{name}.{entry}')]
    if isinstance(field, Named) and value.get('name') in field.sections:
      lines += [f'  {line}' for line in describe(
          field.sections[value['name']], value, f'{path}.{name}')]
  return lines


def _allowed(field: Field | Named | Entries | Sections | Weights) -> str:
  if isinstance(field, Named):
    return f'; name: one of {", ".join(field.sections)}'
  if isinstance(field, Weights):
    return f'; of {", ".join(field.names)}'
  if isinstance(field, Sections):
    return ''.join(f'; of {name}: {", ".join(section.fields)}'
                   for name, section in field.sections.items() if section.fields)
  if not isinstance(field, Field):
    return ''
  if len(field.choices) > 1:
    return f'; one of {", ".join(map(repr, field.choices))}'
  bounded = type(field.default) in (int, float) and field.range != 'a finite number'
  return f'; {field.range}' if bounded else ''


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _nearest(word: Any, words: Iterable) -> str:
  if not isinstance(word, str):
    return ''
  return f': did you mean {checks.nearest(word, map(str, words))!r}?'


def _article(name: str) -> str:
  return f'{"an" if name[0] in "aeiou" else "a"} {name}'
