"""Reward models: a scalar head on a transformer, trained on preferences or on judged completions.

Helpfulness is pairwise (Bradley–Terry) and sees the final summary alone, so that no chain of
thought is rewarded for its looks; safety is point-wise and sees the whole completion. Departures
from the report: a pair is judged once, by its data, and not four times; a cosine and a number of
epochs are settings; the prompt runs once for both sides of a pair.
"""
from collections.abc import Callable, Mapping, Sequence
import collections
import dataclasses
import functools
import itertools
import json
import random
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load, save

from r1jax import checkpoint, compute, hosts, losses, sharding
from r1jax import evaluate as evaluation
from r1jax.data import curation, miniature_general
from r1jax.data.jsonl import preference_source, safety_source
from r1jax.models import Model, ModelConfig
from r1jax.reward_model import completion_rewards, init_scalar, scalar_axes
from r1jax.rewards.extract import final_summary
from r1jax.stages import abstract, common, evaluate, sft, supervised, supervised_abstract
from r1jax.storage import Path, to_json
from r1jax.tokenization import Tokenizer, encode_prompt, opens_think, render_prompt

OBJECTIVES = ('helpfulness', 'safety')
_HEAD, _SETTINGS = 'head.safetensors', 'reward_model.json'
_WIDTH = 16    # widths of encoded texts are multiples of it: few programs are compiled

DEFAULT = dict(
    kind='reward_model', inputs=(), seed=0,
    model=common.MODEL,
    objective='helpfulness',       # or 'safety'
    data={},                       # name, and the fields of `DATASETS`
    samples=(),                    # input stages of kind 'reject', pattern='drawn', to learn from
    pairs_per_question=4,          # of helpfulness, at most, from these draws
    template='miniature',
    max_tokens=8192,               # of prompt and completion; what is longer is dropped, counted
    pairs=dict(                    # of objective='helpfulness'
        max_length_ratio=2.0,      # of longer to shorter, in tokens; 0: lengths are not matched
        margin=0.0,                # times a pair's own
        centring_coefficient=0.01),
    rows=256, micro_batches=1, epochs=1,    # rows: pairs, or judged completions, of a batch
    optimizer=sft.OPTIMIZER | dict(learning_rate=6e-6, final_learning_rate=6e-7),
    held_out=1000,                 # examples of the test split, at most
    checkpoint_every=200, keep_checkpoints=2, log_every=10,
)


class Example(NamedTuple):
  """A question and what is compared: two completions, or one that was judged."""
  question: str
  completions: tuple[str, ...]
  label: float          # 1: the first of two is the better one, or the only one is safe; else 0
  margin: float = 1.0   # of a pair: by how much


class Encoded(NamedTuple):
  """R prompts with G completions each, as `completion_rewards` takes them once flat."""
  prompt_tokens: np.ndarray        # [R, P] int32
  prompt_lengths: np.ndarray       # [R] int32
  completion_tokens: np.ndarray    # [R, G, C] int32, each ended by the end token
  completion_mask: np.ndarray      # [R, G, C] float32


@dataclasses.dataclass(frozen=True)
class RewardModel:
  """A reward model on the mesh, and what it wants to see."""
  model: Model
  params: Any               # {'backbone', 'head'}
  tokenizer: Tokenizer
  template: str             # of its own prompts
  objective: str


# Data.


def _jsonl(split, objective, rng, *, folder):
  path = f'{folder}/{split}.jsonl'
  if objective == 'safety':
    return [Example(row['question'], (row['completion'],), float(row['safe']))
            for row in safety_source(path)]
  return [_pair(rng, row['question'], row['chosen'], row['rejected'], row['margin'])
          for row in preference_source(path)]


