"""Pass rates: how often a model solves each problem of a dataset, measured once and kept.

The rates select problems for other stages, or weight them (`stages.difficulty`). Problems are drawn
in the order of the data, a batch at a time, and what was judged is saved after each batch: a stage
that was killed goes on where it was. A completion's random key depends on its example, so the rates
do not depend on the batches.
"""
import bisect
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax import evaluate as evaluation
from r1jax import metrics
from r1jax.checkpoint import Checkpointer
from r1jax.data import pass_rates
from r1jax.data.prompts import PromptBatch, PromptStream
from r1jax.errors import UserError
from r1jax.models import ModelConfig, compute
from r1jax.prompting.templates import opens_think, stop_ids
from r1jax.rewards.completion import Completion
from r1jax.rewards.suite import PendingRewards
from r1jax.runtime import hosts, sharding
from r1jax.runtime.storage import Path, to_json
from r1jax.sampling.drawing import Interrupted
from r1jax.stages import datasets, difficulty, evaluate, loading, program_shapes
from r1jax.stages.artifact import Artifact, open_artifact
from r1jax.stages.config import Field, Section, plain
from r1jax.stages.datasets import data_field
from r1jax.stages.difficulty import ROWS
from r1jax.stages.fields import MODEL, common, prompt_format
from r1jax.stages.loop import TrainingLoop
from r1jax.stages.stage import StageRun, begin, leave_files, owns_folder
from r1jax.tokenization import Tokenizer

_PARTS = 'pass_rates'    # the folder of the rows until all are there

_DRAWN = {name: field for name, field in evaluate.SETTINGS.fields.items() if name != 'shots'}
SETTINGS = Section({**_DRAWN, **common('pass_rate')} | dict(
    data=data_field('the problems', filter=difficulty.FILTER),
    split=Field('train', 'of the data', choices=('train', 'test')),
    model=MODEL,
    problems=Field(0, 'problems at most, the first ones whose prompts fit; 0: all', at_least=0)),
    'the pass rates of a model', pairs=evaluate.SETTINGS.pairs)

DEFAULT = SETTINGS.default


def check_data(config: Mapping[str, Any], tokenizer: Tokenizer) -> None:
  """Reads the problems; errors as for `datasets.prompt_stream` and `difficulty.choose`."""
  chosen = difficulty.choose(config, config['split'], None)
  _problem_stream(config, tokenizer, chosen.problems, config['prompts_per_batch'])


@owns_folder
def run(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], workdir: str | Path, *,
    stage: str = 'pass_rate', mesh: jax.sharding.Mesh | None = None,
    should_stop: Callable[[], bool] = lambda: False, console=None,
) -> Artifact:
  """Leaves `pass_rates.jsonl`, a row for each problem; arguments and errors as for `stages.rl.run`.

  A row has the `example_id`, the `problem` (`data.pass_rates.problem_key`), how many completions
  were `drawn`, `judged` and `passed`, their `mean_length` in tokens, and the `truncated` share. The
  manifest's scores have the number of `problems`, of those `skipped` because they are too long and
  of those `unjudged`, the mean `pass_rate` with its 95 % interval over problems, the shares `never`
  and `always` solved, and the `histogram`.
  """
  config = plain(config)
  run = begin('pass_rate', SETTINGS, config, inputs, workdir, stage=stage, mesh=mesh,
              should_stop=should_stop, console=console)
  if run.finished:
    return open_artifact(run.workdir)
  with sharding.use(run.mesh):
    chosen = difficulty.choose(config, config['split'], inputs)
    chosen.announce(stage, console)
    loaded = loading.load_model(inputs=inputs, mesh=run.mesh, **config['model'])
    stream = _problem_stream(config, loaded.tokenizer, chosen.problems,
                             datasets.prompts_at_a_time(_counted(config), run.mesh))
    done = _measure(run, loaded, stream)
  rows = hosts.from_first(lambda: _join_parts(run.workdir))
  logged = hosts.from_first(lambda: metrics.read_metrics(run.workdir))
  artifact = leave_files(
      run, files=(ROWS,), template=config['template'],
      scores=summary(rows, skipped=done - len(rows)), compute=compute.from_metrics(logged))
  hosts.from_first((run.workdir / _PARTS).remove)
  return artifact


def _join_parts(workdir: Path) -> list[dict[str, Any]]:
  """Writes all rows to one file, which is the same however often the stage was stopped."""
  rows = list(metrics.read_jsonl(workdir / _PARTS))
  (workdir / ROWS).write_text(''.join(to_json(row) + '\n' for row in rows))
  return rows


