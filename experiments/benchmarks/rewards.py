r"""How rightly, and how fast, the rewards judge: labelled cases, and GSM8K's answers in many forms.

    python -m r1jax.experiments.benchmarks.rewards --cases=../shared/cases/rewards.jsonl
    python -m r1jax.experiments.benchmarks.rewards --gsm8k=../shared/data/gsm8k

A line of `--cases` is {"reward", "gold", "completion", "want": 1 or 0, "why"}, where the reward is
a name of `suite.REWARDS`, or `skill:refuses` for the skill reward with that check. Prints the share
that is judged as wanted, and each false accept and false reject. A language reward counts as 1 from
0.99 on, and as 0 up to 0.5.

With `--gsm8k` all answers of the dataset are judged as `FORMS` write them, and then others than the
answer in the same forms, as `PERTURBED` makes them. Prints the share of right ones, how many wrong
ones were accepted, and answers a second on one thread.
"""
import argparse
from collections import Counter
from collections.abc import Iterator
import json
import pathlib
import time

from r1jax.rewards import accuracy
from r1jax.rewards.completion import Completion
from r1jax.rewards.suite import REWARDS

IN_BLOCK = (
    '{}', ' The answer is {}. ', '${}', '\\${}', '{} dollars', '{}\\%', 'He needs {} apples.',
    'x = {}', '{} miles per hour', '{}元', '答案：{}', '**{}**', '{}.0', '{}\\,\\text{{cm}}')
FORMS = (
    *(f'<think>so</think> <answer>{form}</answer>' for form in IN_BLOCK),
    r'So the result is \boxed{{{}}}.', r'So \boxed{{{}\text{{ hours}}}}.', r'\boxed{{\$ {}}}',
    r'So \(\boxed{{\mathbf{{{}}}}}\).', r'$\boxed{{ {}^\circ }}$', r'\boxed{{\displaystyle {}}}',
    r'\boxed{{\text{{{} minutes}}}}', r'\boxed{{{}}} kg', '6*7=42\n#### {}', '6*7=42\n#### ${}',
    'The answer is {}.', 'So she has {} apples left.', 'It costs **${}**.', 'Therefore $x = {}$.',
    '所以答案是{}。')
PLACES = ('{}', '{:,}', 'full-width')
PERTURBED = {
    'one more': lambda n: f'{n + 1}', 'one less': lambda n: f'{n - 1}', 'sign': lambda n: f'{-n}',
    'ten times': lambda n: f'{n}0', 'a digit before': lambda n: f'1{n}' if n >= 0 else f'-1{-n}',
    'a decimal': lambda n: f'{n}.5', 'thousands': lambda n: f'{n} thousand', 'k': lambda n: f'{n}k',
    'million': lambda n: f'{n} million', 'or': lambda n: f'{n} or {n + 1}',
    'and': lambda n: f'{n} and {n + 2}', 'range': lambda n: f'{n}-{abs(n) + 9}',
    'sum': lambda n: f'{n - 3} + 3', 'product': lambda n: f'{n} * 1', 'ratio': lambda n: f'1:{n}',
    'power': lambda n: f'{abs(n) + 2}^2', 'root': lambda n: f'\\sqrt{{{abs(n) + 1}}}',
    'variable': lambda n: f'{n}x'}


def golds(folder: pathlib.Path) -> Iterator[int]:
  for split in ('train', 'test'):
    for line in (folder / f'{split}.jsonl').read_text().splitlines():
      yield int(json.loads(line)['answer'].rpartition('####')[2].strip().replace(',', ''))


def written(number: int, place: str) -> str:
  if place == 'full-width':
    return ''.join(chr(ord(digit) + 0xfee0) if digit.isdigit() else digit for digit in str(number))
  return place.format(number)


def judge_gsm8k(folder: pathlib.Path) -> bool:
  """Prints what is judged how; whether all is as it should be."""
  answers, judged, start = [*golds(folder)], 0, time.time()
  wrong: Counter[tuple[str, str]] = Counter()
  false_accepts: Counter[tuple[str, str]] = Counter()
  for form in FORMS:
    for place in PLACES:
      for number in answers:
        judged += 1
        text = form.format(written(number, place))
        if accuracy.number_reward(Completion(text, 9, False), {'answer': f'{number}'}) != 1:
          wrong[form, place] += 1
  seconds = time.time() - start
  total = judged
  for form in FORMS:
    for name, change in PERTURBED.items():
      for number in answers[::7]:
        changed = change(number)
        judged += 1
        text = form.format(changed)
        if accuracy.number_reward(Completion(text, 9, False), {'answer': f'{number}'}) != 0:
          false_accepts[form, name] += 1
  for (form, place), count in wrong.most_common(20):
    print(f'refused {count} times: {form!r} with {place!r}')
  for (form, name), count in false_accepts.most_common(20):
    print(f'accepted {count} times: {form!r} with {name!r}')
  print(json.dumps({
      'golds': len(answers), 'forms': len(FORMS) * len(PLACES), 'right': 1 - wrong.total() / total,
      'perturbed': judged - total, 'accepted': false_accepts.total(),
      'answers_per_second': round(total / seconds)}))
  return wrong.total() <= 1e-3 * total and not false_accepts


def verdict(case: dict) -> float | None:
  """1 or 0 as of `--cases`; else what the reward says."""
  name, _, check = case['reward'].partition(':')
  example = {'answer': case['gold'], 'question': '', **({'check': check} if check else {})}
  value = REWARDS[name](Completion(case['completion'], 9, False), example)
  if value is None or not name.startswith('language'):
    return value
  return 1.0 if value >= 0.99 else 0.0 if value <= 0.5 else value


def judge_cases(path: pathlib.Path) -> bool:
  """Prints what is judged how; whether all is as wanted."""
  cases = [json.loads(line) for line in path.read_text().splitlines()]
  found: Counter[str] = Counter()
  for case in cases:
    given = verdict(case)
    kind = ('right' if given == case['want'] else
            'false_accept' if case['want'] == 0 else 'false_reject')
    found[kind] += 1
    if kind != 'right':
      print(f'{kind}: {given}, {json.dumps(case, ensure_ascii=False)}')
  print(json.dumps({'cases': len(cases), **found}))
  return found['right'] == len(cases)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--cases', type=pathlib.Path, help='a JSONL file')
  parser.add_argument('--gsm8k', type=pathlib.Path, help="a folder with GSM8K's two files")
  arguments = parser.parse_args()
  found = [judge(path) for judge, path in (
      (judge_cases, arguments.cases), (judge_gsm8k, arguments.gsm8k)) if path]
  if not found:
    parser.error('give --cases, --gsm8k or both')
  raise SystemExit(not all(found))


if __name__ == '__main__':
  main()
