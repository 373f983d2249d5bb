"""The small problems that experiments come with, and solutions of them."""
import pytest

from r1jax.data import jsonl
from r1jax.errors import UserError
from r1jax.experiments import r1_zero
from r1jax.rewards.code.reward import code_reward
from r1jax.rewards.completion import Completion
from r1jax.rewards.sandbox import layers

SOLUTIONS = dict(train=[
    'def add(a, b): return a + b', 'def is_even(n): return n % 2 == 0', 'largest = max',
    'def reverse(text): return text[::-1]',
    'def count_vowels(text): return sum(letter in "aeiou" for letter in text.lower())',
    'from math import factorial', 'def common(a, b): return list(set(a) & set(b))',
    'def mean(numbers): return sum(numbers) / len(numbers)',
    'def min_max(numbers): return min(numbers), max(numbers)',
    'print(sum(map(int, input().split())))',
    'lines = [input() for _ in range(int(input()))]\nprint(*lines[::-1], sep="\\n")',
    'print(3.14159265 * float(input()) ** 2)',
], test=[
    'def square(n): return n * n', 'def is_palindrome(text): return text == text[::-1]',
    'total = sum', 'print(input().upper())'])


@pytest.mark.parametrize('split', SOLUTIONS)
def test_the_problems_can_be_solved(split):
  try:
    layers()
  except UserError as error:
    pytest.skip(str(error))
  examples = jsonl.jsonl_source(r1_zero.CODE_PROBLEMS / f'{split}.jsonl')
  judged = [code_reward(Completion(f'```python\n{program}\n```', 9, False), example)
            for program, example in zip(SOLUTIONS[split], examples, strict=True)]
  assert judged == [1.0] * len(examples)
