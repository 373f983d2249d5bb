"""Supervised fine-tuning: what is learnt, from which data, and resumed runs."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)
from test_tokenization import CHAT, make_tokenizer

from r1jax import checkpoint, metrics, models
from r1jax.data import miniature
from r1jax.models import huggingface
from r1jax.prompting import templates
from r1jax.prompting.templates import PromptFormat
from r1jax.runtime.storage import Path
from r1jax.stages import datasets, sft
from r1jax.stages.artifact import Artifact, open_artifact
from r1jax.tokenization import load_tokenizer


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
  """The Artifact of a stage 'draw', with 24 samples."""
  folder = Path(tmp_path_factory.mktemp('draw'))
  examples = miniature.calculations('train', 24, min_steps=2, max_steps=4)
  metrics.JsonlWriter(folder / 'samples', key='part', resume=0).append(0, [
      dict(prompt=f'User: {example["question"]}\nAssistant:', completion=f' {example["answer"]}.',
           question=example['question'])
      for example in examples])
  checkpoint.write_manifest(
      folder, checkpoint.Manifest('reject', 'draw', 'of the draw', template='miniature'))
  return {'draw': open_artifact(folder)}


def samples_of(inputs):
  return list(metrics.read_jsonl(inputs['draw'].folder / 'samples'))


def test_pitfall_03_only_completions_and_their_end_are_learnt(base, drawn):
  tokenizer = load_tokenizer(base)
  samples = samples_of(drawn)
  rows = sft.pack_samples(sft.drawn_samples(drawn, 'draw', tokenizer), 64, 'error',
                          pad_id=tokenizer.pad_id)
  learnt = []
  for row in range(len(rows.tokens)):
    for segment in range(1, rows.segment_ids[row].max() + 1):
      mine = rows.segment_ids[row] == segment
      tokens, weights = rows.tokens[row][mine], rows.weights[row][mine]
      prompt, completion = (
          tokenizer.decode(tokens[weights == weight], skip_special=False) for weight in (0, 1))
      learnt.append((prompt, completion))
  assert sorted(learnt) == sorted(
      (sample['prompt'], sample['completion'] + miniature.END) for sample in samples)


def test_the_first_loss_is_that_of_the_samples_one_by_one(base, drawn, tmp_path):
  tokenizer = load_tokenizer(base)
  config = runs.sft_config(base, rows=1, epochs=1, row_length=1024)
  sft.run(config, drawn, tmp_path)
  record, = metrics.read_metrics(tmp_path)
  params = huggingface.load_params(base, runs.SHAPE)
  model, total, count = models.build(runs.SHAPE), 0.0, 0

  @jax.jit
  def logprobs(tokens):
    positions = jnp.arange(tokens.shape[1])[None]
    hidden, _, _ = model.apply(
        params, tokens, positions=positions, segment_ids=jnp.ones_like(tokens))
    return jax.nn.log_softmax(model.unembed(params, hidden))
  for sample in samples_of(drawn):
    prompt = tokenizer.encode(sample['prompt'])
    tokens = prompt + tokenizer.encode(sample['completion']) + [tokenizer.eos_id]
    padded = np.zeros((1, 64), np.int32)
    padded[0, :len(tokens)] = tokens
    table = np.asarray(logprobs(jnp.asarray(padded)))[0]
    total -= sum(table[i - 1, tokens[i]] for i in range(len(prompt), len(tokens)))
    count += len(tokens) - len(prompt)
  assert record['loss'] == pytest.approx(total / count, rel=1e-5)


@pytest.fixture(scope='module')
def tuned(base, drawn, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('tuned')
  return sft.run(sft_config(base), drawn, workdir, stage='tuned')


def sft_config(base):
  return runs.sft_config(base, epochs=3, checkpoint_every=4,
                         evaluations={'tuned': runs.evaluation_config()})


def test_fine_tuning_learns_and_leaves_an_artifact(tuned):
  records = metrics.read_metrics(tuned.folder)
  assert len(records) % 3 == 0 and records[-1]['loss'] < records[0]['loss'] - 0.5
  assert tuned.manifest.parents == {'draw': 'of the draw'} and 'tuned' in tuned.manifest.scores
  assert huggingface.read_config(tuned.model_folder) == runs.SHAPE


def test_a_run_that_ends_early_is_the_beginning_of_the_whole(base, drawn, tuned, tmp_path):
  """At the learning rates of the whole, whatever the epoch in which it ends."""
  whole = metrics.read_metrics(tuned.folder)

  def untimed(records):
    return [{name: value for name, value in record.items() if not name.startswith(runs.TIMED)}
            for record in records]
  totals = []
  for last_step, kept in ((8, 8), (1000, 18)):
    config = sft_config(base) | dict(evaluations={}, last_step=last_step)
    early = sft.run(config, drawn, tmp_path / str(last_step), stage='tuned')
    assert untimed(metrics.read_metrics(early.folder)) == untimed(whole[:kept])
    assert runs.last_checkpoint(early.folder)[0] == kept
    totals.append(early.manifest.compute['trained_tokens'])
  assert totals[0] < totals[1]


def test_pitfall_20_stopped_fine_tuning_equals_uninterrupted(base, drawn, tuned, tmp_path):
  assert len(metrics.read_metrics(tuned.folder)) == 18

  def run(should_stop):
    return sft.run(sft_config(base), drawn, tmp_path, stage='tuned', should_stop=should_stop)
  _, sentences = runs.finish(run, [3, 4, 12])
  for sentence, place in zip(sentences, ('after step 3 ', 'after step 7 ', 'an evaluation was')):
    assert place in sentence and 'run the same command to go on' in sentence
  runs.assert_same(tmp_path, tuned.folder)


def test_pitfall_20_killed_fine_tuning_equals_uninterrupted(base, drawn, tuned, tmp_path):
  """What dies at the sixth step goes on from the checkpoint of the fourth."""
  asked = []

  def die():
    asked.append(None)
    if len(asked) > 5:
      raise KeyboardInterrupt
    return False
  with pytest.raises(KeyboardInterrupt):
    sft.run(sft_config(base), drawn, tmp_path, stage='tuned', should_stop=die)
  assert runs.last_checkpoint(tmp_path)[0] == 4
  sft.run(sft_config(base), drawn, tmp_path, stage='tuned')
  runs.assert_same(tmp_path, tuned.folder)


def test_each_epoch_sees_every_row_in_another_order(base, drawn, tmp_path, monkeypatch):
  seen = []
  place = sft.sharding.place

  def noting_place(tree, *arguments, **keywords):
    if isinstance(tree, tuple):
      seen.append(tree)
    return place(tree, *arguments, **keywords)
  monkeypatch.setattr(sft.sharding, 'place', noting_place)
  sft.run(runs.sft_config(base, rows=1, epochs=3), drawn, tmp_path)
  rows = [tokens.tobytes() for tokens, *_ in seen]
  epochs = [rows[start:start + len(rows) // 3] for start in range(0, len(rows), len(rows) // 3)]
  assert len(set(rows)) == len(epochs[0]) > 3
  assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
  assert len({tuple(epoch) for epoch in epochs}) == 3


def test_ones_own_data_are_learnt_beside_the_samples_or_alone(base, drawn, tmp_path, monkeypatch):
  packed = []
  monkeypatch.setattr(sft, 'train_packed', lambda config, loaded, rows, *_, **__: packed.append(
      rows) or loaded.params)
  own = tmp_path / 'own.jsonl'
  own.write_text('{"prompt": "5+3?", "reasoning": "so 5+3=8", "summary": "It is 8."}\n')
  mine = 'User: 5+3?\nAssistant: <think>so 5+3=8</think> <answer>It is 8.</answer>' + miniature.END
  for fields, inputs in ((dict(), drawn), (dict(inputs=(), sample_stages=()), {})):
    config = runs.sft_config(base, files=(str(own),), **fields)
    sft.run(config, inputs, tmp_path / str(len(inputs)))
    tokenizer, rows = load_tokenizer(base), packed.pop()
    texts = [tokenizer.decode(tokens[segments == n], skip_special=False)
             for tokens, segments in zip(rows.tokens, rows.segment_ids)
             for n in range(1, segments.max() + 1)]
    assert mine in texts and len(texts) == 1 + len(inputs) * len(samples_of(drawn))
  own.write_text('{"prompt": "5+3?"}\n')
  with pytest.raises(ValueError, match='own.jsonl, line 1: the field "reasoning" is missing'):
    sft.run(config, inputs, tmp_path / 'bad')


def test_several_sources_are_learnt_together_and_counted(base, drawn, tmp_path, monkeypatch):
  packed, pack_samples = [], sft.pack_samples

  def noting(samples, *arguments, **keywords):
    packed.extend(samples)
    return pack_samples(packed, *arguments, **keywords)
  monkeypatch.setattr(sft, 'pack_samples', noting)
  monkeypatch.setattr(sft, 'train_packed', lambda config, loaded, *_, **__: loaded.params)
  data = dict(name='miniature_general', size=3, seed=0, tasks=('json',))
  config = runs.sft_config(base, inputs=('draw', 'again'), sample_stages=('draw', 'again'),
                           data=data, template='miniature_think')
  artifact = sft.run(config, {**drawn, 'again': drawn['draw']}, tmp_path)
  assert artifact.manifest.scores == {
      'samples/stage draw': 24, 'samples/stage again': 24, 'samples/data': 3,
      'samples_spelling_control_tokens': 0}
  assert len(packed) == 51
  tokenizer = load_tokenizer(base)
  for sample, example in zip(packed, datasets.load_examples(data, 'train')):
    assert [tokenizer.decode(ids, skip_special=False) for ids in sample[:2]] == [
        f'User: {example["question"]}\nAssistant: <think>',
        f'{example["reasoning"]}</think> <answer>{example["answer"]}</answer>{miniature.END}']


def test_impossible_fine_tuning_is_refused(base, drawn, tuned, tmp_path):
  for fields, sentence in (
      (dict(rows=3, micro_batches=2), 'rows must be a multiple of micro_batches = 2, got 3'),
      (dict(sample_stages=('draw', 'drawn')),
       r"sample_stages names 'drawn', which is not one of inputs=\['draw'\]"),
      (dict(sample_stages='draw'), "sample_stages must be a tuple .*got 'draw'"),
      (dict(sample_stages=()), 'sample_stages must not be empty where files and data are'),
      (dict(data=dict(name='miniature', tasks=())), 'data.tasks is not a field'),
      (dict(data=dict(name='reasoning_gym')), 'example 0 of the data .* has no reasoning to learn'),
      (dict(epochs=0), 'epochs must be at least 1, got 0'),
      (dict(optimizer=dict(learning_rat=1.0)), 'did you mean .*learning_rate'),
      (dict(rows=64), 'the data fill .* rows and a batch has rows=64'),
      (dict(last_step=-1), 'last_step must be at least 0, got -1'),
      (dict(row_length=4, overlong='error'), 'raise row_length')):
    with pytest.raises(ValueError, match=sentence) as refusal:
      sft.run(runs.sft_config(base, **fields), drawn, tmp_path)
    assert '\n' not in str(refusal.value)
  sentence = 'holds another run of stage .sft.: config.optimizer.learning_rate changed'
  with pytest.raises(ValueError, match=sentence):
    sft.run(runs.merged(sft_config(base), dict(optimizer=dict(learning_rate=0.5))), drawn,
            tuned.folder)
  other = checkpoint.Manifest('rl', 'draw', 'x')
  sentence = "sample_stages='draw' is a stage of kind 'rl': name one of kind"
  with pytest.raises(ValueError, match=sentence):
    sft.run(runs.sft_config(base), {'draw': Artifact(drawn['draw'].folder, other)}, tmp_path)


@pytest.fixture
def turns():
  """A tokenizer whose chat template ends turns with another token than texts."""
  return make_tokenizer(config={
      'bos_token': '<bos>', 'eos_token': '<eos>', 'add_bos_token': True, 'chat_template': CHAT})


CHAT_FORMAT = PromptFormat('chat', system='Be brief.')


def test_completions_end_as_the_template_ends_turns_and_prompts_begin_as_in_rl(turns, tmp_path):
  own = tmp_path / 'own.jsonl'
  own.write_text(
      '{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},'
      ' {"role": "user", "content": "<eos>?"}], "reasoning": "so <|turn|>", "summary": "2"}\n'
      '{"prompt": "1+1?", "reasoning": "so 2", "summary": "2"}\n')
  chat, alone = sft.own_samples([str(own)], {}, CHAT_FORMAT, turns)
  parsed = PromptFormat('chat', parse_control_tokens=True)
  written = templates.encode_prompt(parsed, (
      ('system', 'Be brief.'), ('user', 'a'), ('assistant', 'b'), ('user', 'MARK')), turns)
  mark, spelt = turns.encode('MARK'), [turns.encode(letter)[0] for letter in '<eos>?']
  place = next(i for i in range(len(written)) if written[i:i + 4] == mark)
  assert chat.prompt == written[:place] + spelt + written[place + 4:]
  assert chat.completion[-1] == alone.completion[-1] == 258 and 258 not in chat.completion[:-1]
  assert (chat.spells_control, alone.spells_control) == (True, False)
  assert alone.prompt == templates.encode_prompt(CHAT_FORMAT, '1+1?', turns)
  assert alone.prompt[0] != 256
  with pytest.raises(ValueError, match='own.jsonl: the question of example 0 is a chat with'):
    sft.own_samples([str(own)], {}, PromptFormat('plain'), turns)
  own.write_text('{"problem": "1+1?", "reasoning": "so 2", "summary": "2"}')
  plain, = sft.own_samples([str(own)], {'prompt': 'problem'}, PromptFormat('plain'), turns)
  assert (plain.prompt[0], plain.completion[-1]) == (256, 257)


def test_drawn_samples_are_learnt_as_they_were_drawn(turns, tmp_path):
  folder = Path(tmp_path / 'draw')
  question = 'Why <eos>?'
  metrics.JsonlWriter(folder / 'samples', key='part', resume=0).append(0, [dict(
      prompt=templates.render_prompt(CHAT_FORMAT, question, turns), question=question,
      completion='So <|turn|>.')])
  checkpoint.write_manifest(folder, checkpoint.Manifest(
      'reject', 'draw', 'of the draw', template='chat', prompt={'system': 'Be brief.'}))
  inputs = {'draw': open_artifact(folder)}
  same, = sft.drawn_samples(inputs, 'draw', turns)
  assert same.prompt == templates.encode_prompt(CHAT_FORMAT, question, turns)
  assert same.completion == templates.encode_completion(CHAT_FORMAT, 'So <|turn|>.', turns)
  assert same.completion[-1] == 258 and 257 not in same.prompt
  # A student without a chat template, or with another one, sees the text of the teacher's prompt.
  for config in ({'eos_token': '<eos>'},
                 {'eos_token': '<eos>', 'chat_template': '{{ messages | tojson }}'}):
    other = make_tokenizer(config=config)
    sample, = sft.drawn_samples(inputs, 'draw', other)
    assert sample.prompt == other.encode(templates.render_prompt(CHAT_FORMAT, question, turns))
    assert sample.completion[-1] == 257


def test_a_model_taught_to_chat_says_where_its_turns_end(turns, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(sft, 'train_packed', lambda config, loaded, *_, **__: loaded.params)
  monkeypatch.setattr(runs, 'load_tokenizer', lambda folder: turns)
  base = runs.export_base(tmp_path / 'base')
  own = tmp_path / 'own.jsonl'
  own.write_text('{"problem": "1+1<eos>?", "reasoning": "so 2", "summary": "2"}')
  config = runs.sft_config(
      base, files=(str(own),), columns={'prompt': 'problem'}, template='chat', inputs=(),
      sample_stages=(), row_length=512, prompt=dict(system='Be brief.'))
  artifact = sft.run(config, {}, tmp_path / 'sft')
  assert artifact.manifest.prompt['system'] == 'Be brief.'
  assert artifact.manifest.scores['samples_spelling_control_tokens'] == 1
  assert 'warning: 1 of 1 samples spell control tokens' in capsys.readouterr().err
  assert load_tokenizer(artifact.model_folder).stop_ids == (257, 258)
  assert load_tokenizer(base).stop_ids == (257,)
