"""The language of each word, on texts that the word lists were not made from."""
import json
import os
import pathlib
import random
import re
import time
import unicodedata

import pytest

from r1jax.data import miniature
from r1jax.data.miniature_general import GENERAL_TASKS, draw_general
from r1jax.rewards import language
from r1jax.rewards.completion import Completion
from r1jax.rewards.suite import RewardSuite, named_rewards

# Austen, Kafka, Cervantes, Hugo, Lu Xun; and how a problem is solved in each language.
PROSE = {
    'en': 'It is a truth universally acknowledged, that a single man in possession of a good '
          'fortune, must be in want of a wife. However little known the feelings or views of such '
          'a man may be on his first entering a neighbourhood, this truth is so well fixed in the '
          'minds of the surrounding families.',
    'de': 'Als Gregor Samsa eines Morgens aus unruhigen Träumen erwachte, fand er sich in seinem '
          'Bett zu einem ungeheueren Ungeziefer verwandelt. Er lag auf seinem panzerartig harten '
          'Rücken und sah, wenn er den Kopf ein wenig hob, seinen gewölbten, braunen Bauch.',
    'es': 'En un lugar de la Mancha, de cuyo nombre no quiero acordarme, no ha mucho tiempo que '
          'vivía un hidalgo de los de lanza en astillero, adarga antigua, rocín flaco y galgo '
          'corredor. Una olla de algo más vaca que carnero consumía las tres partes.',
    'fr': 'En 1815, M. Charles-François-Bienvenu Myriel était évêque de Digne. C’était un '
          'vieillard d’environ soixante-quinze ans ; il occupait le siège de Digne depuis 1806. '
          'Quoique ce détail ne touche en aucune manière au fond même de ce que nous avons à '
          'raconter.',
    'zh': '我想：希望本是无所谓有，无所谓无的。这正如地上的路；其实地上本没有路，'
          '走的人多了，也便成了路。'}
REASONING = {
    'en': 'First we count the pencils: 4 boxes hold 12 each, so 4 × 12 = 48. Wait, Priya lost '
          'three of them on Tuesday, hence 48 − 3 = 45. Sharing these evenly among 9 pupils, '
          'everybody receives 45 / 9 = 5 pencils.',
    'de': 'Zunächst zählen wir die Bleistifte: 4 Schachteln mit je 12, also 4 × 12 = 48. Moment, '
          'Priya hat am Dienstag drei verloren, folglich 48 − 3 = 45. Verteilt man sie gleichmäßig '
          'auf 9 Schüler, so bekommt jeder 45 / 9 = 5 Stifte.',
    'es': 'Primero contamos los lápices: 4 cajas con 12 cada una, es decir, 4 × 12 = 48. Espera, '
          'Priya perdió tres el martes, por tanto 48 − 3 = 45. Repartidos por igual entre 9 '
          'alumnos, cada uno recibe 45 / 9 = 5 lápices.',
    'fr': 'Comptons d’abord les crayons : 4 boîtes de 12, soit 4 × 12 = 48. Attends, Priya en a '
          'perdu trois mardi, il en reste donc 48 − 3 = 45. Si on les partage également entre 9 '
          'élèves, chacun reçoit 45 / 9 = 5 crayons.',
    'zh': '首先数铅笔：4盒，每盒12支，所以 4 × 12 = 48。等等，Priya星期二丢了三支，'
          '因此 48 − 3 = 45。'
          '平均分给9个学生，每人得到 45 / 9 = 5 支。'}
ROOT = pathlib.Path(__file__).parents[1]
GSM8K = pathlib.Path(os.environ.get('R1JAX_GSM8K', ROOT / '../shared/data/gsm8k'))
NAMES = sorted(language.LANGUAGES)
TEXTS = [(name, text) for texts in (PROSE, REASONING) for name, text in texts.items()]


def reward(text, question='', **example):
  return language.language_reward(Completion(text, 9, False), {'question': question, **example})


@pytest.mark.parametrize('name, text', TEXTS)
def test_real_texts_are_of_their_language(name, text):
  assert language.identify(text) == name and not language.is_mixed(text)
  for target in NAMES:
    share = language.consistency(text, target)
    assert share >= 0.97 if target == name else share <= 0.05


@pytest.mark.parametrize('first', NAMES)
@pytest.mark.parametrize('second', NAMES)
def test_each_part_of_a_mixed_text_is_found(first, second):
  """Two sentences of one language amid those of another, counted to three words."""
  if first == second:
    return
  parts = [PROSE[first].split('. ')[0], REASONING[second], REASONING[first]]
  counts = language.count_words('\n'.join(parts))
  alone = [language.count_words(part).total() for part in parts]
  assert counts.total() == sum(alone)
  assert abs(counts[second] - alone[1]) <= 3 and abs(counts[first] - alone[0] - alone[2]) <= 3
  assert language.is_mixed('\n'.join(parts))