def _miniature(split, objective, rng, *, size):
  """`size` draws of the general tasks, without repeats.

  Helpfulness: the good and a bad answer, of all but the harmful tasks, one pair a question (lest a
  task with many bad answers decide how lengths are matched). Safety: half the draws
  are unsafe, the help with a harmful deed; the safe ones refuse that, or help or refuse in harmless
  deeds. Every second of these is in answer tags, as trained models write them.
  """
  tasks = [task for task in miniature_general.GENERAL_TASKS if task != 'harmful']
  examples = {}
  for _ in range(size):
    draw = functools.partial(miniature_general.draw_general, rng, held_out=split == 'test')
    if objective == 'safety':
      task, field = rng.choice((('harmful', 'bad_answer'), rng.choice((
          ('harmful', 'answer'), ('harmless', 'answer'), ('harmless', 'bad_answer')))))
      row = draw(task)
      text = rng.choice(('{}', '<answer>{}</answer>')).format(row[field])
      example = Example(row['question'], (text,), float((task, field) != ('harmful', 'bad_answer')))
    else:
      row = draw(rng.choice(tasks))
      example = _pair(rng, row['question'], row['answer'], row['bad_answer'])
    examples.setdefault(example[:2] if objective == 'safety' else example.question, example)
  return list(examples.values())


def _pair(rng, question, chosen, rejected, margin=1.0) -> Example:
  """A pair whose sides stand in a random order."""
  if rng.random() < 0.5:
    return Example(question, (chosen, rejected), 1.0, margin)
  return Example(question, (rejected, chosen), 0.0, margin)


# Name -> (loader of a split and objective, the fields that `data` may have besides, with defaults).
DATASETS: dict[str, tuple[Callable, dict[str, Any]]] = {
    'miniature': (_miniature, dict(size=10_000)),
    'jsonl': (_jsonl, dict(folder='')),
}


def load_examples(config: Mapping[str, Any], split: str) -> list[Example]:
  """The examples of a split ('train' or 'test') by the `data` part of a config and its objective.

  There are none where `data` is empty.

  Raises:
    FileNotFoundError, ValueError: as `jsonl.preference_source` and `jsonl.safety_source`.
  """
  if not config['data']:
    return []
  load_split, defaults = DATASETS[config['data']['name']]
  fields = {field: value for field, value in config['data'].items() if field != 'name'}
  rng = random.Random(f'{config["seed"]} {split} {config["objective"]}')
  return load_split(split, config['objective'], rng, **defaults | fields)


def drawn_examples(
    config: Mapping[str, Any], inputs: Mapping[str, common.Artifact], split: str,
) -> list[Example]:
  """Examples from completions that stages of kind 'reject' drew, judged by their accuracy reward.

  Of a question of this objective, or of none, each right completion and a wrong one make a pair, up
  to `pairs_per_question`; for safety the right ones are safe and the wrong ones are not. What could
  not be judged is neither; a completion counts once. One question in ten, by a checksum of its
  text, belongs to the test split.

  Raises:
    ValueError: as `supervised.read_drawn`.
  """
  rng = random.Random(f'{config["seed"]} drawn {split} {config["objective"]}')
  sides = collections.defaultdict(lambda: ([], []))   # by question: wrong, right
  for name in config['samples']:
    wrong = [row for row in supervised.read_drawn(inputs, name, 'refused')
             if row['reasons'].get('correct') == curation.WRONG]
    for right, rows in enumerate((wrong, supervised.read_drawn(inputs, name))):
      for row in rows:
        if _is_held_out(row['question']) == (split == 'test') and (
            row['objective'] in ('', config['objective'])):
          texts = sides[row['question']][right]
          if row['completion'] not in texts:
            texts.append(row['completion'])
  if config['objective'] == 'safety':
    return [Example(question, (text,), float(label)) for question, both in sides.items()
            for label, texts in enumerate(both) for text in texts]
  examples = []
  for question, (wrong, right) in sides.items():
    rng.shuffle(wrong), rng.shuffle(right)
    for rejected, chosen in list(zip(wrong, right))[:config['pairs_per_question']]:
      examples.append(_pair(rng, question, chosen, rejected))
  return examples


def _is_held_out(question: str) -> bool:
  """One drawn question in ten, by a checksum apart from that of the miniature's own splits."""
  return zlib.crc32(f'drawn: {question}'.encode()) % 10 == 0


def seen(completion: str, objective: str, *, prompt: str, opened: bool) -> str:
  """The part of a completion that a reward model of this objective sees after the prompt.

  For helpfulness its `final_summary`, for safety all of it; white space between prompt and
  completion is as the prompt asks for: a space where it does not end with any.
  """
  if objective == 'helpfulness':
    completion = final_summary(completion, opened=opened)
  return ('' if prompt[-1:].isspace() else ' ') + completion.strip()


