"""The one number that an answer gives among its words, and where there is none."""
from fractions import Fraction
import random

import pytest

from r1jax.rewards import number_answers


def value(reading):
  return None if reading is None else reading.value


@pytest.mark.parametrize('text', [
    '72 dollars', '72dollars', '$72', r'\$72.00', '72 €', 'USD 72', 'US$72', 'Rs. 72', '72¥',
    '72元', r'72\text{ dollars}', r'72\,\mathrm{cm}^2', '72 cm²', '72 m/s^2', r'72\ \frac{km}{h}',
    '72 km/h', '72 sq. ft.', '72 square feet', '72°', r'72^\circ', r'72^{\circ}C', '72 °F', '72%',
    r'72\%', '72 percent', '72 dollars per day', '72 dollars/day', '72 times', '72 more',
    '72 boys and girls', 'The answer is 72.', 'The answer is: 72', 'answer: 72',
    'He pays 72 dollars.', 'about 72 pounds', 'a total of 72 apples', 'AB = 72', 'x = 72', 'x=72',
    '$x = 72$', 'x_1 = 72', 'f(3) = 72', r'\angle ABC = 72^\circ', '72 = x', '3 + 4 = 72',
    r'8 \times 9 = 72', '144/2 = 72', '72 = 72.0', '{72}', '(72)', '(72 dollars)', r'\mathbf{72}',
    r'\displaystyle 72', '**72**', '_72_', '"72"', 'The answer is **72** dollars.',
    'The answer is $72$.', r'Thus, \(72\).', '72,', '72;', '72\\\\', '=72', r'\approx 72', '→ 72',
    '答案：72', '答案是72。', '一共有72个苹果', '72千克', '７２', '共72元，',
    '8 × 9 = 72, so the answer is 72.', 'He pays 72 dollars, i.e. $72.', '72 (seventy-two)',
    'Total: $72', '72\nfeet', 'So\n72', '72.0...',
    'seventy-two', 'The answer is seventy two dollars.', 'The two friends have 72 apples.', '[72]',
    '72 = 72', 'It is 72!', '是72!', r'\large 72', '72\\ ', '7.2 × 10', 'Answer - 72', '• 72',
    '72 ✓', '<b>72</b>', '72---done', '72（元）', r'72 \Omega', r'72\ m\,s^{-1}', r'72 {\rm cm}',
    '72 in^2', 'P(X=3) = 72', '72원'])
def test_pitfall_31_a_number_among_words_and_units_is_read(text):
  assert value(number_answers.read_answer(text)) == 72


@pytest.mark.parametrize('text', [
    '72 thousand', '72 million', '72k', '$72M', '72 dozen', '72万', '72亿', '72百', '72千元',
    '72多', '72 or 73', '72 and 73', '72 or seventy-three', '72, 73', '72,73', '72;73', '72 73',
    '72/73/74', 'between 72 and 80', '72-80', '72–80', '72 to 80', '72～80', '72±1', r'72 \pm 1',
    'from 71 to 72', '72, 72', '72 and 72', '72,72,72', r'\{72\}', '(72, 72)',
    'x = 71, y = 72', 'x = 71 or x = 72', '71 = 72', '1 = 2 = 72', '71, so 72', '71 → 72',
    '72 = 8 × 9', '72 ≈ 71.6', 'at least 72', 'at most 72', 'more than 72', 'over 72', 'up to 72',
    '>72', r'\ge 72', 'x > 72', '72+', '72 or more', '72 at least', 'nearly 72', 'not 72',
    '72 is wrong', "It isn't 72", '≠ 72', 'half of 72', 'twice 72', '72 and a half', '72 squared',
    'square root of 72', '72 factorial', '72 hundredths', '10 + 62', '70+2', '8*9', r'8\cdot 9',
    '72 + 0', '72 - 0', '72*1', '0 + 72', '72 plus 1', '72 times 3', 'three times 72', '72x',
    '72 x', '72xy', r'72\pi', '72i', 'x72', r'\sqrt{72}', r'\log 72', r'\log_2 72', '72_8', '|72|',
    '2^{72}', '72^x', '72nd', '72th', '72-th', '第72', '3:72', '72:3', '12/72/2020', '1.72.0',
    'v72', 'Step 72', 'H72', '72?', '#72', '72-page', '不是72', '至少72', '超过72元', '72或73',
    '71到72', '72以上', '约等于71', '7 2', '72 5', '72.0.0', '7٤2', 'In 5 days he pays 72 dollars',
    '72 dollars and 50 cents', '72 feet 5 inches', '72 out of 100', '1 of 72',
    '72' + ' ' * 300 + 'a', '72 apples\n73 pears', '72. 73.', '-72', 'minus 72', '负72',
    '72 (in thousands)', 'a hundred and 72', '72, seventy-three', '72 (seventy-three)', '72만원',
    '$72 and fifty cents', '72 and three quarters', 'twice as much as 72', 'a minimum of 72',
    '72 and above', '72 is greater than the answer', '72 times itself', '72 to the fifth', 'A72',
    'eq. 72', 'anything but 72', r'\not= 72', '144÷2', '~~72~~', '72 ❌', '8 ✖ 9', '—72',
    '72的两倍', '72的平方', '两个72', '72, ...', 'from 72', 'seventy-two hundred', 'seventy-second',
    'f(72)', '72 if n is even', '72 undefined', 'null 72', 'nan 72', '72 error', 'infinity 72',
    '72 is impossible', '72, etc.', '72 inverse', '72 per mille'])
