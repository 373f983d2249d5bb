"""A judge that is a model of r1jax's own: it reads questions and replies, on the run's mesh.

Its random keys are folded from the run's seed and from what it reads: the same question gets the
same replies, in whatever batch, iteration or resumed run it is asked.
"""
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any
import zlib

import jax
import numpy as np

from r1jax.errors import UserError
from r1jax.metrics.terminal import warn
from r1jax.models import Model, compute
from r1jax.models.compute import Compute
from r1jax.prompting.templates import PromptFormat, encode_prompt, opens_think, stop_ids
from r1jax.records import Prompts
from r1jax.rewards.judging.judge import Reply
from r1jax.rewards.judging.question import JudgeQuestion
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.sampling import text as rollout_text
from r1jax.sampling.draw import Sampling
from r1jax.sampling.sampler import Sampler
from r1jax.stages import loading
from r1jax.stages.artifact import Artifact, open_artifact
from r1jax.stages.reward_model.data import padded
from r1jax.tokenization import Tokenizer

_STREAM = 0x6a756467      # in the place of an iteration: no draws of the policy have it
_FEWEST_CHARACTERS = 16   # of an answer that is cut to fit


@dataclasses.dataclass(frozen=True)
class JudgeModel:
  """A model on the mesh that judges.

  Attributes:
    loaded: the model, its parameters and its tokenizer.
    template: the format of its prompts, of the Artifact that it comes from; None for others.
  """
  loaded: loading.LoadedModel
  template: PromptFormat | None


def load_judge_model(
    source: str, inputs: Mapping[str, Artifact], *, compute_dtype: str, remat: bool,
    mesh: jax.sharding.Mesh, preset: str = '',
) -> JudgeModel:
  """A model that is to judge; arguments as for `loading.load_model`.

  Args:
    source: an input stage, the folder of an Artifact, or any other source of a model.
    inputs: see there, like the following ones.
    compute_dtype: see there.
    remat: see there.
    mesh: see there.
    preset: see there.

  Raises:
    FileNotFoundError, UserError: as `load_model`; or it is a reward model.
  """
  artifact = artifact_of(source, inputs)
  if artifact is not None:
    artifact.check('model')
  path = source if artifact is None else str(artifact.model_folder)
  loaded = loading.load_model(path, {}, compute_dtype=compute_dtype, remat=remat, mesh=mesh,
                              preset=preset)
  return JudgeModel(loaded, _format_of_artifact(artifact))


def _format_of_artifact(artifact: Artifact | None) -> PromptFormat | None:
  if artifact is None:
    return None
  return PromptFormat(artifact.manifest.template, **artifact.manifest.prompt)


def artifact_of(source: str, inputs: Mapping[str, Artifact]) -> Artifact | None:
  """The Artifact that a judge's source is, None for another model.

  Raises:
    UserError: it holds a reward model, or its manifest is damaged.
  """
  if source in inputs:
    artifact = inputs[source]
  elif source in loading.MINIATURES or not (Path(source) / 'manifest.json').exists():
    return None
  else:
    artifact = open_artifact(source)
  if artifact.manifest.kind == 'reward_model':
    raise UserError(f'{source!r} is a reward model, which does not reply: name it in '
                    'reward_models, or another model in judges')
  return artifact


def model_path(source: str) -> str:
  """Where the model of a judge from outside a chain is; raises as `artifact_of`."""
  artifact = artifact_of(source, {})
  return source if artifact is None else str(artifact.model_folder)


def format_of(
    settings: Mapping[str, Any], own: PromptFormat | None, tokenizer: Tokenizer,
) -> PromptFormat:
  """The format of a judge's prompts, in which control tokens of the judged text are always text.

  Args:
    settings: of the judge.
    own: of the Artifact that it comes from.
    tokenizer: the judge's.

  Raises:
    UserError: no template is named, and none is known.
  """
  if settings['template']:
    own = PromptFormat(settings['template'])
  elif own is None and settings['source'] in loading.MINIATURES:
    own = PromptFormat('miniature')
  elif own is None and tokenizer.chat_template is not None:
    own = PromptFormat('chat')
  if own is None:
    raise UserError(f'the tokenizer of the judge {settings["source"]!r} has no chat template: name '
                    'the template of its prompts')
  if settings['options'] and own.text is not None:
    raise UserError(f'the judge {settings["source"]!r} has options={settings["options"]!r}, and '
                    f"its template {own.template!r} takes none: set template='chat', or leave "
                    'options empty')
  return dataclasses.replace(own, options={**own.options, **settings['options']},
                             parse_control_tokens=False)


def rows_at_a_time(settings: Mapping[str, Any], mesh: jax.sharding.Mesh) -> int:
  """The questions of a batch: `rows`, and as many more as the mesh needs to split them evenly."""
  return settings['rows'] + -settings['rows'] % sharding.num_batch_shards(mesh)


def make_sampler(
    model: Model, settings: Mapping[str, Any], stops: tuple[int, ...], **options: Any) -> Sampler:
  """What draws a judge's replies; `options` are others of `Sampler`."""
  return Sampler(
      model, group_size=settings['votes'], max_new_tokens=settings['max_new_tokens'],
      stop_ids=stops, sampling=Sampling(temperature=settings['temperature']), **options)


