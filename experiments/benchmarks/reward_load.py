"""What judging costs: answers a second, and how much it slows a rollout that runs beside it.

    python -m r1jax.experiments.benchmarks.reward_load
    python -m r1jax.experiments.benchmarks.reward_load --completions=256 --turns=3

Prints lines of JSON, all medians over `--turns`:

  - answers a second of the exact path (numbers), of formulas, and of those that math-verify judges;
  - for `--completions` texts of `--characters` each, judged by several rewards: the seconds that it
    takes, the processor time that this process spends on it, and the longest time for which another
    thread of this process did not get the interpreter;
  - the seconds of a rollout of the miniature by itself and with these texts judged beside it, in
    turn.

Run it on a machine that does nothing else.
"""
import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import json
import random
import statistics
import threading
import time
from typing import Any

import jax

from r1jax.experiments.r1_zero import get_config
from r1jax.prompting.templates import stop_ids
from r1jax.rewards.completion import Completion
from r1jax.rewards.suite import RewardSuite, named_rewards
from r1jax.runtime import sharding
from r1jax.sampling import text
from r1jax.stages import evaluate, loading
from r1jax.stages.fields import prompt_format

WORDS = ('so we have to find how many of them there are and then the next one is wait that is not '
         'right because we need the sum of both which gives').split()
REWARDS = {'format': 1.0, 'number': 1.0, 'language': 1.0}
EXACT = tuple((f'so it is \\boxed{{{number:,}}}', str(number)) for number in range(900, 1700))
FORMULAS = tuple((f'<answer>x^2+{2 * number}x+{number ** 2}</answer>', f'(x+{number})^2')
                 for number in range(2, 402))
MATH_VERIFY = tuple((rf'<answer>\log_2 8+{number}x</answer>', f'3+{number}x')
                    for number in range(2, 402))


def texts(count: int, characters: int) -> list[Completion]:
  """Completions of random words with steps of arithmetic, and an answer at the end."""
  rng, found = random.Random(0), []
  for _ in range(count):
    steps = ''
    while len(steps) < characters - 60:
      steps += (' '.join(rng.choices(WORDS, k=8)) + f' {rng.randrange(99)} + 3 = $x^2$.\n')
    text = f'<think>{steps}</think> <answer>{rng.randrange(9)}</answer>'
    found.append(Completion(text, len(text) // 4, False))
  return found


def answers_per_second(pairs: Sequence[tuple[str, str]], turns: int) -> float:
  """How many answers `number` judges in a second, in a suite whose workers are warm."""
  completions = [Completion(text, 9, False) for text, _ in pairs]
  examples = [{'answer': gold} for _, gold in pairs]
  with RewardSuite(named_rewards({'number': 1.0})) as suite:
    def judge() -> None:
      rewards = suite.submit(completions, examples).collect()
      assert rewards.total.sum() == len(pairs), rewards
    judge()
    return round(len(pairs) / statistics.median(_seconds(judge) for _ in range(turns)), 1)


def _seconds(call: Callable[[], Any]) -> float:
  begun = time.perf_counter()
  call()
  return time.perf_counter() - begun


@contextlib.contextmanager
def longest_pause() -> Iterator[list[float]]:
  """A list of one number: the longest time for which a thread that only looks did not run."""
  found, ended = [0.0], threading.Event()

  def look() -> None:
    before = time.perf_counter()
    while not ended.is_set():
      time.sleep(0.001)
      now = time.perf_counter()
      found[0], before = max(found[0], now - before), now
  thread = threading.Thread(target=look)
  thread.start()
  try:
    yield found
  finally:
    ended.set()
    thread.join()


def cost_here(completions: Sequence[Completion], turns: int) -> dict[str, Any]:
  """What judging costs this process."""
  examples = [{'answer': '7', 'question': 'How many are there then?'}] * len(completions)
  taken = []
  with RewardSuite(named_rewards(REWARDS)) as suite:
    suite.submit(completions[:8], examples[:8]).collect()
    for _ in range(turns):
      with longest_pause() as pause:
        busy = time.process_time()
        seconds = _seconds(lambda: suite.submit(completions, examples).collect())
        taken.append((seconds, time.process_time() - busy, pause[0]))
  return dict(zip(('seconds', 'processor_seconds_here', 'longest_pause'), (
      round(statistics.median(column), 4) for column in zip(*taken))))


def beside_a_rollout(completions: Sequence[Completion], turns: int) -> dict[str, Any]:
  """The seconds of a rollout by itself, and with completions judged beside it."""
  config = get_config().stages['zero'].to_dict()
  draw = evaluate.DEFAULT | dict(
      data=config['data'], template=config['template'], completions_per_problem=16,
      problems=32, prompts_per_batch=32,
      sampling=evaluate.DEFAULT['sampling'] | dict(max_new_tokens=128))
  loaded = loading.load_model(
      config['model']['source'], {}, compute_dtype='float32', remat=False, preset='',
      mesh=sharding.make_mesh(1, 1, jax.devices()[:1]))
  stream = evaluate.problem_stream(draw, loaded.tokenizer)
  sample = evaluate.make_sampler(
      draw, loaded.model, stop_ids(prompt_format(draw), loaded.tokenizer))
  prompts = text.device_prompts(stream.batch(0))

  def rollout() -> None:
    jax.block_until_ready(sample(loaded.params, prompts, 0))
  rollout()
  examples = [{'answer': '7', 'question': 'How many are there then?'}] * len(completions)
  alone, beside = [], []
  with RewardSuite(named_rewards(REWARDS)) as suite:
    suite.submit(completions[:8], examples[:8]).collect()
    for _ in range(turns):
      alone.append(_seconds(rollout))
      pending = suite.submit(completions, examples)
      beside.append(_seconds(rollout))
      pending.collect()
  return dict(alone=round(statistics.median(alone), 3), beside=round(statistics.median(beside), 3),
              slower=round(statistics.median(beside) / statistics.median(alone) - 1, 4))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--completions', type=int, default=2048)
  parser.add_argument('--characters', type=int, default=4000)
  parser.add_argument('--turns', type=int, default=5)
  arguments = parser.parse_args()
  for path, pairs in dict(
      exact=EXACT * 10, formulas=FORMULAS, math_verify=MATH_VERIFY).items():
    rate = answers_per_second(pairs, arguments.turns)
    print(json.dumps(dict(path=path, answers_per_second=rate)), flush=True)
  completions = texts(arguments.completions, arguments.characters)
  print(json.dumps(dict(judged=len(completions), **cost_here(completions, arguments.turns))),
        flush=True)
  print(json.dumps(dict(rollout=beside_a_rollout(completions, arguments.turns))), flush=True)


if __name__ == '__main__':
  main()
