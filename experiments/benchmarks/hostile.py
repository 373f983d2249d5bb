r"""Puts random texts through every reward: bytes, tags, formulas, escapes, mutations, outliers.

    python -m r1jax.experiments.benchmarks.hostile
    python -m r1jax.experiments.benchmarks.hostile --texts=200 --largest=1e5

Each text is judged by every reward of the table, against a gold answer that is drawn, too, and is
measured by what is logged of completions. One in 500 is an outlier of up to `--largest` characters.
Prints a line of JSON for each reward: its slowest call, the time limit, and how many texts it
did not judge; then the slowest rewards, in seconds and microseconds a character. Fails if a reward
raises an exception, takes longer than its limit, or returns anything but None or a number from -1
to 1.
"""
import argparse
from collections.abc import Callable, Iterator
import functools
import json
import random
import time
from typing import Any

from r1jax.data import curation
from r1jax.rewards import accuracy, calls, language, parameters, suite, text_statistics, workers
from r1jax.rewards.completion import Completion
from r1jax.rewards.skills import CHECKS

TAGS = ('<think>', '</think>', '<answer>', '</answer>', '<', '>', '</', '<|im_end|>', '####', '\n',
        ' ', 'so', '42', 'B')
FORMULAS = (r'\boxed{', r'\boxed {', r'\frac', r'\frac{', '}{', '}', '{', r'\sqrt{', '^{', '_',
            '$', '$$', r'\(', r'\)', r'\[', r'\]', r'\text{', '5', '12', 'x', '=', '+', '-', '/',
            ',', ' ', r'\,', r'\pm', r'\infty', '(', ')', '!', '99^{98^{97}}', r'\begin{matrix}',
            '&', r'\\')
ESCAPES = ('\\', '\\n', '\\x00', '\\u12', '\x00', '\x1b[2J', '\x1b]0;', '\r', '\x0b', '\u2028',
           '%s', '{0}', '${HOME}', '`id`', '&lt;', '&#x0;', '"', "'", '\\"', '\u200b', '\u202e',
           '\ufeff')
NUMBERS = ('0', '1', '9', '٣', '४', '²', '½', '1,234', '1234567', '.', ',', '-', '−', 'e', 'e9',
           '/', '1/0', '%', '°', '$', ' ', '0x', '_', 'inf', 'nan', '#### ')
JSON = ('{', '}', '[', ']', '"a":', '"a"', ',', '1', '1e999999', '-0', 'true', 'null', 'NaN', '\\u',
        '```json\n', '\n```', ' ')
WORDS = ('wait ', 'the answer is ', '(A) ', 'B. or C', 'answer: ', 'i cannot help ', '等等', '不能',
         'パン', 'naïve ', 'a’b', 'x = ', 'aa, ', 'not ', 'ſ', 'ß', 'word\n', '`', '```')
GOLDS = ('42', '1,234.5', '-3/4', r'\frac{1}{3}', '1e5', 'B', '(c)', r'2\sqrt{3}', 'x^2 + 2x + 1',
         '(1, 2]', r'\{1,2\}', 'x = 5', '{"a": [1, 2.50]}', '', 'the cat', 'a\nb', '#### 12')
RIGHT = ('<think>\nwait, 6*7=42\n</think> <answer>42</answer>', r'so $\boxed{42}$.',
         '6*7=42\n#### 42',
         '<think>a</think>\n<answer>\\boxed{2\\sqrt{3}}</answer>', 'The answer is (B).',
         '<think>a</think> <answer>```json\n{"a": [1, 2.5]}\n```</answer>')
POOLS = (TAGS, FORMULAS, ESCAPES, NUMBERS, JSON, WORDS, TAGS + FORMULAS + ESCAPES + NUMBERS + JSON)


