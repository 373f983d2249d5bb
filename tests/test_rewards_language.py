"""The language of each word, on texts that the word lists were not made from."""
import base64
import json
import os
import pathlib
import random
import re
import unicodedata

import pytest

from r1jax.data import miniature
from r1jax.data.miniature_general import GENERAL_TASKS, draw_general
from r1jax.rewards import disguises, language
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


SENTENCES = {
    'de': 'der schnelle braune fuchs springt über den hund und lacht laut weil die sonne scheint '
          'und er heute sehr froh ist',
    'es': 'el rápido zorro marrón salta sobre el perro y se ríe porque hoy hace sol y está muy '
          'contento con su vida',
    'fr': 'le rapide renard brun saute par dessus le chien et rit parce que le soleil brille et il '
          'est très content aujourd’hui',
    'en': 'the quick brown fox jumps over the dog and laughs because the sun is shining and he is '
          'very happy today',
    'ru': 'быстрая коричневая лиса прыгает через собаку и громко смеётся потому что светит солнце'}


def disguised(text):
  """A sentence in each disguise, by name."""
  words = text.split()
  pairs, fours = ([' '.join(words[i:i + n]) for i in range(0, len(words), n)] for n in (2, 4))
  coded = base64.b64encode(text.encode()).decode()
  each = {    # a word at a time
      'code': '`{}`', 'math': '${}$', 'roman': r'\mathrm{{{}}}', 'roman math': r'$\mathrm{{{}}}$',
      'text': r'$\text{{{}}}$', 'operator': r'\operatorname{{{}}}', 'tags': '<{}>',
      'lists': '[{}]', 'command': '\\{}', 'braces': '{{{}}}', 'numbered': '{}1',
      'strings': '`"{}"`', 'call': '`{}()`'}
  spaced = {'spaced': ' ', 'dashed': '-', 'dotted': '.', 'underscored': '_', 'lines': '\n'}
  unseen = {'zero width': '\u200b', 'soft hyphen': '\u00ad', 'joiner': '\u034f',
            'filler': '\u3164', 'tag': '\U000e0061', 'accent': '\u0301'}
  letters = {'wide': 0xff41, 'bold': 0x1d41a, 'circled': 0x24d0, 'squared': 0x1f130,
             'dark': 0x1f170, 'flags': 0x1f1e6}
  twins = {'cyrillic': ('aeopcx', 'аеорсх'), 'greek': ('aeoinu', 'αεοινυ')}
  return {
      'fence': f'```\n{text}\n```', 'fenced lines': '```\n' + '\n'.join(words) + '\n```',
      'fenced fours': '```\n' + '\n'.join(fours) + '\n```', 'open fence': f'```\n{text}',
      'comments': '```python\n# ' + '\n# '.join(fours) + '\n```', 'display': f'$${text}$$',
      'pairs': ' '.join(f'`{pair}`' for pair in pairs), 'brackets': rf'\[{text}\]',
      'fours': ' '.join(f'${four}$' for four in fours), 'parentheses': rf'\({text}\)',
      'assigned': '```python\n' + '\n'.join(f'{word} = 1' for word in words) + '\n```',
      'thin spaces': '$' + r'\ '.join(words) + '$', 'names': '$' + '_'.join(words) + '$',
      'sum': '$' + ' + '.join(words) + '$', 'all text': rf'$\text{{{text}}}$', 'base64': coded,
      'all italic': rf'\(\mathit{{{text}}}\)', 'glued': ''.join(words), 'snake': '_'.join(words),
      'camel': ''.join(map(str.title, words)), 'camel code': f"`{''.join(map(str.title, words))}`",
      'snake code': f"`{'_'.join(words)}`", 'base64 code': f'`{coded}`', 'capitals': text.upper(),
      'entities': ''.join(f'&#{ord(char)};' for char in text),
      'hexadecimal': ''.join(f'&#x{ord(char):x};' for char in text),
      'braille': ''.join(char if char == ' ' else chr(0x2801 + ord(char) % 64) for char in text),
      'padded': text + ' the' * 300, 'counted': text + ''.join(f' the {i}' for i in range(300)),
      'filled': text + ' so we add the number to the sum.' * 60,
      **{name: ' '.join(form.format(word) for word in words) for name, form in each.items()},
      **{name: '  '.join(gap.join(word) for word in words) for name, gap in spaced.items()},
      **{name: char.join(text) for name, char in unseen.items()},
      **{name: text.translate({97 + i: first + i for i in range(26)})
         for name, first in letters.items()},
      **{name: text.translate(str.maketrans(*pair)) for name, pair in twins.items()}}


@pytest.mark.parametrize('target, spoken', [
    ('en', 'de'), ('en', 'es'), ('en', 'fr'), ('en', 'ru'), ('zh', 'en'), ('de', 'en'),
    ('fr', 'en')])
def test_no_disguise_makes_another_language_the_target(target, spoken):
  texts = disguised(SENTENCES[spoken])
  rewards = {name: reward(f'<think> {text} </think> <answer>5</answer>', language=target)
             for name, text in texts.items()}
  assert len(texts) > 50 and {name for name, value in rewards.items() if value > 0.5} == set()


