"""Verifiable instructions: every kind, with texts that follow it and texts that only seem to."""
import hypothesis
from hypothesis import strategies as st
import pytest

from r1jax.errors import UserError
from r1jax.rewards.completion import Completion
from r1jax.rewards.instructions import languages, measures
from r1jax.rewards.instructions.reward import KINDS, instructions_reward, read_instructions

ENGLISH = 'the cat sat on the mat and it was happy there for a long time'

# Kind -> (fields, texts that follow it, texts that do not).
CASES = {
    'keywords:existence': (
        dict(keywords=['sun', 'New York']),
        ['The sun in New York.', 'NEW\nYORK: sun!', '*Sun*, "New York"'],
        ['The sun.', 'Sunday in New York', 'sun New-York', 'The s\u200bunny New York']),
    'keywords:frequency': (
        dict(keyword='cat', frequency=2, relation='at least'),
        ['cat, cat', 'A Cat and a cat.', 'cat cat cat'],
        ['cat', 'cat concatenate', 'tomcat wildcat', 'cats cats', 'cat-cut category']),
    'keywords:forbidden_words': (
        dict(forbidden_words=['bad', 'very good']),
        ['Fine.', 'badge', 'good, very'], ['BAD', 'It is\nvery  good.', 'b\u200bad', 'not-bad']),
    'keywords:letter_frequency': (
        dict(letter='e', let_frequency=3, let_relation='less than'),
        ['Ee', 'No.'], ['eee', 'EeE x', 'never ever']),
    'language:response_language': (
        dict(language='de'),
        ['Der Hund rannte zum Haus, weil er hungrig war und es dort Essen gab.'],
        ['The dog ran home because it was hungry.', '狗跑回家', '42',
         'De hond rende naar het huis omdat hij honger had.']),
    'length_constraints:number_sentences': (
        dict(num_sentences=3, relation='less than'),
        ['One. Two.', 'Mr. Smith left at 3.5 p.m. today. Good.', '他来了。她走了。'],
        ['One. Two. Three.', 'a? b! c', '- one\n- two\n- three', '一。二。三。']),
    'length_constraints:number_paragraphs': (
        dict(num_paragraphs=2),
        ['One.\n***\nTwo.', '***\nOne.\n***\nTwo.\n***'],
        ['One.\n\nTwo.', 'One.\n***\n***\nTwo.', 'One.\n***\n-', 'One', 'a *** b *** c']),
    'length_constraints:number_words': (
        dict(num_words=4, relation='at least'),
        ['one two three four', "it's 3.5 o'clock now", '他来了吗'],
        ['one two three', '. - . - . - .', 'a\u200bb c d', '_ _ _ _ _']),
    'length_constraints:nth_paragraph_first_word': (
        dict(num_paragraphs=2, nth_paragraph=2, first_word='weeks'),
        ['One.\n\nWeeks later.', 'One.\n\n"Weeks" it took.'],
        ['One.\n\nWeekly.', 'Weeks\n\nOne', 'One.\n\nWeeks.\n\nThree', 'One. Weeks']),
    'detectable_content:number_placeholders': (
        dict(num_placeholders=2), ['[name] at [address]'],
        ['[name]', '[] []', '[name', '[ ] [.] [x]']),
    'detectable_content:postscript': (
        dict(postscript_marker='P.S.'), ['Hi.\nP.S. Bye.', 'Hi.\n\n**p. s.** bye', 'x\nPS: more'],
        ['Hi.', 'Hi.\nP.S.', 'the caps. Bye', 'Hi.\nP.P.S. Bye', 'Hi P.S. Bye']),
    'detectable_format:number_bullet_lists': (
        dict(num_bullets=2), ['* one\n* two', 'List:\n- one\n  - two', '• a\n• b'],
        ['* one', '* one\n* two\n* three', '* one\n* ', '**one**\n**two**', '-one\n-two']),
    'detectable_format:constrained_response': (
        {}, ['My answer is yes.', 'Well: my answer is No.'],
        ['yes', 'My answer is yes. My answer is no.', 'My answer is perhaps.']),
    'detectable_format:number_highlighted_sections': (
        dict(num_highlights=2), ['*one* and **two**', '*a*\n*b*'],
        ['*one*', '** ** **', '*one and two', '* one\n* two\n']),
    'detectable_format:multiple_sections': (
        dict(section_spliter='Section', num_sections=2),
        ['Section 1\nOne.\nSECTION 2\nTwo.', '**Section A**: x\n\n**Section B**: y'],
        ['Section 1\nOne.', 'Section 1\nx\nSection 1\ny', 'Section 1\nSection 2\n', 'Section one']),
    'detectable_format:json_format': (
        {}, ['{"a": [1, 2.50]}', '```json\n[1]\n```', ' {"a": 1}\n'],
        ['5', '{}', "{'a': 1}", '{"a": NaN}', 'Here: {"a": 1}', '[' * 100_000, '{"a": 1} x']),
    'detectable_format:title': (
        {}, ['<<A title>>\nText', 'x <<y>>'], ['A title', '<<>>', '<< >>', '<title>', '<<a\nb>>']),
    'combination:two_responses': (
        {}, ['One.\n******\nTwo.'],
        ['One.', 'One.\n******\none!', 'a\n******\nb\n******\nc', '******\nb', 'a\n***\nb']),
    'combination:repeat_prompt': (
        dict(prompt_to_repeat='Say it, please.'),
        ['Say it, please. It.', '"say  it, please." Here: it'],
        ['It.', 'Say it, please.', 'Say it please. It.', 'Yes. Say it, please. It.']),
    'startend:end_checker': (
        dict(end_phrase='Any questions?'), ['x. Any questions?', 'any\nquestions? "'],
        ['Any questions? No.', 'Any question?', 'questions?']),
    'startend:quotation': (
        {}, ['"All of it."', '“All of it.”'], ['"All" of it', 'All', '""', '"', '" "', '“x"']),
    'change_case:capital_word_frequency': (
        dict(capital_frequency=2, capital_relation='at least'),
        ['STOP NOW please', 'A B c'], ['STOP now', 'Stop Now', '1 2 3']),
    'change_case:english_capital': (
        {}, [ENGLISH.upper()], [ENGLISH, ENGLISH.upper() + ' x', 'DER HUND UND DIE KATZE', '42']),
    'change_case:english_lowercase': (
        {}, [ENGLISH], [ENGLISH.upper(), ENGLISH.capitalize(), 'der hund und die katze', '42']),
    'punctuation:no_comma': ({}, ['One; two.'], ['One, two.', '一，二', '一、二', 'a،b']),
}