def test_pitfall_31_anything_but_one_number_is_not_72(text):
  assert value(number_answers.read_answer(text)) != 72


@pytest.mark.parametrize('text, number', [
    ('-72', -72), ('x = -72', -72), ('x = - 72', -72), ('-$72', -72), ('$-72', -72), ('−72', -72),
    ('is -72 degrees', -72), ('minus 72', -72), ('负72', -72), ('x + 3 = -72', -72), ('$-72$', -72),
    (r'P(A)=\frac12', '1/2'), ('1 1/2 cups', '3/2'), (r'\frac{3}{4}\text{ cup}', '3/4'),
    ('5! = 120', 120), ('1,234 km', 1234), ('1 234 km', 1234), ('x = 1.2e3 m', 1200)])
def test_signs_and_notation_among_words(text, number):
  assert value(number_answers.read_answer(text)) == Fraction(number)


@pytest.mark.parametrize('text, number', [
    ('3 + 4 = 7.', 7), ('It costs $1,234.50!', '1234.50'), ('so x=-3', -3), ('a 1/2 cup', '1/2'),
    ('等于42。', 42), ('共有42个', 42), ('wait...5', 5), ('42kg', 42),
    (r'hence $\frac{1}{2}$', '1/2'), ('He has 3 apples and 5 pears.', 5),
    ('In 3 days he pays 5 dollars.', 5), ('-4 is wrong; it is 5', 5), ('not 4 but 5', 5),
    ('1.234e3', 1234), ('**Answer:** 5', 5), ('1. He pays 5\n2. So $x = 5$.', 5), ('- It is 5', 5),
    ('x^2 = 25, so x = 5', 5), ('5 m^2', 5), ('2/5', '2/5'), ('The sum is 3+2=5 apples', 5),
    ('It costs **$5**.', 5), ('所以答案是５。', 5), ('Thus $x = ５$.', 5), ('It is 5!', 5),
    ('- one\n- 5 apples', 5), ('Is it 4? No, it is 5', 5), ('5 dollars (five)', 5)])
def test_prose_gives_its_last_number(text, number):
  assert value(number_answers.read_prose(text)) == Fraction(number)


