"""Words beside a number that say whether it is the answer, for `number_answers`."""

import re

# After a number these make it another number.
MAGNITUDES = frozenset(
    'hundred hundreds thousand thousands million millions billion billions trillion trillions '
    'quadrillion mil mln mio bn mn k kk dozen dozens score gross grand lakh lakhs crore crores '
    'myriad fold half halves third thirds fourth fourths fifth fifths sixth sixths seventh '
    'sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths thousandth '
    'thousandths millionth millionths squared cubed factorial doubled tripled halved quadrupled '
    'st nd rd th ish odd plus minus divided multiplied modulo mod choose point over above below '
    'or nor tausend millionen mille milliers quarter minimum maximum max upwards upward but if '
    'inverse'.split())
HALVES = frozenset(
    'half halves third thirds quarter quarters fourth fifth eighth tenth'.split())
# Before a number, with no verb or sign between, these make it a part or a bound.
MULTIPLES = frozenset(
    'half twice thrice double triple quadruple minimum maximum min max third quarter'.split())
VERBS = frozenset(
    'is are was were be equals equal gives give has have had makes make gets get pays pay paid '
    'costs cost takes take needs need earns earned sold bought saved spent left becomes'.split())
# After "72 and" or "72 is" these make it a bound.
COMPARING = frozenset(
    'above over below under up more less fewer greater smaller larger higher lower bigger too '
    'counting change beyond'.split())
# Anywhere in an explicit answer these make a number beside them another one.
SCALES = frozenset(
    'thousand thousands million millions billion billions trillion trillions hundreds dozen '
    'dozens lakh lakhs crore crores'.split())
# Before a number these make it a bound, a part of arithmetic, or a label.
BOUNDS = frozenset(
    'than over under above below beyond exceeding exceeds exceed exceeded least most between '
    'until till nearly almost half twice thrice double triple quadruple times minus plus not no '
    'without outside except log ln lg sin cos tan cot sec csc arcsin arccos arctan exp sqrt root '
    'mod modulo base gcd lcm max min det lim through versus vs nor or either neither within '
    'hundred thousand million billion dozen from'.split())
LABELS = frozenset(
    'step steps question problem exercise example eq equation equations fig figure table section '
    'chapter theorem lemma corollary footnote note version appendix part case item method option '
    'choice line rule formula approach'.split())
ABBREVIATED_LABELS = frozenset(
    'eq eqs fig figs sec ch ex tab v p pp'.split())
ANNOUNCING = frozenset('answer answers ans result solution'.split())
COMMAND_UNITS = frozenset((r'\Omega', r'\mu', r'\ell', 'Ω'))
FUNCTION_WORDS = frozenset(
    'of in is as at by to on it he we so if an am for and all per the or a i she they you that '
    'this there here was were are be has have had with from when since because after before each '
    'more less total altogether left then thus which who his her their its'.split())
# Of these, a number after "of" is a part.
PARTS = frozenset(
    'half third quarter percent percentage fraction root log logarithm square cube factorial '
    'reciprocal inverse opposite negative negation double triple multiple multiples factor '
    'factors divisor divisors power powers out tenth fifth'.split())
# Anywhere in an explicit answer or in the last clause of prose, these leave no single answer.
HEDGES = frozenset(
    'or nor not neither either between versus vs wrong incorrect false untrue unless except '
    "cannot never isn't aren't wasn't weren't can't don't doesn't didn't won't couldn't shouldn't "
    "wouldn't oder nicht ou alternatively instead impossible undefined infinity infinite null nan "
    "error mille etc".split())
APPROXIMATE = frozenset('about approximately approx roughly around circa ca'.split())
NEGATIVE = frozenset(('negative', 'minus'))
JOINING = frozenset(
    'and or to through vs versus by over und oder et ou bis'.split())

_NUMERALS = {word: number for number, word in enumerate(
    'zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen '
    'fifteen sixteen seventeen eighteen nineteen'.split())} | {
        word: 10 * tens for tens, word in enumerate(
            'twenty thirty forty fifty sixty seventy eighty ninety'.split(), 2)} | {'fourty': 40}
_SCALES = {'hundred': 100, 'thousand': 10**3, 'million': 10**6, 'billion': 10**9}

# What may follow a number at once, of one to three letters; other words have more.
_LETTER_UNITS = frozenset(
    'm g L l s h N J W V A C F'.split())
_SHORT_UNITS = frozenset(
    'cm mm km nm dm pm um µm mg kg ml mL dl dL cl cL kL in ft yd mi oz lb lbs hr hrs h min mins '
    'sec secs ms ns Hz kHz MHz GHz kW MW kWh Wh kJ MJ kN Pa kPa MPa mV kV mA eV cal kB KB MB GB '
    'TB mph kph kmh kmph mpg rpm fps cc gal qt pt pts ha km/h sq cu deg rad pct USD EUR GBP CNY '
    'RMB JPY INR CAD AUD HKD CHF KRW SGD TWD MXN BRL NZD SEK NOK DKK RUB Rs NT yr yrs wk wks mo '
    'mos cts ppm atm bar mol tbsp tsp dB Ω ohm kΩ'.split())
_SHORT_WORDS = frozenset(
    'of in is as at by to on it he we so if an am pm us my up go do be me ox for and all per the '
    'men cat dog egg hat bus day pie box cup bag can jar key pen pet toy new old red big fat car '
    'cow pig hen bee ant bat owl fox ape elk emu fly kid boy man mom dad son guy ads ace act add '
    'age aid air ale arm art ash bar bed bet bid bin bit bow bug bun cab cap cob cop cot cub cut '
    'die dip dot dry ear end era eye fan far few fig fin fir fit fun fur gap gas gem gum gun hay '
    'her his hip hit hot hut ice ill ink its jet job jog joy lap law leg lid lip log lot low mad '
    'map mat mix mud mug net nut oak oar off oil one our out own pad pan paw pea pin pit pod pot '
    'pup rag ram ran rat raw ray rib rim rod rot row rug run rye sad sap sat saw sea set she sir '
    'sit six ski sky sob sum sun tap tax tea ten tie tin tip ton too top tub two use van vet via '
    'vow was way web wet who why wig win won yak yam you zip are has had how more less that tons '
    'nos fr'.split())
