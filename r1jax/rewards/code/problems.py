"""Problems with hidden tests, read from the common public forms.

A form is recognised by its shape (docs/data.md has an example of each):

  - `input_output` of TACO, APPS and others: {"inputs": [...], "outputs": [...]}, with `fn_name`
    where a function is called. Without it, an input is the text on standard input, and an output
    what is expected on standard output; a list of texts stands for lines. CodeContests has the
    same as {"input": [...], "output": [...]}.
  - `test_cases` of PrimeIntellect and LiveCodeBench: a list of {"input": ..., "output": ...}.
  - `test_list` of MBPP: a list of assertions.
  - `test` of HumanEval and LeetCodeDataset: the text of `def check(candidate)`, with the column
    `entry_point`.
  - Our own: {"inputs": [...], "outputs": [...], "function": ...}.

The first two may be JSON within a text.
"""
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import itertools
import json
from typing import Any

from r1jax.errors import UserError
from r1jax.rewards.code import compare
from r1jax.rewards.code.asserts import Call, Expectation, split_asserts, split_check
from r1jax.rewards.code.constants import plain

MAX_OUTPUT = 1_000_000    # characters that a run may write
_FUNCTION = ('fn_name', 'func_name', 'function', 'entry_point')
_STDIN = ('stdin', 'stdin_stdout', 'stdio')


@dataclasses.dataclass(frozen=True)
class Test:
  """What a program is given, and what is expected of it.

  Attributes:
    given: the text on standard input, or the arguments of a call.
    expected: the text on standard output, or what is expected of the value that is returned.
    named: further arguments of a call, by name.
  """
  given: str | tuple
  expected: str | Expectation
  named: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def passed(self, value: Any) -> bool:
    """Whether a run that printed or returned `value` passes."""
    if isinstance(self.expected, str):
      return isinstance(value, str) and compare.same_output(value, self.expected)
    return self.expected.met(value)


@dataclasses.dataclass(frozen=True)
class Problem:
  """The tests of a problem.

  Attributes:
    function: the name of the function that is called; None for programs that read standard input.
      `'Solution.f'` is a method of an object that is made without arguments.
    tests: at least one.
  """
  function: str | None
  tests: tuple[Test, ...]


def read_problem(tests: Any, example: Mapping[str, Any] | None = None) -> Problem:
  """The problem that the tests of an example state, in one of the forms of this module.

  Args:
    tests: as they stand in the data.
    example: its other columns: `entry_point` (or `fn_name`) names the function where the tests do
      not, and a `starter_code` with `class Solution` says that it is a method of that.

  Raises:
    UserError: they have another form, or a test that cannot be split into inputs and what is
      expected: a clause that says what is wrong with them.
  """
  example = example or {}
  try:
    problem = _read(tests, example)
  except RecursionError:
    raise UserError('is nested too deeply') from None
  if all(test.expected == '' for test in problem.tests):
    raise UserError('expects no output of any test, so that an empty program would pass')
  starter = example.get('starter_code')
  if problem.function and '.' not in problem.function and 'class Solution' in (
      starter if isinstance(starter, str) else ''):
    return dataclasses.replace(problem, function=f'Solution.{problem.function}')
  return problem


def _read(tests: Any, example: Mapping[str, Any]) -> Problem:
  match tests:
    case str() if tests.lstrip()[:1] in ('{', '['):
      return _read_structure(_parse_json(tests), example)
    case str() if 'def check(' in tests:
      return _of_calls(split_check(tests, _function(example) or _no_entry_point()))
    case str() if 'assert' in tests:
      return _of_calls(split_asserts(tests, _function(example)))
  return _read_structure(tests, example)


def _read_structure(tests: Any, example: Mapping[str, Any]) -> Problem:
  match tests:
    case {'test_cases': cases}:
      return _read(cases, {**example, **tests})
    case {'inputs': list() as inputs, 'outputs': list() as outputs} | {
        'input': list() as inputs, 'output': list() as outputs}:
      if len(inputs) != len(outputs):
        raise UserError(f'has {len(inputs)} inputs and {len(outputs)} outputs, give one for each')
      return _of_pairs(
          inputs, outputs, _function(tests) or _function(example), exact='function' in tests)
    case {'test_list': list() as lines}:
      return _read_structure(lines, example)
    case {'test': str() as text}:
      return _read(text, {**example, **tests})
    case [str(), *_] if all(isinstance(line, str) for line in tests):
      return _of_lines(tests, _function(example))
    case [{}, *_]:
      return _of_cases(tests, example)
  raise UserError('has none of the known forms, such as {"inputs": [...], "outputs": [...]} or '
                  '["assert f(1) == 2", ...]')


def _parse_json(text: str) -> Any:
  try:
    return json.loads(text, object_pairs_hook=_unique)
  except ValueError as error:
    raise UserError(f'is not valid JSON ({error})') from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  if len(dict(pairs)) < len(pairs):
    raise ValueError('a name appears twice')
  return dict(pairs)


