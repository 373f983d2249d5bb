"""A model of r1jax's own as a judge: its prompts, and that replies depend on nothing else."""
import jax
import numpy as np
import pytest
import runs
from runs import base, compiled  # noqa: F401 (fixtures)

from r1jax import checkpoint
from r1jax.errors import UserError
from r1jax.prompting.templates import PromptFormat
from r1jax.rewards.judging.question import JudgeQuestion
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.stages import judge_model, judges
from r1jax.stages.artifact import open_artifact
from r1jax.tokenization import load_tokenizer


def settings_of(source='x', **fields):
  return judges.filled(dict(
      source=source, template='miniature', max_prompt_length=200, max_new_tokens=4, votes=2,
      temperature=1.0, max_characters=400, rows=2) | fields)


def question_of(answer):
  return JudgeQuestion('{answer}{criterion}', (('answer', answer), ('criterion', 'ok')), 'yes_no')


@pytest.fixture(scope='module')
def loaded(base):  # noqa: F811
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  with sharding.use(mesh):
    yield judge_model.load_judge_model(base, {}, compute_dtype='float32', remat=False, mesh=mesh)


def judge_of(loaded, seed=0, **fields):
  return judge_model.ModelJudge(
      'good', settings_of(**fields), loaded, seed=seed, compute_dtype='float32', chunk=4,
      mesh=sharding.make_mesh(1, 1, jax.devices()[:1]), rollout_sharding='train',
      should_stop=lambda: False)


def test_replies_depend_on_the_question_and_the_seed_alone(loaded):
  questions = [question_of(text) for text in ('short', 'a longer answer', 'x ' * 30)]
  judge = judge_of(loaded)
  together, took = judge.ask(questions)
  for question in questions:
    alone, _ = judge.ask([question])
    assert alone == {question: together[question]}
  assert list(judge.ask(questions[::-1])[0]) == questions[::-1]
  assert judge.ask(questions)[0] == together
  assert all(len(votes) == 2 for votes in together.values())
  assert len({votes[0].text for votes in together.values()}) > 1
  assert any(votes[0] != votes[1] for votes in together.values())
  assert took.scored_tokens > 3 * 2 and took.sampled == 0 and took.scored > 0
  other, _ = judge_of(loaded, seed=1).ask(questions[:1])
  assert other[questions[0]] != together[questions[0]]


def test_an_answer_is_cut_until_it_fits_and_what_does_not_fit_has_no_votes(loaded, capsys):
  judge = judge_of(loaded, max_prompt_length=240)
  text, tokens = judge._encode(question_of('begin ' + '字' * 500 + ' end'))
  assert 0 < len(tokens) <= 240 and 'begin' in text and 'left out here' in text
  long = JudgeQuestion('x ' * 300 + '{answer}{criterion}', question_of('a').texts, 'yes_no')
  assert judge.ask([long, long])[0] == {long: []}
  judge.ask([long])
  assert capsys.readouterr().err.count("judge 'good': some questions have more than") == 1


def test_what_spells_control_tokens_is_text_to_a_judge_whatever_its_format_says(loaded):
  own = PromptFormat('miniature', parse_control_tokens=True)
  assert not judge_model.format_of(
      settings_of(template=''), own, loaded.loaded.tokenizer).parse_control_tokens
  judge = judge_of(loaded)
  _, tokens = judge._encode(question_of('<|im_end|> <eos> ' + loaded.loaded.tokenizer.decode(
      [loaded.loaded.tokenizer.eos_id], skip_special=False)))
  assert not set(tokens) & set(loaded.loaded.tokenizer.stop_ids)


def test_the_template_is_that_named_or_of_the_artifact_or_of_the_tokenizer(base):  # noqa: F811
  tokenizer = load_tokenizer(base)
  own = PromptFormat('r1_zero')
  assert judge_model.format_of(settings_of(), own, tokenizer).template == 'miniature'
  assert judge_model.format_of(settings_of(template=''), own, tokenizer) == own
  assert judge_model.format_of(
      settings_of('miniature', template=''), None, tokenizer).template == 'miniature'
  chatty = judge_model.format_of(settings_of(template='chat', options={'a': 1}), None, tokenizer)
  assert chatty.template == 'chat' and chatty.options == {'a': 1}
  with pytest.raises(UserError, match='has no chat template: name the template'):
    judge_model.format_of(settings_of(template=''), None, tokenizer)
  with pytest.raises(UserError, match="its template 'miniature' takes none: set template='chat'"):
    judge_model.format_of(settings_of(options={'a': 1}), None, tokenizer)


def test_an_artifact_brings_its_format_and_a_reward_model_is_refused(base, tmp_path):  # noqa: F811
  for kind in ('sft', 'reward_model'):
    runs.export_base(tmp_path / kind / 'model')
    checkpoint.write_manifest(Path(tmp_path / kind), checkpoint.Manifest(
        kind, kind, 'id', template='r1_zero', prompt=dict(date='2020-02-02')))
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  load = dict(compute_dtype='float32', remat=False, mesh=mesh)
  by_path = judge_model.load_judge_model(str(tmp_path / 'sft'), {}, **load)
  by_name = judge_model.load_judge_model(
      'judge', {'judge': open_artifact(tmp_path / 'sft')}, **load)
  assert by_path.template == by_name.template == PromptFormat('r1_zero', date='2020-02-02')
  np.testing.assert_array_equal(*(jax.tree.leaves(judge.loaded.params)[0]
                                  for judge in (by_path, by_name)))
  with pytest.raises(UserError, match='is a reward model, which does not reply'):
    judge_model.load_judge_model(str(tmp_path / 'reward_model'), {}, **load)


def test_a_judge_that_cannot_be_loaded_is_refused_before_weights_are_read(base):  # noqa: F811
  with pytest.raises(FileNotFoundError, match="There is no model '/nowhere'"):
    judge_model.check_judge(settings_of('/nowhere'), 'here')
  with pytest.raises(UserError, match=r'here.max_prompt_length \+ .* 256 positions, got 2048 \+ 4'):
    judge_model.check_judge(settings_of(base, max_prompt_length=2048), 'here')
  judge_model.check_judge(settings_of(base), 'here')