CURRENCY_WORDS = frozenset(
    'USD EUR GBP CNY RMB JPY INR CAD AUD HKD CHF KRW SGD TWD MXN BRL NZD SEK NOK DKK RUB US CA AU '
    'HK NT RM Rs rs usd eur rmb'.split())
POWERED = frozenset(
    'm cm mm km dm ft in yd mi'.split())

MARKS = {
    '$': '$', r'\$': '$', '€': '€', r'\euro': '€', '£': '£', r'\pounds': '£', '¥': '¥', '₹': '₹',
    '₩': '₩', '₽': '₽', '¢': '¢', '₫': '₫', '฿': '฿', '₱': '₱', '₺': '₺', '₴': '₴', '₪': '₪',
    '%': '%', r'\%': '%', '‰': '‰', '°': '°', r'\degree': '°', r'\circ': '°'}
CURRENCY_SIGNS = frozenset(sign for sign in MARKS if MARKS[sign] not in '%‰°')
MARK_WORDS = {
    'percent': '%', 'percents': '%', 'pct': '%', 'degree': '°', 'degrees': '°', 'dollar': '$',
    'dollars': '$', 'usd': '$', 'bucks': '$', 'euro': '€', 'euros': '€', 'eur': '€', 'gbp': '£',
    'cent': '¢', 'cents': '¢', 'yuan': '¥', 'rmb': '¥', 'cny': '¥', 'yen': '¥', 'jpy': '¥',
    'rupees': '₹', 'inr': '₹', '元': '¥', '美元': '$', '欧元': '€', '度': '°', '角': '¢'}

# Chinese: what directly follows, directly precedes, or hedges.
_HAN_AFTER = re.compile(
    '千(?![克米瓦卡焦帕赫伏字])|[万萬亿億百佰仟]|十|半|几|幾|多|余|餘|又|点[零一二三四五六七八九]'
    '|分之|以上|以下|以内|之间|至|到|或|和|与|及|加|减|减去|乘|除|倍多|次方|平方(?![米厘公分毫千英])|阶乘'
    '|个半|开外|千(?:$|[多余])|成$|[一二三四五六七八九]|两个|的(?:一半|[一二两三四五六七八九十几]|平方|立方|倍)')
_HAN_BEFORE = re.compile(
    '(?:第|不是|不等于|不为|并非|不|非|没有|未|至少|至多|最多|最少|超过|大于|小于|少于|多于|不足|近|将近'
    '|接近|高于|低于|达不到|以上|除以|乘以|乘|除|加|加上|减|减去|根号|对数|之|或|或者|和|与|到|至|一半'
    '|两倍|步骤|步|图|表|例|例题|题|章|节|式|方程|公式|版本|[一二两三四五六七八九十百千万亿]个?'
    '|(?<!结)果然)$')
_HAN_HEDGE = re.compile('或|不是|不等于|不对|错误|错了|之间|并非|要么|也可能')
HAN_NEGATIVE = '负'


def is_numeral(word: str) -> bool:
  """Whether a word is made of numerals, as `seventy-two` or `hundred`."""
  return all(part in _NUMERALS or part in _SCALES for part in word.lower().split('-'))


def spelled_number(numerals: str) -> int | None:
  """The value of a number in words (`one hundred and seventy-two`); None if it makes no number."""
  total = group = 0
  last = 10**12
  for word in numerals.lower().replace('-', ' ').split():
    if word == 'and':
      continue
    if word in _SCALES:
      scale = _SCALES[word]
      if scale == 100 and not 0 < group < 100 or not group or scale > 100 and scale >= last:
        return None
      if scale == 100:
        group *= scale
      else:
        total, group, last = total + group * scale, 0, scale
      continue
    number = _NUMERALS[word]
    rest = group % 100
    if rest and not (rest >= 20 and rest % 10 == 0 and 0 < number < 10) or not number and group:
      return None
    group += number
  return total + group


def follows(word: str, glued: bool) -> bool:
  """Whether a number may be followed by `word` and still be a number by itself, with a unit."""
  lower = word.lower()
  if lower in MAGNITUDES:
    return False
  if len(word) == 1 and word < '\u3040':
    return word in _LETTER_UNITS
  if word[0] in '만억천백조십':    # Korean: 10^4, 10^8, ...
    return False
  if word in _SHORT_UNITS or lower in _SHORT_UNITS:
    return True
  if len(word) <= 3 and word.isascii():
    return not glued and (lower in _SHORT_WORDS or word.istitle() and len(word) == 3)
  return not glued or len(word) > 3 or word >= '\u3040'


def is_unit(word: str) -> bool:
  """Whether `word` is the symbol of a unit that may follow another one, as in `m s^{-1}`."""
  return word in _SHORT_UNITS or word in _LETTER_UNITS


def han_follows(text: str) -> bool:
  """The same for Chinese characters."""
  return _HAN_AFTER.match(text) is None


def han_precedes(text: str) -> bool:
  """Whether a number after these Chinese characters stands by itself."""
  return _HAN_BEFORE.search(text) is None


def han_hedges(text: str) -> bool:
  """Whether Chinese characters leave no single answer."""
  return _HAN_HEDGE.search(text) is not None