@pytest.mark.parametrize('text', [
    r'\sqrt{5}', r'\sqrt5', '√5', '2^5', '2^{5}', '10^5', r'\log_2 5', r'\ln 5', 'x_5', 'x_{5}',
    '[0,5)', '[0, 5)', '(3, 5)', '(x, 5)', '3, 5', '3,5', '3 and 5', '3 or 5', '3 to 5', '3 * 5',
    '3*5', '3 + 5', '3 - 5', '3-5', r'3 \cdot 5', '2 / 5', '3:5', '3 : 5', '5x', '5 x', '5th',
    'the 5th', '5 thousand', '5k', '5万', '12,5', '5-7', '10-5', '5-year', '5.1.5', 'v5', 'v1.5',
    '12:05', '2024-01-05', '1/2/5', '555-5', 'Step 5', 'as in equation (5)', 'see [5]', '> 5',
    r'\le 5', 'at least 5', 'more than 5', 'not 5', 'is not 5', "isn't 5", '5 is wrong',
    'half of 5', 'twice 5', '5 squared', r'5\pi', '5 + x', '5%x', 'f(5)', '|5|', '$5!$', r'\{5\}',
    '±5', '5±1', '第5', '步骤5', '不是5', '至少5', '5 or 6 or so', '4 = 5', '5?',
    'Text\n5. Then he goes home', '#5', 'H2O', 'none', r'\frac{5}{x}', r'\frac{x}{5}', '5 hundred',
    '5 and a half', 'x = 5y', '3—5', '1 in 5',
    'negative 5', '5 \\mod 3'])
def test_a_piece_of_something_else_is_not_the_number_of_prose(text):
  assert value(number_answers.read_prose(f'The final answer is {text}')) != 5


def test_only_the_end_of_prose_is_read():
  assert number_answers.read_prose('7' + ' ' * 1000) is None
  assert number_answers.read_prose('9' * 10**6) is None


@pytest.mark.parametrize('gold, answer, equal', [
    ('1/3', '0.333', True), ('1/3', r'0.\overline{3}', True), ('1/8', '0.13', False),
    ('42', '42.0', True), ('42', '42.0001', False),
    ('0.577', r'\frac{\sqrt3}{3} \approx 0.577', True), ('1/3', r'\frac13 \approx 0.333', True),
    ('0.333', r'\frac13 \approx 0.333', True), ('1/3', r'\frac13 \approx 0.33', True),
    ('1/3', r'\frac13 \approx 0.34', False), ('72', '71.6 ≈ 72', True), ('72', '71.4 ≈ 72', False),
    ('72', '71.6 = 72', False), (r'50\%', '50', True), (r'50\%', '50 percent', True),
    (r'50\%', '$50', False), (r'50\%', '0.5', False), ('$5', '5 dollars', True),
    ('$5', '5 euros', False), ('50', r'50\%', True), ('5', '5^\\circ', True),
    (r'5^\circ', '5°', True), ('50', '50‰', False), ('50‰', '50‰', True)])
def test_answers_are_compared_with_the_gold(gold, answer, equal):
  reading = number_answers.read_answer(answer)
  assert (reading is not None
          and number_answers.equals(number_answers.read_gold(gold), reading)) is equal


@pytest.mark.parametrize('gold, number', [
    ('72', 72), ('$1,234', 1234), (r'\$1,234', 1234), (r'50\%', 50), ('5^\\circ', 5), ('5°', 5),
    ('7/2', '7/2'), ('2^{10}', 1024), ('72 dollars', None), (r'5\text{ km}', None), ('5 km', None),
    ('x = 5', None), ('1011_2', None), ('(1,2)', None), ('-2,1', None), ('5元', None), ('5x', None),
    ('x', None), ('', None), (r'\{5\}', None), ('5, 5', None), ('9' * 301, None)])
def test_golds_that_are_numbers(gold, number):
  assert value(number_answers.read_gold(gold)) == (number and Fraction(number))


@pytest.mark.parametrize(
    'unit', ['9', '1,', '-', '(', '{', '$', '**', r'\frac', '1 ', '0.3', '=', '二'])
def test_a_text_of_any_length_is_read(unit):
  for length in (30, 10**5):
    number_answers.read_answer(unit * length)
    number_answers.read_prose(unit * length)


def test_random_texts_are_read_without_a_fault():
  rng = random.Random(0)
  units = ['72', '5', '.', ',', ' ', '-', '+', '/', '^', '{', '}', '(', ')', '=', '≈', '$',
           r'\frac',
           r'\sqrt', '!', 'x', 'cm', ' or ', '%', r'\circ', r'\overline', '10', '×', '\n', '*',
           '万', '\x00']
  for _ in range(2000):
    text = ''.join(rng.choices(units, k=rng.randrange(1, 16)))
    for reading in (number_answers.read_answer(text), number_answers.read_prose(text)):
      assert reading is None or isinstance(reading.value, Fraction)