def summary(rows: Sequence[Mapping[str, Any]], *, skipped: int) -> dict[str, Any]:
  """The scores of a stage by its rows; `skipped` is how many problems were too long."""
  rates = [row['passed'] / row['judged'] for row in rows if row['judged']]
  found = {'problems': len(rows), 'skipped': skipped, 'unjudged': len(rows) - len(rates)}
  if not rates:
    return found
  return found | {
      'pass_rate': evaluation.mean_interval(rates), 'never': float(np.mean(np.equal(rates, 0))),
      'always': float(np.mean(np.equal(rates, 1))), 'histogram': pass_rates.histogram(rows)}


def _counted(config: Mapping[str, Any]) -> dict[str, Any]:
  """The config with `problems` set where it is 0, to the least that leaves a batch as it is."""
  return {**config, 'problems': config['problems'] or config['prompts_per_batch']}


def _problem_stream(
    config: Mapping[str, Any], tokenizer: Tokenizer, problems: datasets.Problems, prompts: int,
) -> PromptStream:
  """The problems in their order, in batches of `prompts`, or of as many as fit.

  Raises:
    UserError: no prompt fits.
  """
  def of_size(size: int) -> PromptStream:
    return datasets.prompt_stream({**config, 'prompts_per_batch': size}, tokenizer, problems,
                                  at_most=size, shuffle=False)
  stream = of_size(prompts)
  fitting = stream.num_fitting(prompts)
  if not fitting:
    raise UserError(
        f'none of the {len(stream.indices)} prompts of the {config["split"]} split of '
        f'{config["data"]["name"]!r} has at most max_prompt_length={config["max_prompt_length"]} '
        'tokens: raise it')
  return stream if fitting == prompts else of_size(fitting)


_Judged = tuple[PromptBatch, list[Completion], PendingRewards]


class _Batch(NamedTuple):
  """Problems whose completions are being judged."""
  prompts: PromptBatch
  num_new: int                   # the first ones; others fill the last batch
  place: int                     # in the data, after the new ones
  completions: list[Completion]
  pending: PendingRewards
  seconds: dict[str, float]


@dataclasses.dataclass
class _Position:
  """What is measured; it is saved after each batch.

  Attributes:
    last: the id of the last example, -1 before the first.
    measured: the number of problems.
    rated: how many of them have a rate.
    rates: the sum of the rates.
  """
  last: int = -1
  measured: int = 0
  rated: int = 0
  rates: float = 0.0


class _Measuring:
  """Measures the problems that are still to do, a batch at a time.

  Attributes:
    place: how many problems of the data are done, those that are too long included.
  """

  def __init__(self, run: StageRun, loop: TrainingLoop, shape: ModelConfig, stream: PromptStream):
    """Goes on where the last checkpoint of the stage's folder ends."""
    self._loop, self._shape, self._stream = loop, shape, stream
    self._at_most = run.config['problems']
    saved = loop.restore(lambda _: {'last': np.zeros((), np.int32)},
                         [field.name for field in dataclasses.fields(_Position)])
    self._position = _Position(**saved.meta) if saved else _Position()
    self._total = len(stream.indices)
    self.place = bisect.bisect_right(stream.indices, self._position.last)
    loop.start(self._at_most or self._total, done=self._done(), next_step=self.place + 1)
    self._writer = metrics.JsonlWriter(
        run.workdir / _PARTS, key='example_id', resume=self._position.last + 1)

  def measure(self, draw: Callable[[Iterator[PromptBatch]], Iterator[_Judged]]) -> None:
    """Keeps batch after batch; while one is being judged, the next ones are drawn.

    Args:
      draw: from batches of prompts to these, their completions and the rewards to come.

    Raises:
      StopRequested: `draw` was interrupted; all that was drawn before is saved.
    """
    asked: deque[tuple[int, int]] = deque()    # of batches under way: new problems, place after

    def batches() -> Iterator[PromptBatch]:
      for prompts, num_new, place in self._batches():
        asked.append((num_new, place))
        yield prompts
    waiting, drawn = None, draw(batches())
    try:
      while True:
        with self._loop.watch('step'):
          judged = next(drawn, None)
        if waiting:
          self._keep(waiting)
        if judged is None:
          break
        prompts, completions, pending = judged
        waiting = _Batch(prompts, *asked.popleft(), completions, pending, self._loop.watch.pop())
    except Interrupted:
      if waiting:
        self._keep(waiting)
      self._loop.stop(self.place)
    if not self._at_most or self._position.measured < self._at_most:
      self.place = self._total    # what is left is too long
    self._loop.wait()

  def _batches(self) -> Iterator[tuple[PromptBatch, int, int]]:
    """(prompts, how many of them are new, the place after those) of each batch to do."""
    counter, last, measured = self.place, self._position.last, self._position.measured
    while counter < self._total and (measured < self._at_most or not self._at_most):
      prompts = self._stream.batch(counter)
      new = prompts.example_ids[prompts.example_ids > last]    # the others are from the beginning
      if self._at_most:
        new = new[:self._at_most - measured]
      if not new.size:
        return
      last, measured = int(new[-1]), measured + len(new)
      counter = bisect.bisect_right(self._stream.indices, last)
      yield prompts, len(new), counter

  def _keep(self, batch: _Batch) -> None:
    """Writes the rows of a batch, once it is judged, and saves the position after it."""
    rewards = batch.pending.collect()
    rows = list(_rows(batch, evaluation.verdicts(rewards)))
    self._writer.append(rows[0]['example_id'], rows)
    position, self.place = self._position, batch.place
    for row in rows:
      position.last, position.measured = row['example_id'], position.measured + 1
      if row['judged']:
        position.rated, position.rates = (
            position.rated + 1, position.rates + row['passed'] / row['judged'])
    self._loop.log(self.place, self._metrics(batch), done=self._done())
    self._loop.save(self.place, {'last': np.asarray(position.last, np.int32)},
                    dataclasses.asdict(position))

  def _done(self) -> int:
    return self._position.measured if self._at_most else self.place

  def _metrics(self, batch: _Batch) -> dict[str, float]:
    """Those of a batch, and the mean pass rate up to here."""
    position, lengths = self._position, [one.num_tokens for one in batch.completions]
    found = {'pass_rate': position.rates / position.rated} if position.rated else {}
    return found | {
        'completions/mean_length': float(np.mean(lengths)),
        'completions/clipped_ratio': float(np.mean([one.truncated for one in batch.completions])),
        'num_tokens': float(sum(lengths)),
        'prompts/spelling_control_tokens': float(batch.prompts.num_spelling_control),
        'tokens_per_second': sum(lengths) / batch.seconds['timing_s/step'],
        **compute.sampling(self._shape, batch.prompts.prompt_lengths, lengths).to_metrics(),
        **batch.seconds}


