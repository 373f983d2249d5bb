"""Filters on real, mixed, formula-laden and adversarial reasoning."""
import dataclasses
import random
import time

import hypothesis
from hypothesis import strategies as st
import pytest

from r1jax.data import curation
from r1jax.data.curation import Sample, curate
from r1jax.data.readable import rewrite
from r1jax.rewards.accuracy import canonical_answer
from r1jax.rewards.completion import Completion
from r1jax.rewards.format import format_reward

ENGLISH = ('Ann has 3 boxes of 4 pencils, so she has 3 × 4 = 12 pencils. She gives 5 to her '
           'brother, hence 12 − 5 = 7 are left.')
CHINESE = '安有3盒铅笔，每盒4支，所以她有 3 × 4 = 12 支。她给弟弟5支，因此还剩 12 − 5 = 7 支。'
GERMAN = ('Anna hat 3 Schachteln mit je 4 Stiften, also 3 × 4 = 12 Stifte. Sie gibt ihrem Bruder '
          '5, folglich bleiben 12 − 5 = 7 übrig.')
QUESTION = 'Ann has three boxes with four pencils each and gives five away. How many are left?'


def sample(reasoning=ENGLISH, answer='7', **fields):
  fields = dict(question=QUESTION, reasoning_tokens=20) | fields
  return Sample(completion=f' <think>{reasoning}</think> <answer>{answer}</answer>', **fields)


def reason(name, given, **settings):
  """What one filter says of one sample."""
  curated = curate([given], {name: settings}, seed=0)
  assert len(curated.kept) + len(curated.refused) == 1
  assert curated.counts == {
      'drawn': 1, 'kept': len(curated.kept), f'refused/{name}': len(curated.refused)}
  return curated.refused[0][1][name] if curated.refused else None


def test_answers():
  assert reason('correct', sample()) is reason('truncated', sample()) is None
  assert reason('correct', sample(correct=False)) == 'wrong answer'
  assert reason('correct', sample(correct=None)) == 'answer not judged'
  assert reason('truncated', sample(truncated=True)) == 'truncated'


def test_the_format_is_that_of_the_reward():
  good = sample()
  assert reason('format', good) is None
  inside = dataclasses.replace(good, completion=good.completion.replace(' <think>', ''))
  assert reason('format', inside)
  assert reason('format', dataclasses.replace(inside, prompt_opens_think=True)) is None
  for text in (good.completion + ' so', good.completion * 2, '7', ''):
    assert reason('format', dataclasses.replace(good, completion=text))


def test_length_is_of_the_reasoning_in_tokens():
  for tokens, said in ((4, 'too short: reasoning of 4 tokens'), (5, None), (9, None),
                       (10, 'too long: reasoning of 10 tokens')):
    assert reason('length', sample(reasoning_tokens=tokens), min_tokens=5, max_tokens=9) == said
  assert reason('length', sample(reasoning_tokens=10**6)) is None
  assert reason('length', sample(reasoning_tokens=0)).startswith('too short')


def test_repetition():
  assert reason('repetition', sample()) is reason('repetition', sample(CHINESE)) is None
  again = sample(ENGLISH + ' Let me check that again.' * 9)
  assert reason('repetition', again).startswith('repetition of 0.')
  assert reason('repetition', sample('对' * 99), max_share=0.9) == 'repetition of 0.99'


@pytest.mark.parametrize('reasoning, said', [
    (ENGLISH, None), (CHINESE, 'wrong language: zh instead of en'),
    (GERMAN, 'wrong language: de instead of en'), ('3 × 4 = 12, 12 − 5 = 7', None),
    (f'{ENGLISH} {CHINESE}', 'mixed languages: zh'),
    (f'{ENGLISH}\n{GERMAN}', 'mixed languages: en'),
    (ENGLISH + r' $n = 3 \times 4 - 5$, so \(n = 7\).', None),
    (f'{ENGLISH} `{CHINESE}`', 'mixed languages: zh'),
    (ENGLISH.replace(' ', '\u200f '), None),
    (ENGLISH.replace('so', '所以'), 'mixed languages: en 0.89, zh 0.11')])