@pytest.mark.parametrize('chain', [
    'the ' * 300, 'the the the', 'the of ' * 100, 'we add the number to the sum. ' * 40, '对' * 200,
    '然后' * 100, 'wait ' * 50, 'the, ' * 50, 'Then. ' * 50, 'the-' * 100, 'so then we add ' * 40,
    '5 ' * 300, 'the\n' * 100, 'the. the! the? ' * 30, ' '.join(f'the {i}' for i in range(100)),
    ' '.join(f'{i} the' for i in range(40)), '🐕🦊🐇🌞🌳', 'so ' + '🐕🦊🐇🌞🌳' * 20, '...',
    '\u200b', '$$'],
    ids=lambda chain: chain[:12])
def test_words_again_and_again_and_pictures_are_no_reasoning(chain):
  for target in ('en', 'zh'):
    assert reward(f'<think> {chain} </think> <answer>5</answer>', language=target) <= 0.5


CODE = """```python
def total_cost(items, tax_rate=0.2):
  total = 0
  for item in items:
    if item.price is not None and item.count > 0:
      total += item.price * item.count
  return total * (1 + tax_rate)

print(total_cost(basket))
```
```sql
SELECT name, SUM(price) FROM orders WHERE date > 5 GROUP BY name;
```"""
FORMULAS = (
    r'$x = \frac{-b \pm \sqrt{b^2-4ac}}{2a}$ $$\sum_{i=1}^{n} i = \frac{n(n+1)}{2}$$ '
    r'\(a^2+b^2=c^2\) \[ \mathrm{area} = \pi r^2 \] $5\,\mathrm{cm}$ `total` `print(x)` $AB = BC$ '
    r'`for i in range(10)` \boxed{5} $\triangle ABC$ \mathbb{R} \left( 3 \right) 2πr Δx cosθ λmax '
    'x ∈ {a, b, c, d, e, f} ✅')


@pytest.mark.parametrize('name, text', TEXTS)
def test_honest_chains_with_code_and_formulas_keep_their_reward(name, text):
  text = text.replace('Priya', '她') if name == 'zh' else text
  for chain in (text, f'{text} {FORMULAS}', f'{text}\n{CODE}',
                f'{text} {FORMULAS}\n{CODE}\n{text}'):
    assert reward(f'<think>{chain}</think> <answer>5</answer>', language=name) >= 0.99


@pytest.mark.parametrize('name, chain', [
    ('en', "Let's compute. Step 1: 3 + 4 = 7. Step 2: 7 * 2 = 14. Step 3: 14 - 5 = 9. So 9."),
    ('en', 'Wait, wait. No, that is wrong. Let me check: (-12)^2 = 144. Hmm, is x = -12 right?'),
    ('en', 'Spell "hello" backwards: h e l l o becomes o l l e h. So the answer is olleh.'),
    ('en', 'Let a, b, c, d, e, f be integers with a + b + c = d + e + f. We take each in turn.'),
    ('en', '\n'.join(f'Step {i}: we add {i} to {i * i}, which is {i * i + i}.' for i in range(40))),
    ('en', 'The hash is 5d41402abc4b2a76b9719d911017c592, so we compare it with the other one.'),
    ('zh', '慢慢来，好好想想。等等，等等，错了。再看看，刚刚算的是六，现在应该是七。'),
    ('zh', '在 `main` 函数中调用 `add(a, b)`，返回 `result`。然后打印它的值，所以输出是五。'),
    ('de', 'Die Donaudampfschifffahrtsgesellschaft hat zwölf Schiffe, also sechzig Plätze.')])
def test_other_honest_chains_do_too(name, chain):
  assert reward(f'<think>{chain}</think> <answer>5</answer>', language=name) >= 0.99


def test_an_answer_without_tags_may_repeat_a_word():
  assert reward('tree tree tree tree tree tree', 'Write tree six times.') == 1
  assert reward('<think>tree tree tree tree</think> 5', 'Write tree six times.') <= 0.5


@pytest.mark.parametrize('unit', [
    'a', 'ab1', '\ud800', '\u202e', '\u0301', '\u0315\u0300', 'ж', '\\[', '$', '$a ', '`', '```',
    '<a', '\\text{', 'aa aa aa aa. ', "a'", 'が', '\ufdfa', 'T\u200bH', '𝐭', ' ', 'a ', '&', 'α',
    '`der ', '\\('])
def test_any_text_is_counted(unit):
  """In linear time: a minute or more if it were quadratic."""
  text = (unit * 10**5)[:10**5]
  for form in (text, f'`{text}`'):
    assert all(count > 0 for count in language.count_words(form).values())


def test_what_is_read_is_bounded(monkeypatch):
  read = []
  spell_out = disguises.undisguised
  monkeypatch.setattr(
      disguises, 'undisguised', lambda text: read.append(len(text)) or spell_out(text))
  text = f'<think>{"so we add 5. " * 10_000}{"und " * 80_000}</think>'
  assert reward(text, language='en') < 0.6
  assert max(read) <= 200_001


def test_repetition_of_one_word_does_not_outweigh_more_than_its_share():
  text = REASONING['zh'] + ' then' * 50
  assert language.consistency(text, 'zh') < 0.6 and language.consistency(text, 'en') > 0.4