def of_bytes(rng: random.Random, size: int) -> str:
  encoding, errors = rng.choice((('latin-1', 'strict'), ('utf-8', 'surrogateescape'),
                                 ('utf-8', 'replace'), ('utf-16-le', 'surrogatepass')))
  return rng.randbytes(size // 2 * 2).decode(encoding, errors)


def of_code_points(rng: random.Random, size: int) -> str:
  low, high = rng.choice(((0, 0x250), (0x300, 0x700), (0x900, 0x1000), (0x2000, 0x2c00),
                          (0x3000, 0xa000), (0xd800, 0xe000), (0x1d400, 0x1f700), (0, 0x110000)))
  return ''.join(chr(rng.randrange(low, high)) for _ in range(size))


def of_pieces(rng: random.Random, size: int) -> str:
  pieces = rng.choice(POOLS)
  return ''.join(rng.choices(pieces, k=1 + size // 4))


def repeated(rng: random.Random, size: int) -> str:
  """A few pieces over and over, perhaps within blocks: what makes a bad pattern slow."""
  piece = ''.join(rng.choices(rng.choice(POOLS), k=rng.choice((1, 1, 2, 3))))
  before, after = rng.choice((('', ''), ('<answer>', '</answer>'), ('<think>', '</think> 42'),
                              (r'\boxed{', '}'), ('#### ', ''), ('```', '```'), ('$', '$')))
  return before + piece * (1 + size // len(piece)) + after


def nested(rng: random.Random, size: int) -> str:
  opening, closing = rng.choice((
      ('{', '}'), ('[', ']'), ('(', ')'), (r'\boxed{', '}'), ('{"a":', '}'),
      ('<think>', '</think>'), (r'\sqrt{', '}'), ('**', '**')))
  depth = 1 + size // (len(opening) + len(closing))
  return opening * depth + rng.choice(('1', '', '42')) + closing * (depth - rng.randrange(2))


def mutated(rng: random.Random, size: int) -> str:
  """A right completion with parts cut, doubled, moved, and replaced by others."""
  text = rng.choice(RIGHT)
  for _ in range(rng.randrange(6)):
    low, high = sorted(rng.choices(range(len(text) + 1), k=2))
    part = rng.choice(('', text[low:high] * 2, text[high:], of_pieces(rng, min(size, 20))))
    text = text[:low] + part + text[high:]
  return text


KINDS = (of_bytes, of_code_points, of_pieces, repeated, nested, mutated)


def hostile_texts(
    count: int, *, seed: int, largest: int,
) -> Iterator[tuple[str, str, random.Random]]:
  """(kind, text, the random numbers of this text) of so many texts."""
  for number in range(count):
    rng = random.Random(f'{seed} {number}')
    outlier = number % 500 == 499
    kind = rng.choice((repeated, nested, of_pieces) if outlier else KINDS)
    size = rng.choice((largest, largest // 10)) if outlier else int(10 ** rng.uniform(0, 3.5))
    yield kind.__name__ + ' outlier' * outlier, kind(rng, size)[:largest], rng


def judges() -> dict[str, tuple[Callable[[Completion, dict], Any], float]]:
  """(function, seconds that it may take) of every reward, and of what is logged of completions."""
  found: dict[str, tuple[Callable, float]] = {
      name: (function, calls.limits_of(function).timeout_s)
      for name, function in suite.REWARDS.items()}
  for name, function in suite.REWARDS.items():
    opened = parameters.bind(function, {}, prompt_opens_think=True)
    if opened is not function:
      found[f'{name}, opened'] = opened, calls.TIMEOUT_S
  logged: dict[str, Callable] = {
      'canonical_answer': accuracy.canonical_answer, 'is_mixed': language.is_mixed,
      'reflective_words': text_statistics.reflective_words,
      'repetition': text_statistics.repetition}
  found |= {name: (functools.partial(_of_text, function), calls.TIMEOUT_S)
            for name, function in logged.items()}
  filters = curation.make_filters({'language': {}, 'repetition': {}, 'code': {}, 'paragraphs': {}})
  return found | {f'filter {name}': (functools.partial(_filtered, keep), calls.TIMEOUT_S)
                  for name, keep in filters.items()}


def _of_text(function: Callable[[str], Any], completion: Completion, example: dict) -> float:
  function(completion.text)
  return 0.0


def _filtered(keep: Callable, completion: Completion, example: dict) -> float:
  return float(keep(curation.Sample(example['question'], completion.text)) is None)


def examine(count: int, *, seed: int = 0, largest: int = 10_000_000) -> list[dict[str, Any]]:
  """A row for each reward: its slowest call and its faults."""
  functions = judges()
  rows: dict[str, dict[str, Any]] = {
      name: dict(reward=name, texts=0, slowest_s=0.0, limit_s=limit, unjudged=0, faults=[])
      for name, (_, limit) in functions.items()}
  for kind, text, rng in hostile_texts(count, seed=seed, largest=largest):
    completion = Completion(text, len(text), rng.random() < 0.2)
    example = dict(answer=rng.choice((*GOLDS, text[:rng.choice((20, 400))])),
                   question=rng.choice(('What is it then?', '多少?', text[:200])),
                   check=rng.choice(CHECKS), bad_answer=rng.choice(('', 'pour it in', text[:50])))
    for name, (function, limit) in functions.items():
      _call(rows[name], function, limit, kind, completion, example)
  return list(rows.values())


def _call(row: dict[str, Any], function: Callable, limit: float, kind: str, completion: Completion,
          example: dict) -> None:
  begun, fault = time.perf_counter(), ''
  try:
    value = function(completion, example)
    row['unjudged'] += value is None
    if value is not None and not -1 <= value <= 1:
      fault = f'returned {value!r}'
  except Exception as error:
    fault = f'raised {error!r:.200}'
  seconds = time.perf_counter() - begun
  if seconds > limit:
    fault = f'took {seconds:.1f} s'
  if fault:
    row['faults'].append(f'{fault} on {kind} {completion.text[:60]!a}')
  row['texts'] += 1
  if seconds > row['slowest_s']:
    row |= dict(slowest_s=round(seconds, 4), kind=kind, characters=len(completion.text))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--texts', type=int, default=10_000)
  parser.add_argument('--largest', type=float, default=1e7, help='characters of a text')
  parser.add_argument('--seed', type=int, default=0)
  arguments = parser.parse_args()
  with workers.WorkerPool(num_workers=1) as pool:
    workers.use_pool(pool)
    rows = examine(arguments.texts, seed=arguments.seed, largest=int(arguments.largest))
    for row in rows:
      print(json.dumps(row))
    print(json.dumps(dict(slowest=[
        (row['reward'], row['slowest_s'], round(1e6 * row['slowest_s'] / row['characters'], 3))
        for row in sorted(rows, key=lambda row: -row['slowest_s'])[:5] if row['characters']])))
    print(json.dumps(dict(workers=pool.counters())))
  if any(row['faults'] for row in rows):
    raise SystemExit('some rewards are not as they should be')


if __name__ == '__main__':
  main()
