"""Choices in their usual forms, and nothing hedged."""
import random

import pytest

from r1jax.rewards import choice
from r1jax.rewards.accuracy import canonical_answer
from r1jax.rewards.choice import choice_reward
from r1jax.rewards.completion import Completion


def reward(text, gold, question='Which?'):
  return choice_reward(Completion(text, 1, False), {'answer': gold, 'question': question})


def of_block(table):
  """The answers of a table, each in an answer block."""
  return [f"<answer> {text.strip().replace('⏎', chr(10))} </answer>"
          for row in table.strip().splitlines() for text in row.split(' | ')]


USUAL = of_block(r'''
    B | (B) | B. | \boxed{\text{B}} | \textbf{(B)} | \mathrm{B} | Option B | The answer is B
    B is correct. | （B） | 答案是B | 选B | 选项B | b | (b) | b) | b. | B: a dog | B) 42 | **B**
    The correct answer is (B) 42 | I choose B | Ｂ | 𝐁 | B - a dog | [B] | "B" | `B` | $B$ | B.42
    $\text{B}$ | \(B\) | \boxed{\textbf{(B)}} | \text{(B) } 42 | \boxed{\mathrm{(B)}\ 42} | 'B'
    答案：B | 正确答案是B。 | 故选B | 所以选B | 本题答案为B | 【B】 | B、狗 | 我选B | B是正确的
    应选B | option b | Answer: b | the answer is b | Option (B) | Choice B | Letter B
    **Answer: B** | The final answer is $\boxed{B}$ | It is B. | So B. | Therefore, B
    B, because a dog barks | B is the right answer | The correct option is B. | I'd go with B.
    I select option B | _B_ | B. Vitamin C | B. Vitamin C. | (B) A dog | B) A cat is an animal
    B. I think so | B: H2O | B. E = mc^2 | B. x^2 + 1 | B) 3.5 m/s | The answer is B, not C
    not A but B | B, not A | B! | B. C is wrong | B, since C is too large
    C is wrong. B is right. | La respuesta es B | B. DNA | Die Antwort ist B | La réponse est B
    answer = B | 应选B项 | B and not C | B项 | 选B吧 | The answer = B
    The answer must be B | B | \boxed{\text{Option B}}''')
HEDGED = of_block(r'''
    ABCD | B or C | B. C is also right | (A)(B)(C)(D) | not B | B. or a
    The answer is C, not (B) | B? | maybe B, maybe C | either | B (or C) | neither B | B is wrong
    A or B | B/C | B, C | BC | B and C | B & C | B; C | B C | (B) (C) | (B) or (C)
    Either B or C | either B | Maybe B | BB | B or something else | It is not B
    The answer isn't B | The answer cannot be B | all but B | anything but B | All except B
    B is not correct | B is incorrect | B isn't right | B is false | neither B nor C | perhaps B
    possibly B | It might be B | B, maybe C | B, or C | B. Or C. | 8 | B. C too | B. C | B. (C)
    B, also C | B as well as C | B. C works too | B. C equally good | В
    The answer is B. The answer is C. | B. Answer: C | Option B. Option C. | A/B/C/D | A|B
    B if x | A. B. C. D. | A) B) C) D) | a or b | (a) or (b) | Bees | Be | The dog | ball
    all of the above | B或C | B和C | B或者C | 不是B | 不选B | B不对 | B错误 | 可能是B | B、C
    答案是B或C | 选B或C | B? C? | 答案是B，也可能是C | B, but C is also correct | If not B then C
    B = C | A. B | A: B | β | ß | B⏎C | B⏎⏎C | B? No, C | Is it B? | B or not B | b or a | B ou C
    B oder C | nicht B | A B C | \boxed{B}\text{ or }\boxed{C} | \text{B or C} | \text{B}\text{C}
    B \lor C | \text{not B} | C instead of B | I reject B | exclude B | one of A and B | none
    the opposite of B | If A then B | B-
    I do not know | 答案是C，不是B''')


@pytest.mark.parametrize('text', USUAL)
def test_usual_forms_choose_their_letter_and_no_other(text):
  assert [reward(text, gold) for gold in 'ABC'] == [0, 1, 0]


@pytest.mark.parametrize('text', HEDGED)
def test_hedged_and_denied_choices_are_wrong(text):
  assert reward(text, 'B') == 0


@pytest.mark.parametrize('text', [
    '', 'A', '<answer>Bees buzz</answer>', '<answer>A. Vitamin B</answer>',
    'The answer is A. B is wrong',
    '<answer>B</answer><answer>B</answer>', '<answer>' + 'B. ' * 10**5 + '</answer>',
    'The answer is B or C.', 'The answer is B. Or maybe C.', 'The answer is not B.',
    'The answer is B. C is also right.', 'Maybe B, maybe C.', '(A) (B) (C) (D)', 'Answer: A, B, C',
    'The answer is B.\nThe answer is C.', 'Vitamin B is good', 'The answer is B? I am not sure.',
    'We have B = 5', '<think>The answer is B.</think>'], ids=lambda text: text[:30])
def test_other_prose_is_wrong(text):
  assert reward(text, 'B') == 0