def judge(text, *instructions, truncated=False, **settings):
  return instructions_reward(
      Completion(text, 9, truncated), {'instructions': list(instructions)}, **settings)


def test_all_25_kinds_are_here():
  assert len(KINDS) == 25 and CASES.keys() == KINDS.keys()


@pytest.mark.parametrize('kind', CASES)
def test_only_what_does_as_told_counts(kind):
  fields, follow, others = CASES[kind]
  instruction = {'kind': kind, **fields}
  for text in follow:
    assert judge(text, instruction) == 1, text
    assert judge(f'<think>hm</think> <answer>{text}</answer>', instruction) == 1, text
    assert judge(text, instruction, truncated=True) == 0
    assert judge(f'<think>{text}', instruction) == 0
  for text in others:
    assert judge(text, instruction) == 0, text


@pytest.mark.parametrize('kind', CASES)
@pytest.mark.parametrize('text', ['', ' \n', '\u200b', '<think>x</think>', '<answer></answer>',
                                  '<answer>a</answer><answer>b</answer>'])
def test_nothing_follows_no_instruction(kind, text):
  assert judge(text, {'kind': kind, **CASES[kind][0]}) == 0


def test_all_must_be_followed_or_the_share_counts():
  title, no_comma = {'kind': 'detectable_format:title'}, {'kind': 'punctuation:no_comma'}
  assert judge('<<T>> x', title, no_comma) == 1
  assert judge('<<T>> x, y', title, no_comma) == 0
  assert judge('<<T>> x, y', title, no_comma, score='share') == 0.5
  assert judge('anything') is None
  assert instructions_reward(Completion('x', 1, False), {}) is None


def test_the_loose_criterion_ignores_what_is_said_around_a_text():
  quoted = {'kind': 'startend:quotation'}
  for text in ('Sure, here it is:\n"All of it."', '"All of it."\nAnything else?', '*"All of it."*',
               'Sure:\n**"All of it."**\nBye'):
    assert judge(text, quoted) == 0
    assert judge(text, quoted, loose=True) == 1
  assert judge('Sure. All of it.', quoted, loose=True) == 0


def test_public_columns_are_read_as_they_are():
  row = {'instruction_id_list': ['keywords:frequency', 'punctuation:no_comma'],
         'kwargs': [{'keyword': 'a', 'frequency': 2, 'relation': 'at least', 'num_words': None},
                    None]}
  kinds = {'kind': 'keywords:frequency', 'keyword': 'a', 'frequency': 2, 'relation': 'at least'}
  assert read_instructions(row) == read_instructions(
      {'instructions': [kinds, {'kind': 'punctuation:no_comma'}]})


