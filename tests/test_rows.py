"""The import direction of docs/design.md: from a file's own row or rows above, without cycles."""
import ast
import functools
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / 'r1jax'

# Module or package prefix -> row; the longest prefix that fits decides.
ROWS = {
    'records': 0, 'errors': 0, 'masked': 0, 'checks': 0, 'kernels': 0, 'runtime': 0,

    'advantages': 1, 'divergences': 1, 'losses': 1, 'models': 1,
    'sampling': 2, 'training': 2,
    'rewards': 2, 'data': 2, 'tokenization': 2, 'gguf_tokenizer': 2, 'prompting': 2,
    'checkpoint': 2, 'metrics': 2,
    'rollout': 3, 'evaluate': 3,
    'stages': 4,
    'pipeline': 5, 'preflight': 5, 'command': 5, 'stopping': 5, 'main': 5,
    'plan': 5, 'report': 5,
    'experiments': 5,    # no row of its own: only the command line looks experiments up by name
}


@functools.cache
def modules():
  # r1jax/kernels and r1jax/experiments are links, which rglob does not follow.
  paths = [*PACKAGE.rglob('*.py'), *(PACKAGE / 'kernels').glob('*.py'),
           *(PACKAGE / 'experiments').glob('*.py')]
  return {'.'.join(path.relative_to(PACKAGE).with_suffix('').parts): path
          for path in paths if path != PACKAGE / '__init__.py'}


def imported(path: pathlib.Path) -> set[str]:
  """Modules of r1jax that a file imports, anywhere in it, relative to the package."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      found |= {f'{node.module}.{alias.name}' for alias in node.names}
  return {name.removeprefix('r1jax.') for name in found
          if name.startswith('r1jax.') and name != 'r1jax.__version__'}


def row_of(module: str) -> int | None:
  return ROWS.get(module.split('.')[0])


def module_of(name: str) -> str | None:
  """The module that an imported name is, or is in."""
  known = modules()
  parts = name.split('.')
  for end in range(len(parts), 0, -1):
    for candidate in ('.'.join(parts[:end]), '.'.join([*parts[:end], '__init__'])):
      if candidate in known:
        return candidate
  return None


def test_every_module_has_a_row():
  assert {module for module in modules() if row_of(module) is None} == set()


def test_no_module_imports_from_a_row_below():
  wrong = [f'{module} (row {row_of(module)}) imports {name} (row {row_of(name)})'
           for module, path in modules().items() for name in imported(path)
           if row_of(name) > row_of(module)]
  assert wrong == []


def test_no_cycles():
  graph = {module: {m for name in imported(path) if (m := module_of(name)) and m != module}
           for module, path in modules().items()}

  def reaches_itself(start):
    seen, waiting = set(), [*graph[start]]
    while waiting:
      module = waiting.pop()
      if module not in seen:
        seen.add(module)
        waiting += graph.get(module, ())
    return start in seen

  assert [module for module in graph if reaches_itself(module)] == []


@pytest.mark.parametrize('room', [
    'losses', 'advantages', 'divergences', 'checks', 'masked', 'records'])
def test_losses_import_jax_numpy_and_their_row_alone(room):
  outside = {name for module, path in modules().items() if module.split('.')[0] == room
             for node in ast.walk(ast.parse(path.read_text()))
             for name in (
                 [alias.name for alias in node.names] if isinstance(node, ast.Import)
                 else [node.module] if isinstance(node, ast.ImportFrom) else [])
             if not name.startswith('r1jax')}
  assert outside <= {
      'jax', 'jax.numpy', 'numpy', 'collections.abc', 'dataclasses', 'difflib', 're', 'typing',
      'unicodedata'}
  assert 'jax' in outside or room == 'checks'
