"""Settings that several stages have."""
from collections.abc import Collection, Iterator, Mapping
import dataclasses
import datetime
import json
from typing import Any

from r1jax.errors import UserError
from r1jax.models import PRESETS, huggingface, quantized
from r1jax.prompting import chat, templates
from r1jax.rewards import parameters, suite
from r1jax.runtime import sharding
from r1jax.sampling.draw import Sampling
from r1jax.stages.config import Entries, Field, Section, Sections, Spec, plain

MAX_TOKENS = 2 ** 20    # more than any model reads: what is above is a slip


def common(kind: str) -> dict[str, Spec]:
  """The fields that each stage begins with."""
  return dict(
      kind=Field(kind, 'the kind of stage', choices=(kind,)),
      inputs=Field((), 'the stages that it reads'),
      seed=Field(0, 'seed of everything that is random', at_least=0))


EXPORT_DTYPE = Field(
    '', "type of the exported weights; '' for that of the model that was loaded if it is bfloat16, "
        'else float32. bfloat16 rounds changes of less than 1/256 of a weight away',
    choices=('', *huggingface.WRITTEN_TYPES), exports=True)
COMPUTE_DTYPE = Field('float32', 'type of activations and products; parameters stay float32',
                      choices=('float32', 'bfloat16'))
REMAT = Field(False, 'whether the backward pass computes activations again, to save memory',
              how=True)

MODEL = Section(dict(
    source=Field('miniature', "an input stage, a Hugging Face folder, a .gguf file, 'miniature', "
                              "'miniature_small', 'smollm2', or 'random' (of the shape of preset)",
                 names='model'),
    compute_dtype=COMPUTE_DTYPE,
    remat=REMAT,
    preset=Field('', "the published shape that the source must have, which the plan uses where the "
                     "source is not at hand; '' for that of the source", choices=('', *PRESETS))),
    'what the stage begins with')

TEMPLATE = Field('miniature', 'how a question becomes a prompt',
                 choices=tuple(templates.TEMPLATES))


def _prompt_faults(prompt: Mapping[str, Any]) -> Iterator[str]:
  try:
    datetime.date.fromisoformat(prompt['date'])
  except ValueError:
    yield f"date must be a day such as '{chat.DATE}', got {prompt['date']!r}"
  for name, value in prompt['options'].items():
    if not isinstance(name, str) or not name.isidentifier() or name in chat.RESERVED:
      yield f'options must name variables of the chat template, got {name!r}'
    try:
      json.dumps(plain(value), allow_nan=False)
    except (TypeError, ValueError):
      yield f'options.{name} must be what JSON can hold, got {value!r}'


PROMPT = Section(dict(
    system=Field('', "a system message before every chat that has none of its own, with "
                     "template='chat'"),
    options=Field({}, "of the chat template, by name, besides "
                      f'{chat.DEFAULT_OPTIONS}, which let models think that can'),
    date=Field(chat.DATE, 'the day that a chat template sees as today'),
    parse_control_tokens=Field(
        False, "whether what spells a control token in data or completions, such as '<|im_end|>', "
               'becomes that token')),
    'what else decides how a question becomes a prompt', pairs=_prompt_faults)


def prompt_format(config: Mapping[str, Any]) -> templates.PromptFormat:
  """The prompts of a stage, by its fields `template` and `prompt`."""
  return templates.PromptFormat(config['template'], **config['prompt'])


def prompt_faults(config: Mapping[str, Any]) -> Iterator[str]:
  """Faults where fields of `prompt` are set that the template does not use."""
  if config['template'] != 'chat':
    for name in ('system', 'options', 'date'):
      if config['prompt'][name] != PROMPT.default[name]:
        yield (f"prompt.{name} must be {PROMPT.default[name]!r} where template is not 'chat', got "
               f'{config["prompt"][name]!r}')