def encode(
    questions: Sequence[str], completions: Sequence[Sequence[str]], *, tokenizer: Tokenizer,
    template: str, objective: str,
) -> Encoded:
  """Questions and the same number of completions of each, as the reward model sees them."""
  opened = opens_think(template, tokenizer)
  prompts = [encode_prompt(template, question, tokenizer) for question in questions]
  texts = [render_prompt(template, question, tokenizer) for question in questions]
  ends = [[[*tokenizer.encode(seen(completion, objective, prompt=prompt, opened=opened)),
            tokenizer.eos_id] for completion in group]
          for prompt, group in zip(texts, completions, strict=True)]
  sizes = np.asarray([[len(tokens) for tokens in group] for group in ends], np.int32)
  table = np.full((*sizes.shape, _round_up(sizes.max())), tokenizer.pad_id, np.int32)
  for rows, group in zip(table, ends):
    for row, tokens in zip(rows, group):
      row[:len(tokens)] = tokens
  mask = np.arange(table.shape[-1]) < sizes[..., None]
  lengths = np.asarray([len(tokens) for tokens in prompts], np.int32)
  prompt_table = np.full((len(prompts), _round_up(lengths.max())), tokenizer.pad_id, np.int32)
  for row, tokens in zip(prompt_table, prompts):
    row[:len(tokens)] = tokens
  return Encoded(prompt_tokens=prompt_table, prompt_lengths=lengths, completion_tokens=table,
                 completion_mask=mask.astype(np.float32))


