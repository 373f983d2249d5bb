"""Every mistake in docs/pitfalls.md names its tests, and they exist."""
import re

import pytest
import runs

# 34 of the list that the rows come from is not covered yet.
NUMBERS = [*range(1, 34), 35, 36]
ROWS = re.findall(r'^\| (\d+) \| (.+) \| (.*) \|$',
                  (runs.ROOT / 'docs' / 'pitfalls.md').read_text(), re.MULTILINE)


def functions_of(room):
  path = runs.ROOT / 'tests' / f'test_{room}.py'
  return set(re.findall(r'^def (test_\w+)\(', path.read_text(), re.MULTILINE))


def named(cell):
  """(room, name) of every test that a row names."""
  return [(room, name) for part in cell.split('; ') for room, names in [part.split(': ')]
          for name in names.split(', ')]


def test_every_mistake_has_its_row():
  assert [int(number) for number, _, _ in ROWS] == NUMBERS


@pytest.mark.parametrize('number, cell', [(int(number), cell) for number, _, cell in ROWS])
def test_every_test_that_a_row_names_is_there(number, cell):
  prefix = f'test_pitfall_{number:02d}_'
  found = {(room, name): {prefix + name, f'test_{name}'} & functions_of(room)
           for room, name in named(cell)}
  assert not [missing for missing, tests in found.items() if not tests]
  assert any(test.startswith(prefix) for tests in found.values() for test in tests)


def test_every_test_named_after_a_mistake_has_its_number_in_two_digits():
  for path in (runs.ROOT / 'tests').glob('test_*.py'):
    for test in functions_of(path.stem.removeprefix('test_')):
      if 'pitfall' in test and path.stem != 'test_pitfalls':
        number = re.match(r'test_pitfall_(\d\d)_', test)
        assert number and int(number[1]) in NUMBERS, (path.name, test)