def _rows(batch: _Batch, verdicts: np.ndarray) -> Iterator[dict[str, Any]]:
  """A row for each new problem of a batch."""
  size = len(batch.completions) // len(batch.prompts.examples)
  for number in range(batch.num_new):
    drawn = batch.completions[number * size:(number + 1) * size]
    judged = verdicts[number * size:(number + 1) * size]
    yield dict(
        example_id=int(batch.prompts.example_ids[number]),
        problem=pass_rates.problem_key(batch.prompts.examples[number]),
        drawn=size, judged=int((~np.isnan(judged)).sum()), passed=int(np.nansum(judged)),
        mean_length=float(np.mean([one.num_tokens for one in drawn])),
        truncated=float(np.mean([one.truncated for one in drawn])))


def _measure(run: StageRun, loaded: loading.LoadedModel, stream: PromptStream) -> int:
  """Measures what is still to do; returns how many problems are done, with those too long."""
  template, tokenizer = prompt_format(run.config), loaded.tokenizer
  stops, prompt_opens_think = stop_ids(template, tokenizer), opens_think(template, tokenizer)
  sample = evaluate.make_sampler(run.config, loaded.model, stops, run.should_stop)
  hosts.from_first(lambda: _start_over_without_rows(run.workdir))
  with TrainingLoop(run, keep=1) as loop, evaluate.make_rewards(
      run.config, stream.source, prompt_opens_think) as rewards:
    measuring = _Measuring(run, loop, loaded.model.config, stream)
    measuring.measure(lambda batches: evaluation.draw(
        sample, loaded.params, batches, rewards, tokenizer, stop_ids=stops, mesh=run.mesh))
  return measuring.place


def _start_over_without_rows(workdir: Path) -> None:
  """Removes the checkpoints where rows are gone that they count on, such as damaged ones."""
  with Checkpointer(workdir / 'checkpoints') as checkpoints:
    step = checkpoints.latest_step()
    measured = 0 if step is None else checkpoints.read_meta(step).get('measured', 0)
  if sum(1 for _ in metrics.read_jsonl(workdir / _PARTS)) < measured:
    (workdir / 'checkpoints').remove()


def shapes(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, shape_of: Callable[[Mapping], ModelConfig],
    *, mean_length: float = 0,
) -> program_shapes.StageShapes:
  """A rollout; arguments as for `rl.shapes`."""
  work = yield from evaluate.shapes(_counted(config), mesh, shape_of, mean_length=mean_length)
  return work if config['problems'] else dataclasses.replace(work, iterations=0)