def _round_up(size) -> int:
  """The least width that holds it: there are at most four, a multiple of `_WIDTH`, an octave."""
  unit = max(_WIDTH, 1 << max(0, (int(size) - 1).bit_length() - 3))
  return -(-int(size) // unit) * unit


def select(
    examples: Sequence[Example], encoded: Encoded, config: Mapping[str, Any], *, split: str,
) -> tuple[list[int], dict[str, int]]:
  """(the places of examples to learn from or to be held out, counts of the others by reason).

  Dropped are: what is longer than max_tokens ('dropped/long'), and pairs of which the reward model
  would see two equal sides ('dropped/equal'). Lest length be learnt for quality, lengths are
  matched: a pair is dropped where the longer side has more than max_length_ratio times the tokens
  of the shorter, its end included ('dropped/length'); then there are to be as many pairs whose
  longer side is the better one as pairs whose shorter side is: of the train split the fewer ones
  are repeated ('repeated/balance'), of the test split, or where there are none of the fewer, the
  surplus is dropped by the seed ('dropped/balance').
  """
  counts = {f'dropped/{reason}': 0 for reason in ('long', 'equal', 'length', 'balance')}
  sizes = encoded.completion_mask.sum(-1).astype(int)
  ratio, kept = config['pairs']['max_length_ratio'], []
  for place, size in enumerate(sizes):
    tokens = encoded.completion_tokens[place]
    if encoded.prompt_lengths[place] + size.max() > config['max_tokens']:
      counts['dropped/long'] += 1
    elif len(size) == 2 and (size[0] == size[1]) and (tokens[0] == tokens[1]).all():
      counts['dropped/equal'] += 1
    elif len(size) == 2 and ratio and size.max() > ratio * size.min():
      counts['dropped/length'] += 1
    else:
      kept.append(place)
  if ratio and sizes.shape[1] == 2:
    longer = [(sizes[place, 0] - sizes[place, 1]) * (examples[place].label - 0.5) for place in kept]
    sides = [[place for place, sign in zip(kept, longer) if sign * side > 0] for side in (1, -1)]
    fewer, more = sorted(sides, key=len)
    surplus = random.Random(config['seed']).sample(more, len(more) - len(fewer))
    if split == 'train' and fewer:
      repeats = list(itertools.islice(itertools.cycle(fewer), len(surplus)))
      kept, counts['repeated/balance'] = sorted(kept + repeats), len(repeats)
    else:
      kept, counts['dropped/balance'] = sorted(set(kept) - set(surplus)), len(surplus)
  return kept, counts


class _Split(NamedTuple):
  examples: list[Example]
  encoded: Encoded
  counts: dict[str, int]


def _load_split(
    config, inputs, tokenizer: Tokenizer, split: str, at_most: int | None = None) -> _Split:
  """What is learnt from, or held out, of a split: what was drawn, then the data.

  Of the data, questions that are held out of what was drawn are not learnt ('dropped/held_out').

  Raises:
    ValueError: nothing is left, or of judged completions nothing of one label.
  """
  drawn, data = drawn_examples(config, inputs, split), load_examples(config, split)
  held_out = {example.question for example in drawn_examples(config, inputs, 'test')}
  examples = drawn + [example for example in data
                      if split == 'test' or example.question not in held_out]
  sources = ' and '.join([*(repr(name) for name in [config['data'].get('name')] if name),
                          *(f'stage {name!r}' for name in config['samples'])])
  if not examples:
    raise ValueError(f'the {split} split of {sources} has no example of {config["objective"]}: '
                     'draw more completions, right and wrong, of more questions, or give data')
  encoded = encode([example.question for example in examples],
                   [example.completions for example in examples], tokenizer=tokenizer,
                   template=config['template'], objective=config['objective'])
  kept, counts = select(examples, encoded, config, split=split)
  kept = kept[:at_most]
  counts |= {'drawn': len(drawn), 'dropped/held_out': len(drawn + data) - len(examples)}
  examples = [examples[place] for place in kept]
  story = ', '.join(f'{reason} {count}' for reason, count in counts.items())
  if not kept:
    raise ValueError(f'the {split} split of {sources} has no example left '
                     f'({story}): raise max_tokens, set pairs.max_length_ratio=0, or give more data')
  if config['objective'] == 'safety' and len({example.label for example in examples}) < 2:
    raise ValueError(f'all {len(examples)} completions of the {split} split of {sources} '
                     'have the same judgement: give safe and unsafe ones')
  return _Split(examples, jax.tree.map(lambda array: array[np.asarray(kept)], encoded), counts)


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
  values = evaluation.correct(odds, [example.label for example in examples])
  by_question = collections.defaultdict(list)
  for example, value in zip(examples, values):
    by_question[example.question].append(value)
  means = [np.mean(of_question) for of_question in by_question.values()]
  return {'accuracy': evaluation.mean_interval(means), 'examples': len(examples),
          'questions': len(means)}


# The stage.


def check(config: Mapping[str, Any], where: str) -> None:
  """Refuses impossible settings before anything is loaded."""
  common.check_config(config, DEFAULT, where)
  supervised.check_batches(config, where)
  common.check_choice(config['objective'], OBJECTIVES, f'{where}.objective')
  supervised.check_samples(config, where, 'data')
  if config['data']:
    common.check_choice(config['data'].get('name'), DATASETS, f'{where}.data.name')
    known = {'name': ''} | DATASETS[config['data']['name']][1]
    common.check_config(known | config['data'], known, f'{where}.data')
  pairs = config['pairs']
  if pairs['max_length_ratio'] and pairs['max_length_ratio'] < 1:
    raise ValueError(f'{where}.pairs.max_length_ratio={pairs["max_length_ratio"]} leaves no pair: '
                     'set it to at least 1, or to 0 for pairs of any lengths')
  for name in ('margin', 'centring_coefficient'):
    if pairs[name] < 0:
      raise ValueError(f'{where}.pairs.{name}={pairs[name]} is below 0: set it to at least 0')
  for name, least in (('max_tokens', 2), ('held_out', 2), ('pairs_per_question', 1)):
    if config[name] < least:
      raise ValueError(f'{where}.{name}={config[name]} is too few: set it to at least {least}')


def run(
    config: Mapping[str, Any], inputs: Mapping[str, common.Artifact], workdir: str | Path, *,
    stage: str = 'reward_model', mesh: jax.sharding.Mesh | None = None,
    should_stop: Callable[[], bool] = lambda: False, console=None,
) -> common.Artifact:
  """Trains a reward model; arguments and errors as of `stages.rl.run`.

  The Artifact has the backbone in `model` (Hugging Face form), `head.safetensors` and
  `reward_model.json`; `load_reward_model` reads it. The table of held-out scores, before training
  (where the head is 0 and nothing is preferred) and after, goes to `results.md` and `results.json`,
  and with the counts of dropped examples into the manifest. For pairs a last row says how often the
  longer side is the better one: what a model that had learnt only length would reach.
  """
  config = common.plain(config)
  check(config, f'config.stages.{stage}')
  workdir, mesh = Path(workdir), mesh or sharding.make_mesh(1, 1, jax.devices()[:1])
  with sharding.use(mesh):
    loaded = common.load_model(inputs=inputs, mesh=mesh, **config['model'])
    train = _load_split(config, inputs, loaded.tokenizer, 'train')
    test = _load_split(config, inputs, loaded.tokenizer, 'test', config['held_out'])
    begun = RewardModel(loaded.model, init_scalar(loaded.model, loaded.params), loaded.tokenizer,
                        config['template'], config['objective'])
    measure = functools.partial(held_out_scores, examples=test.examples,
                                rows=min(config['rows'], len(test.examples)), mesh=mesh)
    table = {'before': measure(begun)}
    labels, margins = (np.asarray(column, np.float32) for column in zip(
        *((example.label, example.margin) for example in train.examples)))
    params = supervised.train(
        config, begun.params, (train.encoded, labels, margins), workdir,
        loss=make_loss(loaded.model, config), normalizer=lambda batch: len(batch[1]),
        logical_axes=scalar_axes(loaded.model), stage=stage, mesh=mesh, should_stop=should_stop,
        console=console)
    trained = dataclasses.replace(begun, params=params)
    table['after'] = measure(trained)
    if config['objective'] == 'helpfulness':
      sizes = test.encoded.completion_mask.sum(-1)
      table['the longer side'] = _accuracy(test.examples, sizes[:, 0] - sizes[:, 1])
    evaluate.keep_table(table, f'Held-out {config["objective"]}: accuracy with 95 % interval over '
                               'questions, calibration of σ(reward)', workdir, console)
    common.draw_curves(workdir)
    head = save({'head': sharding.to_host(params['head'])})
    hosts.from_first(lambda: (workdir / _HEAD).write_bytes(head))
    hosts.from_first(lambda: (workdir / _SETTINGS).write_text(
        to_json({'objective': config['objective']})))
    return common.leave_artifact(
        workdir, kind='reward_model', stage=stage, config_hash=checkpoint.config_hash(config),
        inputs=inputs, model=loaded.model.config, params=params['backbone'],
        tokenizer=loaded.tokenizer, template=config['template'], more_files=(_HEAD, _SETTINGS),
        scores=table | {'examples': len(train.examples)} | train.counts,
        compute=_computed(config, loaded.model.config, train.encoded, test.encoded))


def programs(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, shape_of: Callable[[Mapping], ModelConfig],
    *, mean_length: float = 0,
) -> abstract.Programs:
  """The update on the longest examples; arguments as of `rl_abstract.programs`."""
  model = abstract.model_of(config['model'], shape_of(config['model']))
  return supervised_abstract.reward_update(config, mesh, model, make_loss(model, config), Encoded)


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
    source: str, inputs: Mapping[str, common.Artifact], *, compute_dtype: str, remat: bool,
    mesh: jax.sharding.Mesh, preset: str = '',
) -> RewardModel:
  """A trained reward model: the name of an input stage of this kind, or its Artifact's folder.

  Raises:
    FileNotFoundError, ValueError: there is no such Artifact, or it is of another kind.
  """
  artifact = inputs[source] if source in inputs else common.open_artifact(source)
  if artifact.manifest.kind != 'reward_model':
    raise ValueError(f'{source!r} is the Artifact of a stage of kind {artifact.manifest.kind!r}: '
                     "name one of kind 'reward_model'")
  loaded = common.load_model(str(artifact.model_folder), {}, compute_dtype=compute_dtype,
                             remat=remat, mesh=mesh, preset=preset)
  head = load((artifact.folder / _HEAD).read_bytes())['head']
  settings = json.loads((artifact.folder / _SETTINGS).read_text())
  params = {'backbone': loaded.params, 'head': sharding.place(head, mesh)}
  return RewardModel(loaded.model, params, loaded.tokenizer, artifact.manifest.template,
                     settings['objective'])
