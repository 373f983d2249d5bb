"""Reward models: a scalar head on a transformer, trained on preferences or on judged completions.

Helpfulness is pairwise (Bradley–Terry) and sees the final summary alone, so that no chain of
thought is rewarded for its looks; safety is point-wise and sees the whole completion. Departures
from the report: a pair is judged once, by its data, and not four times; a cosine and a number of
epochs are settings; the prompt runs once for both sides of a pair.
"""
import collections
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load, save

from r1jax import evaluate as evaluation
from r1jax import losses
from r1jax.models import Model, ModelConfig, compute
from r1jax.runtime import hosts, sharding
from r1jax.runtime.storage import Path, to_json
from r1jax.stages import (
  evaluate,
  loading,
  program_shapes,
  supervised,
  supervised_program_shapes,
)
from r1jax.stages.artifact import Artifact, open_artifact
from r1jax.stages.config import plain
from r1jax.stages.reward_model.data import Encoded, Example, encode, load_examples, load_split
from r1jax.stages.reward_model.settings import SETTINGS
from r1jax.stages.stage import begin, draw_curves, leave_artifact
from r1jax.tokenization import Tokenizer
from r1jax.training.scalar_head import completion_rewards, init_scalar, scalar_axes

_HEAD, _SETTINGS = 'head.safetensors', 'reward_model.json'


@dataclasses.dataclass(frozen=True)
class RewardModel:
  """A reward model on the mesh, and what it wants to see."""
  model: Model
  params: Any               # {'backbone', 'head'}
  tokenizer: Tokenizer
  template: str             # of its own prompts
  objective: str


# Device programs.


def rewards_of(model: Model, params, encoded: Encoded) -> jax.Array:
  """[R, G] float32: the rewards of encoded completions, their prompts shared."""
  flat = lambda x: x.reshape(-1, x.shape[-1])
  rewards = completion_rewards(model, params, encoded.prompt_tokens, encoded.prompt_lengths,
                               flat(encoded.completion_tokens), flat(encoded.completion_mask))
  return rewards.reshape(encoded.completion_mask.shape[:2])


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


class Scored(NamedTuple):
  """What a reward model says of G completions of R questions, and what that took."""
  rewards: np.ndarray          # [R, G] float32
  compute: compute.Compute


def make_rewards(loaded: RewardModel, *, rows: int, mesh: jax.sharding.Mesh) -> Callable:
  """rewards(questions, completions) -> Scored, on the host.

  `completions` are G texts for each question, as a policy wrote them: what the reward model is not
  to see is taken away here. `rows` questions go through the device at a time.
  """
  program = jax.jit(functools.partial(rewards_of, loaded.model))

  def rewards(questions: Sequence[str], completions: Sequence[Sequence[str]]) -> Scored:
    encoded, found = encode(
        questions, completions, tokenizer=loaded.tokenizer, template=loaded.template,
        objective=loaded.objective), []
    for start in range(0, len(questions), rows):
      piece = jax.tree.map(lambda x: x[start:start + rows], encoded)
      count = len(piece.prompt_lengths)
      fill = lambda x: np.pad(x, ((0, rows - count),) + ((0, 0),) * (x.ndim - 1), mode='edge')
      out = program(loaded.params, sharding.place(jax.tree.map(fill, piece), mesh, batch=True))
      found.append(sharding.to_host(out)[:count])
    return Scored(np.concatenate(found), compute.scoring(loaded.model.config, *_sizes(encoded)))
  return rewards


def held_out_scores(
    loaded: RewardModel, examples: Sequence[Example], *, rows: int, mesh: jax.sharding.Mesh,
) -> dict[str, Any]:
  """Accuracy with its 95 % interval over questions, and calibration, on held-out examples.

  All questions count the same, however many examples they have. A pair's label is its order, which
  was drawn at random, and its log-odds are the difference of its rewards; ties count half.
  """
  rewards = make_rewards(loaded, rows=rows, mesh=mesh)(
      [example.question for example in examples],
      [example.completions for example in examples]).rewards
  odds = rewards[:, 0] - rewards[:, 1] if rewards.shape[1] == 2 else rewards[:, 0]
  labels = np.asarray([example.label for example in examples])
  counts = collections.Counter(example.question for example in examples)
  weights = [1 / counts[example.question] for example in examples]
  return _accuracy(examples, odds) | evaluation.calibration(odds, labels, weights=weights)


def _accuracy(examples: Sequence[Example], odds: np.ndarray) -> dict[str, Any]:
  """Counts of examples and questions; the accuracy, of which a question's mean is one value."""
  values = evaluation.sign_accuracy(odds, [example.label for example in examples])
  by_question = collections.defaultdict(list)
  for example, value in zip(examples, values):
    by_question[example.question].append(value)
  means = [np.mean(of_question) for of_question in by_question.values()]
  return {'accuracy': evaluation.mean_interval(means), 'examples': len(examples),
          'questions': len(means)}


# The stage.


