"""The examples of docs/losses.md run as they stand there, and its tables name what there is."""
import inspect
import pathlib
import re

import pytest

from r1jax import advantages, losses

TEXT = (pathlib.Path(__file__).parents[1] / 'docs' / 'losses.md').read_text()
EXAMPLES = re.findall(r'^```python\n(.*?)^```$', TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize('number, needs', [(0, 'flax'), (1, 'equinox')])
def test_the_example_learns(number, needs, capsys):
  pytest.importorskip(needs, reason=f'{needs} is not installed')
  assert len(EXAMPLES) == 2 and f'{needs}' in EXAMPLES[number].split('\n')[0]
  namespace = {}
  exec(compile(EXAMPLES[number], f'docs/losses.md, example {number + 1}', 'exec'), namespace)
  rewards = namespace['rewards']
  assert rewards[0] < 0.3 and rewards[-1] > rewards[0] + 0.4
  assert capsys.readouterr().out.startswith('reward')


def test_every_function_that_it_names_is_there_and_every_loss_is_named():
  rows = ''.join(line for line in TEXT.splitlines() if line.startswith('| `'))
  named = set(re.findall(r'`(\w+)', rows))
  missing = {name for name in named if not hasattr(losses, name) and not hasattr(advantages, name)}
  assert missing <= {'double_or_halve'}
  assert {name for name in vars(losses) if name.endswith('_loss')} <= named | {'policy_loss'}
  assert {name for name, value in vars(advantages).items() if inspect.isfunction(value)
          and value.__module__ == advantages.__name__ and not name.startswith('_')} <= named
