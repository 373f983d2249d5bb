"""Tables of results, in Markdown and on a terminal.

Both functions take rows of {column: cell}. A cell is text, a number, an estimate with its interval
as (value, low, high), or None. The columns are the keys in order of appearance; a cell that is None
or missing is shown as a dash.
"""
from collections.abc import Mapping, Sequence

from r1jax.errors import printable
from r1jax.metrics.labels import format_number
from r1jax.metrics.terminal import default_console


def format_table(rows: Sequence[Mapping[str, object]], title: str) -> str:
  """A Markdown table under its title.

  Args:
    rows: {column: cell} of each row; a cell is text, a number, (value, low, high) or None.
    title: printed in bold above the table.
  """
  columns, cells = _format_cells(rows)
  lines = [f'**{title}**', '', *(f'| {" | ".join(line)} |' for line in (
      columns, ['---'] + ['---:'] * (len(columns) - 1), *cells))]
  return '\n'.join(lines) + '\n'


def print_table(rows: Sequence[Mapping[str, object]], title: str, *, console=None) -> None:
  """Prints a table with rich, or as a list, row by row, if it is wider than the terminal.

  Args:
    rows: {column: cell} of each row; a cell is text, a number, (value, low, high) or None.
    title: printed above the table.
    console: a `rich.console.Console`; standard output if None.
  """
  import rich.table
  import rich.text
  columns, cells = _format_cells(rows)
  title = printable(title)
  table = rich.table.Table(title=rich.text.Text(title))
  for index, column in enumerate(columns):
    table.add_column(rich.text.Text(column), justify='right' if index else 'left')
  for row in cells:
    table.add_row(*map(rich.text.Text, row))
  console = console or default_console()
  widths = (max(map(len, column)) for column in zip(columns, *cells))
  if sum(widths) + 3 * len(columns) + 1 <= console.width:
    console.print(table)
    return
  console.print(rich.text.Text(title))
  for first, *others in cells:
    console.print(rich.text.Text(first))
    for column, value in zip(columns[1:], others):
      console.print(rich.text.Text(f'  {column:<{max(map(len, columns))}}  {value}'))


def _format_cells(rows: Sequence[Mapping[str, object]]) -> tuple[list[str], list[list[str]]]:
  """(columns, the text of each cell by row)."""
  columns = list(dict.fromkeys(name for row in rows for name in row))
  cells = [[_format_cell(row.get(name)) for name in columns] for row in rows]
  return [printable(column) for column in columns], cells


def _format_cell(value) -> str:
  if value is None:
    return '–'
  if isinstance(value, str):
    return printable(value)
  if isinstance(value, (tuple, list)):
    estimate, low, high = map(format_number, value)
    return f'{estimate} [{low}, {high}]'
  return format_number(value)