class ModelJudge:
  """Asks a model on the mesh; all hosts call it together, and all get all replies."""

  def __init__(
      self, name: str, settings: Mapping[str, Any], judge: JudgeModel, *, seed: int,
      mesh: jax.sharding.Mesh, compute_dtype: str, chunk: int, rollout_sharding: str,
      should_stop: Callable[[], bool]):
    """Makes the programs; nothing is compiled yet.

    Args:
      name: of the judge, for messages.
      settings: of the judge, all of them.
      judge: the model.
      seed: of the run.
      mesh: that the model is on.
      compute_dtype: as of `Sampler`, like the following ones.
      chunk: see there.
      rollout_sharding: see there.
      should_stop: see there.

    Raises:
      UserError: what it reads and writes is longer than the model's positions, or it has no
        template.
    """
    self._name, self._settings, self._mesh = name, settings, mesh
    self._model, self._params = judge.loaded.model, judge.loaded.params
    self._tokenizer = judge.loaded.tokenizer
    self._template = format_of(settings, judge.template, self._tokenizer)
    check_lengths(settings, self._model.config.longest, f'judges.{name}')
    self._opened_think = opens_think(self._template, self._tokenizer)
    self._stops = stop_ids(self._template, self._tokenizer)
    self._rows = rows_at_a_time(settings, mesh)
    self._sample = make_sampler(
        self._model, settings, self._stops, seed=seed, compute_dtype=compute_dtype, chunk=chunk,
        rollout_sharding=rollout_sharding, should_stop=should_stop)

  def ask(
      self, questions: Sequence[JudgeQuestion],
  ) -> tuple[dict[JudgeQuestion, list[Reply]], Compute]:
    """(all votes of each question, what they took to compute).

    A question that is too long even with a short piece of the answer has no votes.

    Raises:
      Interrupted: as `Sampler`.
    """
    encoded = [(question, *self._encode(question)) for question in questions]
    fitting = sorted((item for item in encoded if item[2]), key=lambda item: len(item[2]))
    if len(fitting) < len(encoded):
      self._tell_once()
    replies: dict[JudgeQuestion, list[Reply]] = {question: [] for question in questions}
    taken = Compute()
    for start in range(0, len(fitting), self._rows):
      batch = fitting[start:start + self._rows]
      found, took = self._reply([item[1] for item in batch], [item[2] for item in batch])
      taken += took
      replies |= {item[0]: votes for item, votes in zip(batch, found, strict=True)}
    return replies, taken

  def _encode(self, question: JudgeQuestion) -> tuple[str, list[int]]:
    """(what is asked, its tokens) with as much of the answer as fits; no tokens if nothing does."""
    limit = self._settings['max_characters']
    while limit >= _FEWEST_CHARACTERS:
      text = question.text(limit)
      tokens = encode_prompt(self._template, text, self._tokenizer)
      if len(tokens) <= self._settings['max_prompt_length']:
        return text, tokens
      limit //= 2
    return '', []

  def _reply(
      self, texts: Sequence[str], prompts: Sequence[list[int]],
  ) -> tuple[list[list[Reply]], Compute]:
    """(the votes of a batch, what they took)."""
    size, votes = len(prompts), self._settings['votes']
    filled = [*prompts, *[prompts[-1]] * (self._rows - size)]
    tokens, lengths = padded(filled, self._tokenizer.pad_id)
    ids = np.asarray([zlib.crc32(text.encode()) & 0x7fffffff for text in texts], np.int32)
    arrays: Any = tokens, lengths, np.pad(ids, (0, self._rows - size), mode='edge')
    rollout = self._sample(
        self._params, sharding.place(Prompts(*arrays), self._mesh, batch=True), _STREAM)
    completions = rollout_text.read_rollout(
        rollout, sharding.owners(self._mesh, self._rows), self._tokenizer, self._stops,
        self._mesh)[:size * votes]
    took = compute.sampling(self._model.config, lengths[:size],
                            [completion.num_tokens for completion in completions])
    replies = [Reply(completion.text, completion.truncated, self._opened_think)
               for completion in completions]
    return [replies[start:start + votes] for start in range(0, len(replies), votes)], Compute(
        scored=took.sampled, scored_tokens=took.sampled_tokens)

  @functools.cache  # noqa: B019 (a judge lives as long as its run)
  def _tell_once(self) -> None:
    warn(f'judge {self._name!r}: some questions have more than max_prompt_length='
         f'{self._settings["max_prompt_length"]} tokens without the answer, and are not judged')


def check_lengths(settings: Mapping[str, Any], longest: int, where: str) -> None:
  """Refuses a judge whose questions and replies are longer than its model's positions."""
  prompt, reply = settings['max_prompt_length'], settings['max_new_tokens']
  if prompt + reply > longest:
    raise UserError(f"{where}.max_prompt_length + {where}.max_new_tokens must be at most the "
                    f"model's {longest} positions, got {prompt} + {reply}")


def check_judge(settings: Mapping[str, Any], where: str) -> None:
  """Refuses a judge from outside a chain that cannot be loaded; no weights are read.

  Args:
    settings: of the judge, all of them.
    where: their path.

  Raises:
    FileNotFoundError, UserError: naming what is wrong.
  """
  artifact = artifact_of(settings['source'], {})
  source = model_path(settings['source'])
  check_lengths(settings, loading.model_shape(source, {}, preset=settings['preset']).longest, where)
  format_of(settings, _format_of_artifact(artifact), loading.find_tokenizer(source, {}))