@pytest.mark.parametrize('text, counts', [
    ('', {}), ('12 + 7 = 19, 3/4, x², 50%', {}), ('然后then', {'zh': 2, 'en': 1}),
    ("don't, let's, Janet's", {'en': 3}), ('sin x + cos y = 5 km, gcd(a, b)', {}),
    ('triangle ABC with AB = BC', {'en': 2}), ('l’eau qu’il a bue aujourd’hui', {'fr': 4}),
    ('the_sum_of_all', {'en': 4}), ('51再51-9=42, 所以42', {'zh': 3}),
    ('Тогда мы сложим числа', {'other': 4}), ('まず二つの数を足します', {'other': 11}),
    ('xq zvkw qqjx wzrtp kxq vbnq zzw', {'other': 7})])
def test_what_is_a_word(text, counts):
  assert language.count_words(text) == counts


@pytest.mark.parametrize('text', [
    r'答案 $x_{max} + total$', r'答案 \(sum of x\) `print(total)` <think> \frac 12 x y </think>',
    '```python\nfor item in basket:\n  total += item.price\n``` 答案',
    r'答案 \[ \sum_{i} price_i \]',
    '答案 $$area = width \\cdot height$$'])
def test_formulas_code_and_tags_are_no_language(text):
  assert language.count_words(text) == {'zh': 2}


@pytest.mark.parametrize('hidden', [
    '`let us first add all of the apples`', '```\nwe then subtract what she has eaten\n```',
    '$we first add all of the apples$', r'$12 \text{ apples are left over}$',
    'ｗｅ ａｄｄ ｔｈｅ ａｐｐｌｅｓ', 'w\u200be a\u00addd t\u200ehe app\u2066les',
    '𝐰𝐞 𝐚𝐝𝐝 𝐭𝐡𝐞 𝐚𝐩𝐩𝐥𝐞𝐬', 'WE_ADD_THE_APPLES', r'\we \add \the \apples',
    '<we> <add> <the> <apples>'])
def test_prose_cannot_be_hidden(hidden):
  assert language.consistency(f'所以 {hidden} 答案', 'zh') <= 0.5


@pytest.mark.parametrize('written', [
    'ｗｅ ａｄｄ ｔｈｅ ａｐｐｌｅｓ',
    'w\u200be a\u00addd t\u200ehe app\u2066les', '𝐰𝐞 𝐚𝐝𝐝 𝐭𝐡𝐞 𝐚𝐩𝐩𝐥𝐞𝐬'])
def test_other_forms_of_letters_spell_the_same_words(written):
  assert language.count_words(f'{written} und') == language.count_words('we add the apples und')
  assert language.count_words(written) == {'en': 4}
  spoken = 'die Äpfel zählen für uns'
  decomposed = unicodedata.normalize('NFD', spoken)
  assert decomposed != spoken and language.count_words(decomposed) == {'de': 5}


@pytest.mark.parametrize('hidden', [
    '`然后我们相加`', '$然后$', '```\n先加后减\n```', '```然后', '然\u200f后'])
def test_other_scripts_are_words_wherever_they_stand(hidden):
  assert language.consistency(f'then {hidden} so', 'en') <= 0.5


@pytest.mark.skipif(not GSM8K.is_dir(), reason='needs GSM8K: set R1JAX_GSM8K to its folder')
def test_gsm8k_is_english():
  rows = [json.loads(line) for line in (GSM8K / 'test.jsonl').read_text().splitlines()[:400]]
  for field in ('question', 'answer'):
    texts = [re.sub('<<.*?>>', '', row[field]) for row in rows]
    assert sum(map(language.is_mixed, texts)) <= 4
    shares = [language.language_shares(text).get('en', 0) for text in texts]
    assert sum(shares) / len(shares) > 0.995


def test_one_name_or_loanword_belongs_to_what_it_stands_in():
  text = 'Danach gibt Siobhan dem Mathematiker noch acht Cupcakes, und die Software rechnet weiter.'
  assert language.count_words(text).keys() == {'de'}
  amid = 'Danach addieren wir beide Zahlen, then we multiply by two, und ziehen wieder drei ab.'
  assert language.count_words(amid) == {'de': 10, 'en': 5}


def test_a_word_of_several_languages_is_of_the_expected_one():
  for name in ('de', 'en'):
    assert language.consistency('so', name) == 1
  assert language.consistency('so', 'fr') == language.consistency('then', 'de') == 0


def test_mixed_is_more_than_a_tenth_of_other_languages():
  assert language.is_mixed('first we add 然后相减') and language.is_mixed('so 苹果 是 fruit')
  for text in ('first we add, then subtract', '12 + 7', '',
               '先加然后相减 $x + y$ 得到十二个苹果 Janet'):
    assert not language.is_mixed(text)


