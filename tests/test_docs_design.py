"""The files that docs/design.md names are where it says, and the rows are those of test_rows."""
import pathlib
import re

import test_rows

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / 'docs' / 'design.md').read_text()


def test_every_file_that_is_named_is_there():
  named = set(re.findall(r'`([\w/.]+\.(?:py|md))`', TEXT))
  assert len(named) > 15
  assert [name for name in named
          if not (ROOT / name).exists() and not (ROOT / 'r1jax' / name).exists()] == []


def test_the_path_from_an_experiment_to_the_loss_has_fifteen_files():
  steps = re.findall(r'^\| (\d+) `', TEXT, re.MULTILINE)
  assert steps == [str(number) for number in range(1, 16)]


def test_the_picture_shows_every_room_in_its_row():
  row, found = -1, {}
  for line in TEXT.split('```')[1].splitlines():
    if match := re.match(r' (\d) ', line):
      row = int(match[1])
    for name in re.findall(r'[a-z_]+/?', line[4:59]):
      found[name.rstrip('/')] = row
  assert found == test_rows.ROWS
