"""Trains reward models on preferences or on judged completions.

Helpfulness is learnt from pairs (Bradley–Terry) and sees the final summary alone, so that no chain
of thought is rewarded for its looks; safety is learnt point by point and sees the whole completion.
Departures from the report: a pair is judged once, by its data, and not four times; a cosine and a
number of epochs are settings; the prompt runs once for both sides of a pair.
"""
import collections
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import evaluate as evaluation
from r1jax import losses
from r1jax.models import Model, ModelConfig, compute
from r1jax.prompting.templates import check_question, end_id
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.stages import evaluate, loading, program_shapes, supervised
from r1jax.stages.artifact import Artifact, open_artifact
from r1jax.stages.config import plain
from r1jax.stages.fields import prompt_format
from r1jax.stages.reward_model.data import Encoded, Example, Split, load_examples, load_split
from r1jax.stages.reward_model.model import (
  RewardModel,
  make_rewards,
  rewards_of,
  token_counts,
  write_head,
)
from r1jax.stages.reward_model.settings import SETTINGS
from r1jax.stages.stage import begin, draw_curves, leave_artifact, owns_folder
from r1jax.tokenization import Tokenizer
from r1jax.training.scalar_head import init_scalar, scalar_axes


def check_data(config: Mapping[str, Any], tokenizer: Tokenizer) -> None:
  """Reads `data`, and tries the template; raises as `data.load_examples` and `end_id` do."""
  template = prompt_format(config)
  end_id(template, tokenizer)
  for split in ('train', 'test'):
    for number, example in enumerate(load_examples(config, split)):
      check_question(template, example.question, f'the question of {split} example {number}')


@owns_folder
def run(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], workdir: str | Path, *,
    stage: str = 'reward_model', mesh: jax.sharding.Mesh | None = None,
    should_stop: Callable[[], bool] = lambda: False, console=None,
) -> Artifact:
  """Trains a reward model; arguments and errors as for `stages.rl.run`.

  The Artifact has the backbone in `model` (Hugging Face form), `head.safetensors` and
  `reward_model.json`; `load_reward_model` reads it. Held-out scores before training (where the head
  is 0 and nothing is preferred) and after it go to `results.md` and `results.json` and, with the
  counts of dropped examples, into the manifest. For pairs a last row says how often the longer side
  is the better one: what a model that had learnt nothing but length would reach.
  """
  config = plain(config)
  run = begin('reward_model', SETTINGS, config, inputs, workdir, stage=stage, mesh=mesh,
              should_stop=should_stop, console=console)
  if run.finished:
    return open_artifact(run.workdir)
  workdir, mesh = run.workdir, run.mesh
  with sharding.use(mesh):
    loaded = loading.load_model(inputs=inputs, mesh=mesh, **config['model'])
    train = load_split(config, inputs, loaded.tokenizer, 'train')
    test = load_split(config, inputs, loaded.tokenizer, 'test', config['held_out'])
    untrained = RewardModel(loaded.model, init_scalar(loaded.model, loaded.params),
                            loaded.tokenizer, prompt_format(config), config['objective'])
    measure = functools.partial(held_out_scores, examples=test.examples,
                                rows=min(config['rows'], len(test.examples)), mesh=mesh)
    table = {'before': measure(untrained)}
    params = supervised.train(
        run, untrained.params, _arrays(train), loss=make_loss(loaded.model, config),
        normalizer=lambda batch: len(batch[1]), logical_axes=scalar_axes(loaded.model))
    trained = loaded.trained(params['backbone'], config['export_dtype'])
    table['after'] = measure(dataclasses.replace(
        untrained, params=params | {'backbone': trained.params}))
    if config['objective'] == 'helpfulness':
      table['the longer side'] = _accuracy_of_length(test)
    evaluate.keep_table(table, f'Held-out {config["objective"]}: accuracy with 95 % interval over '
                               'questions, calibration of σ(reward)', workdir, console)
    draw_curves(workdir)
    return leave_artifact(
        run, model=loaded.model.config, params=trained.params, dtype=trained.dtype,
        tokenizer=loaded.tokenizer, template=config['template'],
        more_files=write_head(workdir, params, config['objective']),
        scores=table | {'examples': len(train.examples)} | train.counts,
        compute=_computed(config, loaded.model.config, train.encoded, test.encoded))