# The reward.


def test_the_chain_is_judged_and_the_answer_is_not():
  chinese, english = REASONING['zh'].replace('Priya', '她'), REASONING['en']
  assert reward(f'<think>{chinese}</think> <answer>It is five.</answer>', '有多少支铅笔？') == 1
  assert reward(f'<think>{english}</think> <answer>答案是五</answer>', '有多少支铅笔？') == 0
  assert reward(f'{english} <answer>答案</answer>', 'How many are there?') == 1    # opened, or torn
  assert reward('then 5+3=8, 再8-2=6', 'How many are there?') == 0.5
  assert reward(f'<think>so</think> {chinese}</think> 5', 'How many?') < 0.1


def test_without_words_there_is_nothing_to_mix_and_without_a_chain_nothing_to_reward():
  assert reward('<think>5+3=8, 8*2=16</think> <answer>16</answer>', 'How many?') == 1
  for text in ('', '<answer>16</answer>', '<think> \n</think><answer>16</answer>', '<think>'):
    assert reward(text, 'How many?') == 0


@pytest.mark.parametrize('name', NAMES)
def test_the_target_is_named_or_the_questions_own(name):
  text = REASONING[name]
  assert reward(text, PROSE[name]) == reward(text, 'How many?', language=name) > 0.95
  for absent in (None, ''):
    assert reward(text, PROSE[name], language=absent) > 0.95
  assert reward(text, 'How many?', language=f'{name.upper()}-XX') > 0.95
  assert reward(text, language={'en': 'zh'}.get(name, 'en')) < 0.1


def test_a_question_in_no_known_language_is_not_judged():
  for question in ('Сколько всего яблок осталось?', '3+4=?', 'りんごはいくつありますか'):
    assert reward('so 3+4=7', question) is None


def test_an_unknown_language_is_refused_by_name():
  with pytest.raises(ValueError, match=r"'klingon' is not known: name one of en \(English\), zh"):
    reward('so', 'How many?', language='klingon')
  with pytest.raises(ValueError, match="no reward named 'language_it': did you mean 'language'"):
    named_rewards({'language_it': 1.0})


def test_it_is_a_reward_of_the_suite():
  completions = [Completion(f'<think>{REASONING[name]}</think><answer>5</answer>', 9, False)
                 for name in ('en', 'de')]
  examples = [dict(question='Wie viele sind es?', answer='5')] * 2
  weights = {'number': 1.0, 'format': 0.5, 'language': 0.5, 'language_en': 0.25}
  with RewardSuite(named_rewards(weights)) as suite:
    rewards = suite.submit(completions, examples).collect()
    assert rewards.total == pytest.approx([1.75, 2.0])
    with pytest.raises(ValueError, match="'language' raised .*The language 'xx' is not known"):
      suite.submit(completions[:1], [dict(question='?', answer='5', language='xx')]).collect()


def test_the_miniatures_chains_and_questions_are_read():
  rng = random.Random(0)
  for _ in range(200):
    example = miniature.draw_calculation(rng, False, 5, 8)
    assert language.identify(example['question']) == example['language']
    chain = miniature.chain_of_thought(rng, example['terms'], example['language'])
    shares = language.language_shares(chain)
    spoken = {'zh'} if '\u4e00' <= max(chain) else set()
    spoken |= {'en'} if any(letter.isascii() and letter.isalpha() for letter in chain) else set()
    assert shares.keys() == spoken
    task = rng.choice([name for name in GENERAL_TASKS if name != 'translate'])
    example = draw_general(rng, task)
    assert language.identify(example['question']) == language.identify(example['answer']) == (
        example['language'])


def seconds_to_count(text):
  start = time.process_time()
  counts = language.count_words(text)
  assert all(count > 0 for count in counts.values())
  return time.process_time() - start


@pytest.mark.parametrize('unit', [
    'a', 'ab1', '\ud800', '\u202e', '\u0301', '\u0315\u0300', 'ж', '\\[', '$', '$a ', '`', '```',
    '<a', '\\text{', 'aa aa aa aa. ', "a'", 'が', '\ufdfa', 'T\u200bH', '𝐭', ' '])
def test_any_text_takes_linear_time(unit):
  text = (unit * 10**5)[:10**5]
  assert seconds_to_count(text) < 3 and seconds_to_count(f'`{text}`') < 3     # about 0.1


@pytest.mark.parametrize('unit', ['then ', '然', '`a ', '\\('])
def test_a_million_characters_take_about_a_second(unit):
  assert seconds_to_count((unit * 10**6)[:10**6]) < 15


def test_repetition_of_one_word_does_not_outweigh_more_than_its_share():
  text = REASONING['zh'] + ' then' * 50
  assert language.consistency(text, 'zh') < 0.6 and language.consistency(text, 'en') > 0.4