MAX_PROMPT_LENGTH = Field(64, 'tokens of a prompt', at_least=1, at_most=MAX_TOKENS)
OVERLONG_PROMPT = Field('skip', 'what becomes of prompts that are longer',
                        choices=('skip', 'error'))


def sampling(*, greedy: bool) -> Section:
  """How completions are drawn; `greedy` says whether a temperature of 0 is allowed.

  Stages of all kinds have the same fields, so that one can draw as another does.
  """
  bounds: dict[str, Any] = dict(at_least=0.0) if greedy else dict(above=0.0)
  return Section(dict(
      max_new_tokens=Field(128, 'tokens of a completion', at_least=1, at_most=MAX_TOKENS),
      temperature=Field(1.0, 'divides the logits' + (', 0 is greedy' if greedy else ''), **bounds),
      top_k=Field(0, 'tokens kept, the likeliest; 0 keeps all', at_least=0),
      top_p=Field(1.0, 'share of the probability that is kept', above=0, at_most=1),
      min_p=Field(0.0, "least probability that is kept, as a share of the likeliest token's",
                  at_least=0, at_most=1),
      weight_dtype=Field(
          '', "type of the layers' matrices while completions are drawn, with a scale per output "
              "channel; '' for the compute dtype", choices=('', *quantized.WEIGHT_DTYPES)),
      cache_dtype=Field(
          '', "type of cached keys and values, with a scale per token and head; '' for the compute "
              'dtype', choices=('', *quantized.CACHE_DTYPES)),
      chunk=Field(32, 'tokens drawn by one device program, at most', at_least=1, how=True),
      slots=Field(0, 'completions drawn at a time, on all devices together, while others wait; 0: '
                     'all of a batch', at_least=0, how=True),
      drafts=Field(0, 'tokens looked up in prompt and completion that a step checks, besides the '
                      'one that it draws', at_least=0, at_most=16, how=True),
      rollout_sharding=Field(
          'train', "how the sampler's weights lie on the mesh: as in training, or split by tensor",
          choices=tuple(sharding.ROLLOUT_SHARDINGS), how=True),
      carry_over=Field(
          False, 'of RL: whether a rollout ends when prompts_per_batch groups are complete, and '
                 'the next one goes on with the others; slots and chunk then decide which'),
      max_staleness=Field(
          1, 'iterations between the weights that drew a token and the update on it, at most, with '
             'carry_over', at_least=1)), 'how completions are drawn')


def sampler_options(sampling: Mapping[str, Any]) -> dict[str, Any]:
  """Arguments of `Sampler` by the fields of a stage's `sampling`."""
  direct = ('max_new_tokens', 'chunk', 'slots', 'drafts', 'rollout_sharding', 'weight_dtype',
            'cache_dtype')
  drawn = {field.name: sampling[field.name] for field in dataclasses.fields(Sampling)}
  return {name: sampling[name] for name in direct} | dict(sampling=Sampling(**drawn))


class _RewardSections(Mapping):
  """The settings of every reward of the table, as sections."""

  def __getitem__(self, name: str) -> Section:
    function = suite.REWARDS[name]
    return Section({setting: Field(one.default, one.meaning, choices=one.choices, type=one.type)
                    for setting, one in parameters.settings_of(function).items()},
                   pairs=parameters.faults_of(function))

  def __iter__(self) -> Iterator[str]:
    return iter(suite.REWARDS)

  def __len__(self) -> int:
    return len(suite.REWARDS)


REWARD_SETTINGS = Sections(_RewardSections(), 'settings of rewards by name')


def reward_setting_faults(
    settings: Mapping[str, Any], rewards: Collection[str], where: str, field: str,
) -> Iterator[str]:
  """Faults where `reward_settings` has settings of rewards that no field names.

  Args:
    settings: by name of the reward.
    rewards: the names of those that judge.
    where: the path of the section, for messages: '' or one that ends in a dot.
    field: the field that names those rewards.
  """
  for name in settings:
    if name not in rewards:
      yield (f'{where}reward_settings.{name} must be left out where {where}{field} does not name '
             f'{name!r}, got {settings[name]!r}')