def make_loss(model: Model, config: Mapping[str, Any]) -> Callable:
  """loss(params, (Encoded, labels [R], margins [R]), R) for `train_step.make_update`."""
  pairs = config['pairs']

  def loss(params, batch, normalizer):
    encoded, labels, margins = batch
    rewards = rewards_of(model, params, encoded)
    if config['objective'] == 'safety':
      return losses.safety_loss(rewards[:, 0], labels, normalizer=normalizer)
    first, second = rewards[:, 0], rewards[:, 1]
    return losses.bradley_terry_loss(
        jnp.where(labels > 0.5, first, second), jnp.where(labels > 0.5, second, first),
        margins=pairs['margin'] * margins, centring_coefficient=pairs['centring_coefficient'],
        normalizer=normalizer)
  return loss


def _arrays(split: Split) -> tuple[Encoded, np.ndarray, np.ndarray]:
  """(the completions, labels [R], margins [R]): the rows that the loss takes."""
  labels = np.asarray([example.label for example in split.examples], np.float32)
  margins = np.asarray([example.margin for example in split.examples], np.float32)
  return split.encoded, labels, margins


def held_out_scores(
    loaded: RewardModel, examples: Sequence[Example], *, rows: int, mesh: jax.sharding.Mesh,
) -> dict[str, Any]:
  """Accuracy with its 95 % interval over questions, and calibration, on held-out examples.

  All questions count the same, however many examples they have. The label of a pair is its order,
  which was drawn at random, and its log-odds are the difference of its rewards. Ties count half.

  Args:
    loaded: the reward model.
    examples: either pairs or single completions, all of them.
    rows: the number of examples that are on the devices at a time.
    mesh: where the reward model is.
  """
  rewards = make_rewards(loaded, rows=rows, mesh=mesh)(
      [example.question for example in examples],
      [example.completions for example in examples]).rewards
  odds = rewards[:, 0] - rewards[:, 1] if rewards.shape[1] == 2 else rewards[:, 0]
  labels = np.asarray([example.label for example in examples])
  counts = collections.Counter(example.question for example in examples)
  weights = [1 / counts[example.question] for example in examples]
  return _accuracy(examples, odds) | evaluation.calibration(odds, labels, weights=weights)


def _accuracy_of_length(pairs: Split) -> dict[str, Any]:
  """The accuracy of always preferring the longer side."""
  _, sizes = token_counts(pairs.encoded)
  return _accuracy(pairs.examples, sizes[:, 0] - sizes[:, 1])


def _accuracy(examples: Sequence[Example], odds: np.ndarray) -> dict[str, Any]:
  """Counts of examples and questions, and the accuracy over questions' means."""
  values = evaluation.sign_accuracy(odds, np.asarray([example.label for example in examples]))
  by_question = collections.defaultdict(list)
  for example, value in zip(examples, values):
    by_question[example.question].append(value)
  means = [np.mean(of_question) for of_question in by_question.values()]
  return {'accuracy': evaluation.mean_interval(means), 'examples': len(examples),
          'questions': len(means)}


def _computed(
    config: Mapping[str, Any], shape: ModelConfig, train: Encoded, test: Encoded,
) -> compute.Compute:
  """What a whole run took; held-out examples are scored before training and after it."""
  times = supervised.times_trained(config, len(train.prompt_lengths))
  measured = compute.scoring(shape, *token_counts(test), passes=2)
  return compute.training(
      shape, *token_counts(train), remat=config['model']['remat'], times=times) + (
          compute.Compute(evaluated=measured.scored, evaluated_tokens=measured.scored_tokens))


def shapes(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, shape_of: Callable[[Mapping], ModelConfig],
    *, mean_length: float = 0,
) -> program_shapes.StageShapes:
  """The update on the longest examples, an eighth of which is the prompt; see `rl.shapes`."""
  model = program_shapes.model_of(config['model'], shape_of(config['model']))
  params = program_shapes.scalar_params_of(model, program_shapes.params_of(model, mesh), mesh)
  rows, size = config['rows'], 2 if config['objective'] == 'helpfulness' else 1
  prompt = config['max_tokens'] // 8
  length = config['max_tokens'] - prompt
  floats = functools.partial(program_shapes.table, mesh)
  ints = functools.partial(floats, dtype='int32')
  encoded = Encoded(ints(rows, prompt), ints(rows), ints(rows, size, length),
                    floats(rows, size, length))
  yield supervised.update_shapes(
      config, mesh, params, scalar_axes(model), (encoded, floats(rows), floats(rows)),
      loss=make_loss(model, config), useful=compute.training(
          model.config, [prompt] * rows, [[length] * size] * rows, remat=False).trained)
  return program_shapes.IterationWork(rows * (prompt + size * length), 1, 0)
