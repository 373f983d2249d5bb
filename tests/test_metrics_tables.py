"""Tables in Markdown and on a terminal."""
import io

import rich.console

from r1jax import metrics


def test_tables_show_intervals_and_gaps():
  rows = [{'model': 'base', 'pass@1': (0.25, 0.21, 0.29), 'length': 14.25, 'problems': 500},
          {'model': '[b]trained', 'pass@1': (0.9, 0.87, 0.93), 'tokens': 12345.6, 'length': None}]
  assert metrics.format_table(rows, 'R1-Zero') == '''**R1-Zero**

| model | pass@1 | length | problems | tokens |
| --- | ---: | ---: | ---: | ---: |
| base | 0.250 [0.210, 0.290] | 14.2 | 500 | – |
| [b]trained | 0.900 [0.870, 0.930] | – | – | 12,346 |
'''
  out = io.StringIO()
  metrics.print_table(rows, 'R1-Zero', console=rich.console.Console(file=out, width=120))
  for word in ('R1-Zero', 'pass@1', '0.900 [0.870, 0.930]', '[b]trained', '500'):
    assert word in out.getvalue()
  narrow = io.StringIO()
  metrics.print_table(rows, 'R1-Zero', console=rich.console.Console(file=narrow, width=40))
  assert narrow.getvalue().splitlines()[:4] == [
      'R1-Zero', 'base', '  pass@1    0.250 [0.210, 0.290]', '  length    14.2']