@pytest.mark.parametrize('text', [
    'B', '(B)', 'B. a dog', 'The answer is B.', 'A cat is no dog.\nAnswer: **B**', '因此答案是B。',
    'It is (B) since A cat is none.', '<think>A</think>\nB', 'So the correct option is B.',
    'I think A is wrong, so it must be B.', 'It is B.',
    'Let me check option A: wrong. Option C: wrong. Option B works.', 'Hence, **B**.', '所以选B',
    'I considered option C but it is wrong. So B.', 'Either B or C. I would go with B.',
    'The answer is C? No. The answer is B.', 'The answer is B, not (C)', 'A: no\nC: no\nAnswer: B',
    'Answer: B\nExplanation: A is wrong because it is too small, C and D are too large.',
    'The correct answer is:\n\nB) 42', 'The final answer is B: a dog. I hope it is correct.'])
def test_the_last_stated_letter_of_prose_counts(text):
  assert reward(text, 'B') == 1 and reward(text, 'C') == 0


def test_articles_and_the_pronoun_are_no_choices():
  for text in ('<answer>A cat</answer>', 'The answer is A cat', 'A cat', '<answer>I think</answer>',
               'So I think that a cat is one.'):
    assert reward(text, 'A') == reward(text, 'I') == 0


SEVERAL = of_block(r'''
    A and C | A,C | AC | (A)(C) | C, A | CA | A & C | A C | (A) and (C) | The answers are A and C
    A and C are correct | Options A and C | 答案是AC | 选AC | A、C | A和C | \boxed{A, C} | (A, C)
    a, c | ["A", "C"] | \boxed{\text{A and C}} | **A** and **C** | A. dog, C. cat | 答案：A、C''')
OTHERS = of_block(r'''
    A | C | A or C | ABC | A, B, C | A, B | not A and C | A and maybe C | ABCD | AD
    either A or C | B | neither A nor C''')


@pytest.mark.parametrize('gold', ['A, C', 'AC', '["A", "C"]', ['A', 'C'], 'A and C'])
def test_several_right_letters_must_all_be_chosen(gold):
  assert [text for text in SEVERAL if reward(text, gold) != 1] == []
  assert [text for text in OTHERS if reward(text, gold) != 0] == []


def test_the_text_of_a_listed_option_is_known():
  question = 'Which?\nA. a cat\nB. Both A and C\nC. C major\nD. all of the above'
  for text, gold in (('B. Both A and C', 'B'), ('C. C major', 'C'), ('(B) both A and C.', 'B'),
                     ('The answer is B. Both A and C', 'B'), ('D) All of the above', 'D')):
    assert reward(f'<answer>{text}</answer>', gold, question) == 1
  for text, gold in (('B. Both A and C or D', 'B'), ('C. C major. D', 'C'), ('B. A and B', 'B')):
    assert reward(f'<answer>{text}</answer>', gold, question) == 0


def test_options_may_be_numbered():
  right = of_block('2 | (2) | 2. | Option 2 | The answer is 2 | 2) 42 | 2. 3 apples | 答案是2')
  wrong = of_block('2 or 3 | 3 | 12 | 2.5 | not 2 | 2, 3 | (2)(3) | 2 and 3 | B')
  assert {reward(text, '2') for text in right} == {1}
  assert {reward(text, '2') for text in wrong} == {0}


@pytest.mark.parametrize('gold', ['', 'Monday', 'ten apples', '9' * 400, '}{', 'x' * 301, '\x00',
                                  'A cat', 'B or C', 'The dog'])
def test_a_gold_that_is_no_choice_is_not_judged(gold):
  assert reward('<answer>A</answer>', gold) is None


def test_votes_are_over_letters_in_any_order_but_words_stay_words():
  for texts in (('A, C', 'C and A', 'AC', 'The answers are A and C'), ('DAB',), ('BAD',),
                (r'A \cup B',), (r'A \cap B',), ('A B',)):
    keys = {canonical_answer(f'<answer>{text}</answer>') for text in texts}
    assert len(keys) == 1 and not keys & {'ABD', None}
  signs = {canonical_answer(rf'<answer>A {sign} B</answer>') for sign in (r'\cup', r'\cap', '')}
  assert len(signs) == 3


def test_what_is_read_is_bounded(monkeypatch):
  """So the time is, whatever the length; spellings are searched in nothing longer."""
  read = []
  plain = choice._plain
  monkeypatch.setattr(
      choice, '_plain', lambda text, options: read.append(text) or plain(text, options))
  for text in ('B ' * 10**5, '<answer>' + '(' * 10**5 + '</answer>', '\\text{' * 10**5,
               '答案是B' * 10**5):
    assert reward(text, 'B', text) in (0, 1)
  assert read and max(map(len, read)) <= choice._MAX_PROSE


def test_no_text_crashes_it():
  rng = random.Random(0)
  pieces = ['A', 'B', '(', ')', ' or ', ' and ', ' not ', '.', ', ', ' ', '\n', 'is', ' answer ',
            '?', '答案', '选', '\\text{', '}', '\\boxed{', '<answer>', '</answer>', '\u0301',
            '\ud800', '-', "'", '2', '']
  for _ in range(500):
    text = ''.join(rng.choices(pieces, k=rng.randrange(30)))
    assert reward(text, rng.choice(('B', 'A, B', '2')), text) in (0, 1)


def test_a_thinking_that_the_prompt_opened_must_end():
  for text, value in (('<answer>B</answer>', 0.0), ('so</think> <answer>B</answer>', 1.0)):
    assert choice.choice_reward(
        Completion(text, 1, False), {'answer': 'B'}, prompt_opens_think=True) == value