def check_rewards(config: Mapping[str, Any], where: str) -> None:
  """Checks that this machine has what the rewards of a stage and its evaluations need.

  Args:
    config: the stage's, right by itself.
    where: its path, for messages.

  Raises:
    UserError: it lacks something.
  """
  parts = {'': config, '.general_prompts': config.get('general_prompts', {}), **{
      f'.evaluations.{name}': one for name, one in config.get('evaluations', {}).items()}}
  for path, part in parts.items():
    for field in ('rewards', 'correctness_reward'):
      named = part.get(field, ())
      for name in (named,) if isinstance(named, str) else named:
        try:
          parameters.check_needs(suite.REWARDS[name], part['reward_settings'].get(name, {}))
        except UserError as error:
          raise UserError(f'{where}{path}.{field}: reward {name!r}: {error}') from None


REWARD_WORKERS: dict[str, Spec] = dict(
    reward_workers=Field(2, 'processes that judge by rules, and as many that compare formulas',
                         at_least=1, how=True),
    reward_timeout_s=Field(5.0, 'seconds that a comparison of formulas may take', above=0,
                           how=True),
    reward_batch_timeout_s=Field(
        600.0, 'seconds that the rewards of a batch may take; what is not judged by then has none',
        above=0, how=True))


def reward_suite(
    functions: Mapping[str, tuple[suite.RewardFunction, float]], config: Mapping[str, Any],
) -> suite.RewardSuite:
  """The suite of these functions by the fields of `REWARD_WORKERS`; a process starts at once."""
  found = suite.RewardSuite(
      functions, num_workers=config['reward_workers'], timeout_s=config['reward_timeout_s'],
      batch_timeout_s=config['reward_batch_timeout_s'])
  found.warm()
  return found


def checkpoints(every: int, unit: str) -> dict[str, Spec]:
  """When a run is saved, and when it gives up."""
  return dict(
      max_skipped_updates=Field(
          10, 'updates skipped in a row (they were not finite), or half of all updates if that is '
              'less, after which a run stops', at_least=1, how=True),
      checkpoint_every=Field(every, f'{unit} between checkpoints', at_least=1, how=True),
      keep_checkpoints=Field(2, 'checkpoints that are kept', at_least=1, how=True))


def optimizer(learning_rate: float) -> dict[str, Field]:
  """Fields of AdamW at a constant learning rate."""
  return dict(
      learning_rate=Field(learning_rate, 'after the warm-up', at_least=0),
      warmup_steps=Field(0, 'steps of linear warm-up', at_least=0),
      weight_decay=Field(0.0, "AdamW's, of matrices", at_least=0),
      max_grad_norm=Field(1.0, 'the gradient is scaled to at most this norm; 0 for no clipping',
                          at_least=0),
      beta1=Field(0.9, 'decay of the first moment', at_least=0, below=1),
      beta2=Field(0.95, 'decay of the second moment', at_least=0, below=1))


EXPERTS = Section(dict(
    balance_coefficient=Field(0.0, "times DeepSeek-V3's loss that balances the load within a row",
                              at_least=0),
    bias_rate=Field(0.0, 'by which the balancing biases move after every update', at_least=0)),
    'of a mixture of experts')


def divisible(config: Mapping[str, Any], field: str, *divisors: str) -> Iterator[str]:
  """A fault where a field is not a multiple of the product of others."""
  product = 1
  for name in divisors:
    product *= config[name]
  if config[field] % product:
    yield (f'{field} must be a multiple of {" * ".join(divisors)} = {product}, got '
           f'{config[field]}')


def evaluations(section: Section) -> Entries:
  """The evaluations that end a stage."""
  return Entries(section, 'run on the trained model at the end, by name', how=True)