def test_language_is_the_questions_own(reasoning, said):
  found = reason('language', sample(reasoning))
  assert found is None if said is None else found.startswith(said)


def test_language_may_be_named_and_without_any_must_be_one():
  assert reason('language', sample(CHINESE), target='zh') is None
  assert reason('language', sample(ENGLISH), target='zh') == 'wrong language: en instead of zh'
  assert reason('language', sample(ENGLISH.replace('so', '所以')), min_share=1.0)
  named = sample(CHINESE, language='zh')
  assert reason('language', named) is None
  assert reason('language', named, target='de') == 'wrong language: zh instead of de'
  assert reason('language', sample('so 5+3=8', question='Wie viele sind es?')) is None
  wordless = dict(question='3 × 4 − 5 = ?')
  for reasoning in (ENGLISH, CHINESE, GERMAN):
    assert reason('language', sample(reasoning, **wordless)) is None
  assert reason('language', sample(ENGLISH + CHINESE, **wordless)).startswith('mixed')


def test_code_blocks_and_long_paragraphs():
  assert reason('code', sample(ENGLISH + '\n```python\nprint(12 - 5)\n```')) == 'code block'
  assert reason('code', sample(ENGLISH + '\n~~~\nx\n~~~')) == 'code block'
  assert reason('code', sample(ENGLISH + ' `12 - 5` ~~~ about 7')) is None
  assert reason('code', sample(answer='```7```')) is None
  text = '\n\n'.join(['x' * 60] * 5)
  assert reason('paragraphs', sample(text), max_characters=60) is None
  assert reason('paragraphs', sample(text), max_characters=59) == 'paragraph of 60 characters'
  broken = text.replace('\n\n', '\n', 1)
  assert reason('paragraphs', sample(broken), max_characters=60) == 'paragraph of 121 characters'


def test_duplicates_are_of_the_same_question():
  spaced = f'{ENGLISH.upper().replace(",", " ")}\n'
  near = ENGLISH.replace('hence', 'therefore')
  samples = [sample(), sample(near), sample(spaced), sample(CHINESE),
             sample(question='Another question?'), sample(question=QUESTION.lower() + ' ')]
  curated = curate(samples, {'duplicates': {'max_similarity': 0.7}}, seed=0)
  assert curated.kept == [samples[0], samples[3], samples[4]]
  said = [reasons['duplicates'] for _, reasons in curated.refused]
  assert said[0].startswith('near-duplicate, similarity 0.') and said[1:] == ['duplicate'] * 2
  assert curated.counts == {'drawn': 6, 'kept': 3, 'refused/duplicates': 3}
  exact = curate(samples, {'duplicates': {'max_similarity': 1.0}}, seed=0)
  assert samples[1] in exact.kept and len(exact.kept) == 4


def test_other_numbers_are_no_duplicate():
  texts = ['12 - 5 = 7', '12 + 5 = 7', '12 − 5 = 8', '']
  samples = [sample(text, answer='') for text in texts]
  assert curate(samples, {'duplicates': {'max_similarity': 1.0}}, seed=0).kept == samples


def test_the_cap_draws_by_the_seed_for_each_prompt():
  samples = [sample(f'{n}', question=f'q{q}', example_id=q) for q in range(9) for n in range(9 - q)]
  drawn = [curate(samples, {'cap': {'per_prompt': 3}}, seed=seed).kept for seed in (0, 0, 1)]
  assert drawn[0] == drawn[1] != drawn[2]
  for kept in drawn:
    assert kept == [given for given in samples if given in kept]      # in their order
    for q in range(9):
      assert sum(given.question == f'q{q}' for given in kept) == min(3, 9 - q)


def test_every_reason_is_told_and_set_filters_see_what_is_left():
  bad = sample(CHINESE, correct=False, truncated=True)
  samples = [bad, sample(), bad, sample(), sample(CHINESE)]
  filters = {'cap': {'per_prompt': 1}, 'duplicates': {}, 'language': {}, 'truncated': {},
             'correct': {}}
  curated = curate(samples, filters, seed=0)
  assert curated.kept == [samples[1]]
  assert [set(reasons) for _, reasons in curated.refused] == [
      {'correct', 'truncated', 'language'}, {'correct', 'truncated', 'language'}, {'duplicates'},
      {'language'}]
  assert curated.counts == {
      'drawn': 5, 'kept': 1, 'refused/correct': 2, 'refused/truncated': 2, 'refused/language': 3,
      'refused/duplicates': 1, 'refused/cap': 0}
  assert curate([], filters, seed=0).counts['drawn'] == 0
  assert curate(samples, {}, seed=0).kept == samples


