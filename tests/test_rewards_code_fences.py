import hypothesis
import hypothesis.strategies as st
import pytest

from r1jax.rewards.code.fences import extract_program

SETTINGS = hypothesis.settings(deadline=None, derandomize=True, max_examples=50)
F = 'def f():\n    return 1'


@pytest.mark.parametrize('text, program', [
    (f'```python\n{F}\n```', F),
    (f'```py\n{F}\n```\nThat is it.', F),
    (f'```\n{F}\n```', F),
    (f'``` Python3 title="f"\n{F}\n``` ', F),
    (f'~~~python\n{F}\n~~~', F),
    (f'````python\n{F}\n```\n````', f'{F}\n```'),
    (f'```python\r\n{F}\r\n```\r\n'.replace('\n    ', '\r\n    '), F),
    (f'<think>so</think> <answer>```python\n{F}\n```</answer>', F),
    (f'<think>so</think>\n<answer>\n```python\n{F}\n```\n</answer>', F),
    (f'```python\nold\n```\nBetter:\n```python\n{F}\n```', F),
    (f'```python\n{F}\n```\nIt prints\n```text\n1\n```\nwhen run by\n```bash\npython f.py\n```', F),
    ('1. So:\n   ```python\n   def f():\n       return 1\n   ```', F),
    ('- ```python\n  def f():\n      return 1\n  ```', F),
    (f'   ```python\n{F}\n   ```', F),    # a margin that the program does not have
    ('> ```python\n> def f():\n>     return 1\n> ```', F),
    ('```python\ndef f():\n    """\n    ```\n    x\n    ```\n    """\n```',
     'def f():\n    """\n    ```\n    x\n    ```\n    """'),
    (f'```python\n{F}', F),    # as CommonMark: the text's end closes it
    (F, None), ('', None), ('```python\n```', None), ('```python\n \n```', None),
    (f'`{F}`', None), (f'```java\n{F}\n```', None), (f'``python\n{F}\n``', None),
    (f'<think>```python\n{F}\n```', None),
    (f'<think>```python\n{F}\n```</think> The program is above.', None),
    (f'<think>so</think> I quote </think>. ```python\n{F}\n```', None),    # inline, not a block
    (f'```python\nwrong\n```\n<think>so</think>\n```\n{F}\n```', F),
])
def test_the_program_is_the_last_block_after_the_thinking(text, program):
  assert extract_program(text) == program


def test_a_block_that_is_cut_is_no_program():
  cut = f'```python\nold\n```\n```python\n{F}'
  assert extract_program(cut) == F and extract_program(cut, truncated=True) is None
  assert extract_program(f'{cut}\n```\nIt', truncated=True) == F
  assert extract_program(f'```python\n{F}\n```\n```text\n1', truncated=True) == F


def test_a_prompt_may_open_the_thinking():
  text = f'so ```\n```python\n{F}\n```'
  assert extract_program(f'```\n{F}\n```', prompt_opens_think=True) is None
  assert extract_program(f'so</think>\n```\n{F}\n```', prompt_opens_think=True) == F
  assert extract_program(text) is not None


@SETTINGS
@hypothesis.given(st.text('`~ \n->ab<>/think', max_size=200), st.booleans())
def test_any_text_is_read(text, truncated):
  program = extract_program(text, truncated=truncated)
  assert program is None or program.strip()
