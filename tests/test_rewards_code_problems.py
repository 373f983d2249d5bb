import json

import pytest

from r1jax.errors import UserError
from r1jax.rewards.code.problems import read_problem

STDIN = {'inputs': ['1 2\n', '3 4\n'], 'outputs': ['3\n', '7\n']}
CALLS = {'fn_name': 'add', 'inputs': [[1, 2], [3, 4]], 'outputs': [3, 7]}
METADATA = {'metadata': '{"func_name": "add"}'}


@pytest.mark.parametrize('tests, columns', [
    (STDIN, {}), (json.dumps(STDIN), {}), ({'test_cases': json.dumps(STDIN)}, {}),
    ({'input': STDIN['inputs'], 'output': STDIN['outputs']}, {}),
    ({'inputs': [['1 2'], ['3 4\n', '']], 'outputs': [['3'], ['7', '']]}, {}),    # lines
    ([{'input': '1 2', 'output': '3', 'testtype': 'stdin'},
      {'input': '3 4', 'output': '7', 'testtype': 'stdin'}], METADATA),
    (json.dumps({'language': 'python', 'test_cases': [
        {'type': 'stdin_stdout', 'input': '1 2', 'output': '3', 'fn_name': None},
        {'type': 'stdin_stdout', 'input': '3 4', 'output': '7'}]}), {}),
])
def test_forms_of_standard_input(tests, columns):
  problem = read_problem(tests, columns)
  assert problem.function is None
  assert [test.given.rstrip() for test in problem.tests] == ['1 2', '3 4']
  for test, right in zip(problem.tests, ['3', '7']):
    assert test.passed(right) and test.passed(f'{right}\n')
    assert not test.passed('5') and not test.passed(f'{right}\n5') and not test.passed(int(right))


@pytest.mark.parametrize('tests, columns', [
    (CALLS, {}), (json.dumps(CALLS), {}), (CALLS | {'outputs': [[3], [7]]}, {}),
    ({'inputs': CALLS['inputs'], 'outputs': [3, 7]}, {'fn_name': 'add'}),
    ({'function': 'add', 'inputs': CALLS['inputs'], 'outputs': [3, 7]}, {}),
    ([{'type': 'function_call', 'fn_name': 'add', 'input': [1, 2], 'output': [3]},
      {'type': 'function_call', 'fn_name': 'add', 'input': [3, 4], 'output': [7]}], {}),
    ('[{"input": "1\\n2", "output": "3", "testtype": "functional"},'
     '{"input": "3\\n4", "output": "7", "testtype": "functional"}]', METADATA),
    (['assert add(1, 2) == 3', 'assert add(3, 4) == 7'], {}),
    ({'test_list': ['assert add(1, 2) == 3', 'assert add(3, 4) == 7']}, {}),
    ('assert add(1, 2) == 3\nassert add(3, 4) == 7', {}),
    ({'test_cases': ['assert add(1, 2) == 3', 'assert add(3, 4) == 7']}, {}),
    ('def check(candidate):\n  assert candidate(1, 2) == 3\n  assert candidate(3, 4) == 7',
     {'entry_point': 'add'}),
    ({'test': 'def check(c):\n  assert c(1, 2) == 3\n  assert c(3, 4) == 7\n'.replace(
        'check(c)', 'check(candidate)').replace(' c(', ' candidate('), 'entry_point': 'add'}, {}),
])
def test_forms_of_calls(tests, columns):
  problem = read_problem(tests, columns)
  assert problem.function == 'add'
  assert [test.given for test in problem.tests] == [(1, 2), (3, 4)]
  for test, right in zip(problem.tests, [3, 7]):
    assert test.passed(right) and not test.passed(right + 1) and not test.passed(str(right))


def test_a_method_of_a_solution():
  starter = {'starter_code': 'class Solution:\n  def add(self, a, b):'}
  assert read_problem(CALLS, starter).function == 'Solution.add'
  assert read_problem(CALLS | {'fn_name': 'Solution.add'}).function == 'Solution.add'
  assert read_problem(STDIN, starter).function is None
  check = 'def check(candidate):\n  assert candidate(a=1, b=2) == 3'
  problem = read_problem(check, {'entry_point': 'Solution().add'})
  assert problem.function == 'Solution.add' and problem.tests[0].named == {'a': 1, 'b': 2}


def test_lists_of_one_item_may_be_wrapped_values():
  wrapped = read_problem(CALLS | {'outputs': [[3], [[7]]]}).tests
  assert wrapped[0].passed(3) and wrapped[0].passed([3]) and wrapped[1].passed([7])
  assert not wrapped[0].passed([[3]]) and not wrapped[0].passed(True)
  mixed = read_problem(CALLS | {'outputs': [[3], [7, 8]]}).tests
  assert mixed[0].passed((3,)) and not mixed[0].passed(3)
  own = {'function': 'add', 'inputs': CALLS['inputs'], 'outputs': [[3], [7]]}
  assert not read_problem(own).tests[0].passed(3)


@pytest.mark.parametrize('tests, message', [
    *[(tests, 'known forms') for tests in (3, None, {}, [], '', 'x', True, [1], {'inputs': '1'})],
    ({'inputs': [], 'outputs': []}, 'is empty'),
    ({'inputs': ['1'], 'outputs': []}, '1 inputs and 0 outputs'),
    ({'inputs': ['1', '2'], 'outputs': ['', '\n']}, 'an empty program would pass'),
    ({'inputs': ['1'], 'outputs': ['1' * 1_000_001]}, 'more than the 1000000'),
    ({'inputs': [[1]], 'outputs': ['1']}, r'number 1, that has \[1\] among the inputs.*fn_name'),
    ({'inputs': ['1'], 'outputs': [1]}, 'has 1 among the outputs'),
    ({'inputs': ['\ud800'], 'outputs': ['1']}, 'surrogate'),
    (CALLS | {'inputs': [1, 2]}, 'has 1 among the inputs, write the list of arguments'),
    (CALLS | {'inputs': [{'a': 1}, []]}, 'the list of arguments'),
    (CALLS | {'inputs': ['1\n2', '{'], 'outputs': ['3', '7']}, 'number 2, that is not valid JSON'),
    (CALLS | {'fn_name': 'os.system("x")'}, 'fn_name=.*name a function'),
    (CALLS | {'fn_name': 3}, 'fn_name=3'), (CALLS | {'fn_name': 'a.b.c'}, 'name a function'),
    (['assert f(1) == 2', 'while True: pass'], 'number 2, that has .while True'),
    (['assert f(1) == 2', 'assert g(1) == 2'], r'several functions \(f, g\)'),
    ('def check(candidate):\n  assert candidate(1) == 2', 'no "entry_point"'),
    ('{"inputs": ', 'not valid JSON'), ('[' * 100_000, 'nested too deeply'),
    ('{"inputs": [], "inputs": [], "outputs": []}', 'not valid JSON .a name appears twice'),
    ([{'input': '1'}], 'number 1, that is no object with "input" and "output"'),
    ([{'input': '1', 'output': '1'}, 3], 'number 2, that is no object'),
    ([{'input': [1], 'output': 1, 'type': 'function_call'}], "number 1, of type 'function_call'"),
    ([{'input': [1], 'output': 1, 'fn_name': 'f'}, {'input': '1', 'output': '1'}], 'in some tests'),
    ({'language': 'cpp', 'test_cases': [{'input': '1', 'output': '1'}]}, "language 'cpp'"),
])
def test_faults_are_named(tests, message):
  with pytest.raises(UserError, match=message):
    read_problem(tests)