def _function(columns: Mapping[str, Any]) -> str | None:
  """The name of the function that columns give."""
  for column in _FUNCTION:
    name = columns.get(column)
    if name not in (None, ''):
      name = name.replace('()', '') if isinstance(name, str) else name    # Solution().f
      if not isinstance(name, str) or not all(part.isidentifier() for part in name.split('.')) or (
          name.count('.') > 1):
        raise UserError(f'has {column}={name!r}, name a function as "f" or "Solution.f"')
      return name
  return None


def _no_entry_point() -> str:
  raise UserError('has check(candidate), and there is no "entry_point" that names the function')


# Assertions.


def _of_lines(lines: Sequence[str], function: str | None) -> Problem:
  calls: list[Call] = []
  for place, line in enumerate(lines):
    try:
      calls += split_asserts(line, function)
    except UserError as error:
      raise UserError(f'has a test, number {place + 1}, that {error}') from None
  return _of_calls(calls)


def _of_calls(calls: Sequence[Call]) -> Problem:
  names = list(dict.fromkeys(call.function for call in calls))
  if len(names) > 1:
    raise UserError(f'calls several functions ({", ".join(names)}), test one')
  return Problem(names[0], tuple(
      Test(call.arguments, call.expectation, call.named) for call in calls))


# Inputs and outputs.


def _of_cases(cases: Sequence[Any], columns: Mapping[str, Any]) -> Problem:
  """The problem of a list of {"input", "output"}, which may say how they are tested."""
  language = columns.get('language', 'python')
  if language not in ('python', 'python3', '', None):
    raise UserError(f'is for the language {language!r}, only Python is run')
  names: list[str | None] = []
  for place, case in enumerate(cases):
    if not isinstance(case, dict) or not {'input', 'output'} <= case.keys():
      raise UserError(
          f'has a test, number {place + 1}, that is no object with "input" and "output"')
    kind = case.get('type') or case.get('testtype')
    name = _function(case) or _function(_metadata(case)) or _function(
        _metadata(columns)) or _function(columns)
    names.append(None if kind in _STDIN else name)
    if kind not in (None, *_STDIN) and name is None:
      raise UserError(f'has a test, number {place + 1}, of type {kind!r}, name its function in '
                      '"fn_name"')
  if len(set(names)) > 1:
    raise UserError('calls a function in some tests, and another or none in others')
  return _of_pairs([case['input'] for case in cases], [case['output'] for case in cases], names[0])


def _metadata(columns: Mapping[str, Any]) -> Mapping[str, Any]:
  """The column `metadata`, which LiveCodeBench has as JSON."""
  found = columns.get('metadata')
  if isinstance(found, str) and found.lstrip().startswith('{'):
    found = _parse_json(found)
  return found if isinstance(found, dict) else {}


def _of_pairs(
    inputs: Sequence[Any], outputs: Sequence[Any], function: str | None, *, exact: bool = False,
) -> Problem:
  """The problem of inputs and outputs.

  The data of public sets often wrap the value of a function in a list: where all are lists of one
  item, either that list or its item will do, unless `exact`.
  """
  if not inputs:
    raise UserError('is empty, write at least one')
  wrapped = not exact and all(isinstance(output, list) and len(output) == 1 for output in outputs)
  read: Callable[[Any, Any], Test] = _stdin_test if function is None else functools.partial(
      _call_test, wrapped=wrapped)
  tests = []
  for place, (given, output) in enumerate(zip(inputs, outputs)):
    try:
      tests.append(read(given, output))
    except UserError as error:
      raise UserError(f'has a test, number {place + 1}, that {error}') from None
  return Problem(function, tuple(tests))


def _stdin_test(given: Any, output: Any) -> Test:
  expected = _lines(output, 'outputs').rstrip()
  if len(expected) > MAX_OUTPUT:
    raise UserError(f'expects {len(expected)} characters, more than the {MAX_OUTPUT} that a '
                    'program may write')
  return Test(_lines(given, 'inputs'), expected)


def _lines(value: Any, name: str) -> str:
  if isinstance(value, list) and all(isinstance(line, str) for line in value):
    value = '\n'.join(line.removesuffix('\n') for line in value)
  if not isinstance(value, str):
    raise UserError(f'has {_shown(value)} among the {name}, write a text or a list of lines; for '
                    'the arguments of a function name it in "fn_name"')
  return plain(value)


def _call_test(given: Any, output: Any, *, wrapped: bool) -> Test:
  if isinstance(given, str):    # as of LiveCodeBench
    given = [_parse_json(line) for line in given.split('\n') if line.strip()]
    if not isinstance(output, str):
      raise UserError('has a text as input, whose output must be JSON within a text')
    output = _parse_json(output)
  if not isinstance(given, list):
    raise UserError(f'has {_shown(given)} among the inputs, write the list of arguments')
  return Test(tuple(map(plain, given)), Expectation(
      '==', plain(output), json=True, or_only_item=wrapped))


def _shown(value: Any) -> str:
  text = repr(value) if not isinstance(value, (list, dict)) else repr(
      list(itertools.islice(value, 5)))
  return text if len(text) <= 60 else f'{text[:60]}...'