ANYTHING = st.text(st.sampled_from('ab1. \n`<>/think答\ud800\u202e\u0301$\\{}~'), max_size=60)


@hypothesis.settings(deadline=None, derandomize=True, max_examples=200)
@hypothesis.given(st.lists(st.builds(
    Sample, question=ANYTHING, completion=ANYTHING, correct=st.sampled_from([True, False, None]),
    truncated=st.booleans(), prompt_opens_think=st.booleans()), max_size=6), st.integers(0, 3))
def test_no_sample_is_lost_or_invented(samples, seed):
  filters = dict.fromkeys(curation.SETTINGS, {})
  curated = curate(samples, filters, seed=seed)
  assert curated == curate(samples, filters, seed=seed)
  both = [*curated.kept, *(given for given, _ in curated.refused)]
  assert sorted(both, key=repr) == sorted(samples, key=repr)
  assert all(reasons for _, reasons in curated.refused)
  for given in samples:
    rewritten = rewrite(given)
    if rewritten is not None:
      assert format_reward(Completion(rewritten.text, 0, False), {}) == 1
      assert canonical_answer(rewritten.text) == canonical_answer(
          given.text, truncated=given.truncated)


@pytest.mark.parametrize('unit', ['a ', '\n', '\n ', '`', '<think>', '~~~\n', '然', '. ', '\u0301'])
def test_huge_completions_take_linear_time(unit):
  given = Sample('q', (unit * 10**5)[:10**5])
  start = time.process_time()
  curate([given, given], dict.fromkeys(curation.SETTINGS, {}), seed=0)
  rewrite(given)
  assert time.process_time() - start < 5      # seconds; about half of one


@pytest.mark.parametrize('filters, sentence', [
    ({'length': dict(min_tokens=3, max_tokens=2)}, 'filters.length: min_tokens=3, max_tokens=2'),
    ({'length': dict(min_tokens=-1)}, 'filters.length: min_tokens=-1'),
    ({'repetition': dict(max_share=1.5)}, 'filters.repetition: max_share=1.5 is out of range'),
    ({'repetition': dict(n=0)}, 'filters.repetition: n.* at least 1'),
    ({'language': dict(target='klingon')}, "filters.language: The language 'klingon' is not known"),
    ({'language': dict(min_share=-0.1)}, 'filters.language: min_share=-0.1'),
    ({'paragraphs': dict(max_characters=0)}, 'filters.paragraphs: max_characters.* at least 1'),
    ({'duplicates': dict(max_similarity=2)}, 'filters.duplicates: max_similarity=2'),
    ({'cap': dict(per_prompt=0)}, 'filters.cap: per_prompt.* at least 1')])
def test_impossible_settings_are_refused_by_name(filters, sentence):
  with pytest.raises(ValueError, match=sentence):
    curate([], filters, seed=0)


def test_repeated_draws_of_the_miniature_are_curated_alike():
  from r1jax.data import miniature
  rng = random.Random(0)
  samples = []
  for example_id in range(60):
    example = miniature.draw_calculation(rng, False, 5, 8)
    for form in ('proper', 'proper', 'chain', 'bare'):
      text = miniature.answer_calculation(rng, example, form)
      samples.append(Sample(example['question'], text, example_id=example_id, reasoning_tokens=9))
  filters = {'format': {}, 'language': {}, 'cap': {'per_prompt': 1}}
  curated = curate(samples, filters, seed=0)
  assert curated.counts['refused/format'] == 120 and 10 < curated.counts['refused/language'] < 120
  assert len({given.question for given in curated.kept}) == len(curated.kept) > 40
  for given in curated.kept:
    assert canonical_answer(rewrite(given).text) == canonical_answer(given.text)