@pytest.mark.parametrize('given, said', [
    ('x', 'instructions must be a list of objects'),
    ([{}], 'the kind None of an instruction is unknown'),
    ([{'kind': 'punctuation:no_coma'}], "did you mean 'punctuation:no_comma'"),
    ([{'kind': 'keywords:existence'}], "'keywords:existence' needs the field 'keywords'"),
    ([{'kind': 'keywords:existence', 'keywords': []}], 'must be a list of texts'),
    ([{'kind': 'keywords:existence', 'keywords': ['']}], 'must be a list of texts'),
    ([{'kind': 'punctuation:no_comma', 'x': 1}], "has no field 'x'"),
    ([{'kind': 'detectable_format:number_bullet_lists', 'num_bullets': True}], 'a whole number'),
    ([{'kind': 'length_constraints:number_words', 'num_words': 3, 'relation': 'over'}],
     "must be one of 'at least'"),
    ([{'kind': 'language:response_language', 'language': 'xx'}], "must be one of ar, bg"),
])
def test_an_instruction_that_cannot_be_checked_is_refused(given, said):
  with pytest.raises(UserError, match=said):
    read_instructions({'instructions': given})


SENTENCES = {
    'pt': 'O cachorro correu para a casa porque estava com fome, mas ele não desistiu.',
    'it': 'Il cane è corso verso la casa perché aveva fame e non si è arreso.',
    'pl': 'Pies pobiegł do domu, ponieważ był głodny i nie było tam jedzenia.',
    'vi': 'Con chó chạy về nhà vì nó đói và không còn thức ăn trong sân của tôi.',
    'sw': 'Mbwa alikimbia kwa sababu alikuwa na njaa na hakuwa na chakula cha usiku.',
    'fi': 'Koira juoksi kotiin, koska se oli nälkäinen ja pihalla ei ollut enää ruokaa.',
    'hi': 'कुत्ता घर की ओर भागा क्योंकि वह भूखा था और आंगन में खाना नहीं था।',
    'mr': 'कुत्रा घराकडे धावला कारण त्याला भूक लागली होती आणि अंगणात अन्न नाही.',
    'ne': 'कुकुर घर तिर दौडियो किनभने उसलाई भोक लागेको थियो र आँगनमा खाना छैन, तर यो ठूलो कुरा हो।',
    'ar': 'ركض الكلب إلى المنزل لأنه كان جائعا ولم يكن هناك طعام في الفناء.',
    'fa': 'سگ به سمت خانه دوید چون گرسنه بود و دیگر غذایی در حیاط نبود، اما پدر آمد.',
    'ur': 'کتا گھر کی طرف بھاگا کیونکہ اسے بھوک لگی تھی اور صحن میں کھانا نہیں تھا۔',
    'ru': 'Собака побежала домой, потому что была голодна, но мы это видели.',
    'uk': 'Собака побіг додому, бо був голодний, і на подвірʼї більше не було їжі.',
    'bg': 'Кучето изтича към къщата, защото беше гладно и в двора нямаше повече храна.',
    'ja': '犬はお腹が空いていたので家に走りました。', 'ko': '개는 배가 고파서 집으로 달려갔습니다.',
    'th': 'สุนัขวิ่งไปที่บ้านเพราะมันหิวและไม่มีอาหารในสนาม', 'he': 'הכלב רץ הביתה כי הוא היה רעב.',
    'zh': '狗跑回家，因为它饿了，院子里没有食物。',
    'en': 'The dog ran to the house because it was hungry and there was no food in the yard.',
    'es': 'El perro corrió hacia la casa porque tenía hambre y no había comida en el patio.',
    'fr': "Le chien a couru vers la maison parce qu'il avait faim et qu'il n'y avait rien.",
    'bn': 'কুকুরটি বাড়ির দিকে দৌড়ে গেল কারণ সে ক্ষুধার্ত ছিল।',
}


@pytest.mark.parametrize('language', SENTENCES)
def test_a_sentence_is_in_its_language_and_in_no_other(language):
  found = [name for name in languages.LANGUAGES if languages.is_in(SENTENCES[language], name)]
  assert found == [language]


def test_small_words_alone_are_no_language():
  assert not languages.is_in('que que que que que que que que', 'pt')
  assert languages.is_in('anything', 'xx') is None


@hypothesis.given(st.lists(st.sampled_from(
    ['a', 'B.', 'c!', '\n', '\n\n', '...', '。', 'Mr.', '- ', '1.', '"', '\u200b']), max_size=30))
def test_sentences_hold_every_word_once(parts):
  text = ' '.join(parts)
  joined = ' '.join(measures.sentences(text))
  assert measures.words(joined) == measures.words(text)
