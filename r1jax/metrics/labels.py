"""How numbers and the names of metrics are shown to a person."""
from collections.abc import Iterable


def format_number(value: float) -> str:
  """About three significant digits: 0.412, 38.2, 1,234, 1.2e-05; an int is shown in full."""
  if isinstance(value, int):
    return f'{value:,}'
  size = abs(value)
  if 0 < size < 1e-3:
    return f'{value:.1e}'
  return f'{value:.3f}' if size < 10 else f'{value:.1f}' if size < 1000 else f'{value:,.0f}'


def reward_titles(names: Iterable[str]) -> dict[str, str]:
  """{'rewards/<name>/mean': '<name>'} of the reward components among the names of metrics."""
  return {name: name.removeprefix('rewards/').removesuffix('/mean') for name in names
          if name.startswith('rewards/') and name.endswith('/mean')}