def check_data(config: Mapping[str, Any], tokenizer: Tokenizer) -> None:
  """Reads `data`; errors as of `data.load_examples`."""
  del tokenizer
  for split in ('train', 'test'):
    load_examples(config, split)


def run(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], workdir: str | Path, *,
    stage: str = 'reward_model', mesh: jax.sharding.Mesh | None = None,
    should_stop: Callable[[], bool] = lambda: False, console=None,
) -> Artifact:
  """Trains a reward model; arguments and errors as of `stages.rl.run`.

  The Artifact has the backbone in `model` (Hugging Face form), `head.safetensors` and
  `reward_model.json`; `load_reward_model` reads it. The table of held-out scores, before training
  (where the head is 0 and nothing is preferred) and after, goes to `results.md` and `results.json`,
  and with the counts of dropped examples into the manifest. For pairs a last row says how often the
  longer side is the better one: what a model that had learnt only length would reach.
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
    begun = RewardModel(loaded.model, init_scalar(loaded.model, loaded.params), loaded.tokenizer,
                        config['template'], config['objective'])
    measure = functools.partial(held_out_scores, examples=test.examples,
                                rows=min(config['rows'], len(test.examples)), mesh=mesh)
    table = {'before': measure(begun)}
    labels, margins = (np.asarray(column, np.float32) for column in zip(
        *((example.label, example.margin) for example in train.examples)))
    params = supervised.train(
        run, begun.params, (train.encoded, labels, margins),
        loss=make_loss(loaded.model, config), normalizer=lambda batch: len(batch[1]),
        logical_axes=scalar_axes(loaded.model))
    trained = dataclasses.replace(begun, params=params)
    table['after'] = measure(trained)
    if config['objective'] == 'helpfulness':
      sizes = test.encoded.completion_mask.sum(-1)
      table['the longer side'] = _accuracy(test.examples, sizes[:, 0] - sizes[:, 1])
    evaluate.keep_table(table, f'Held-out {config["objective"]}: accuracy with 95 % interval over '
                               'questions, calibration of σ(reward)', workdir, console)
    draw_curves(workdir)
    head = save({'head': sharding.to_host(params['head'])})
    hosts.from_first(lambda: (workdir / _HEAD).write_bytes(head))
    hosts.from_first(lambda: (workdir / _SETTINGS).write_text(
        to_json({'objective': config['objective']})))
    return leave_artifact(
        run, model=loaded.model.config, params=params['backbone'], tokenizer=loaded.tokenizer, template=config['template'], more_files=(_HEAD, _SETTINGS),
        scores=table | {'examples': len(train.examples)} | train.counts,
        compute=_computed(config, loaded.model.config, train.encoded, test.encoded))


def shapes(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, shape_of: Callable[[Mapping], ModelConfig],
    *, mean_length: float = 0,
) -> program_shapes.StageShapes:
  """The update on the longest examples; arguments as of `rl.shapes`."""
  model = program_shapes.model_of(config['model'], shape_of(config['model']))
  return supervised_program_shapes.reward_update(config, mesh, model, make_loss(model, config), Encoded)


def _computed(
    config: Mapping[str, Any], shape: ModelConfig, train: Encoded, test: Encoded,
) -> compute.Compute:
  """What a whole run took; held-out examples are scored before training and after."""
  times = supervised.times_trained(config, len(train.prompt_lengths))
  measured = compute.scoring(shape, *_sizes(test), passes=2)
  return compute.training(shape, *_sizes(train), remat=config['model']['remat'], times=times) + (
      compute.Compute(evaluated=measured.scored, evaluated_tokens=measured.scored_tokens))


def _sizes(encoded: Encoded) -> tuple[np.ndarray, np.ndarray]:
  """The tokens of prompts [R] and of completions [R, G]."""
  return encoded.prompt_lengths, encoded.completion_mask.sum(-1).astype(int)


def load_reward_model(
    source: str, inputs: Mapping[str, Artifact], *, compute_dtype: str, remat: bool,
    mesh: jax.sharding.Mesh, preset: str = '',
) -> RewardModel:
  """A trained reward model: the name of an input stage of this kind, or its Artifact's folder.

  Raises:
    FileNotFoundError, ValueError: there is no such Artifact, or it is of another kind.
  """
  artifact = inputs[source] if source in inputs else open_artifact(source)
  if artifact.manifest.kind != 'reward_model':
    raise ValueError(f'{source!r} is the Artifact of a stage of kind {artifact.manifest.kind!r}: '
                     "name one of kind 'reward_model'")
  loaded = loading.load_model(str(artifact.model_folder), {}, compute_dtype=compute_dtype,
                             remat=remat, mesh=mesh, preset=preset)
  head = load((artifact.folder / _HEAD).read_bytes())['head']
  settings = json.loads((artifact.folder / _SETTINGS).read_text())
  params = {'backbone': loaded.params, 'head': sharding.place(head, mesh)}
  return RewardModel(loaded.model, params, loaded.tokenizer, artifact.manifest.template,
                     settings['objective'])
