"""Whether a text is in a language: by its script, the letters that only it uses, or small words.

The languages are those of IFEval. English, Chinese, German, Spanish and French are told apart by
`r1jax.rewards.language`, which reads every word. The others need no more than this: a text in a
script of its own, in a script that is shared by languages with different letters, or in Latin
letters with the small words that every text in that language is full of.
"""
import re

from r1jax.rewards import language as known

_MOST = 0.7           # share of letters that must be of the script
_SMALL_WORDS = 0.12   # share of words that must be small words of the language
_DIFFERENT = 4        # of these words at least, in a text that is long enough
_MOST_CHARACTERS = 20_000    # that are read

# Language -> (its script, letters of which it must have some, letters that it does not have).
_SCRIPTS = {
    'ar': ('\u0600-\u06ff', '', 'ٹڈڑںےگچپژ'),
    'fa': ('\u0600-\u06ff', 'گچپژی', 'ٹڈڑں'),
    'ur': ('\u0600-\u06ff', 'ٹڈڑںے', ''),
    'he': ('\u0590-\u05ff', '', ''),
    'ru': ('\u0400-\u04ff', 'ыэё', 'їєґіў'),
    'uk': ('\u0400-\u04ff', 'їєґі', 'ыэёъ'),
    'bg': ('\u0400-\u04ff', 'ъщюя', 'ыэёїєґі'),
    'hi': ('\u0900-\u097f', '', ''),
    'mr': ('\u0900-\u097f', '', ''),
    'ne': ('\u0900-\u097f', '', ''),
    'bn': ('\u0980-\u09ff', '', ''),
    'pa': ('\u0a00-\u0a7f', '', ''),
    'gu': ('\u0a80-\u0aff', '', ''),
    'ta': ('\u0b80-\u0bff', '', ''),
    'te': ('\u0c00-\u0c7f', '', ''),
    'kn': ('\u0c80-\u0cff', '', ''),
    'ml': ('\u0d00-\u0d7f', '', ''),
    'th': ('\u0e00-\u0e7f', '', ''),
    'ko': ('\uac00-\ud7a3\u1100-\u11ff', '', ''),
    'ja': ('\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff', 'のはをにがでとた', ''),
}
_SMALL = {
    'en': 'the of and to in is that it for was on are as with be at this have from or by not but '
          'you',
    'de': 'der die und das in den von zu mit ist nicht des auf für sich dem ein eine auch als es '
          'an',
    'es': 'el la de que y en los se del las un por con no una para es al lo como más su pero sus '
          'está',
    'fr': 'le la les de des et en un une du que est pour qui dans pas par sur au plus ne se ce il',
    'pt': 'o a os as de do da dos das que e em um uma para com não por mais se na no ao é seu sua '
          'como mas foi ou ele ela você isso são muito também já está',
    'it': 'il lo la i gli le di del della dei che e in un una per con non è si al da nel come ma '
          'anche più sono questo ha ho se o dal alla delle',
    'nl': 'de het een en van in is dat op te voor met niet zijn aan er ook als maar bij om dit ik '
          'je hij ze we wordt naar heeft',
    'pl': 'i w na z do się nie że to jest o jak po co za od przez dla ale a oraz są czy tak już '
          'lub być może przy ma',
    'vi': 'và của là có không được cho một trong với các người này đã để những tôi bạn khi như '
          'nhưng thì đến từ hay cũng nhiều',
    'sw': 'na ya wa kwa ni katika la za kuwa hii cha au pia yake hiyo lakini kama sana watu moja '
          'wake yangu huu hayo ili',
    'fi': 'ja on ei se että oli hän mutta joka ovat kun myös tai niin kuin sen tämä ole minä voi '
          'jos sitä mitä olla',
    'sv': 'och i att det som en på är av för med den till inte om ett har jag de man så kan var '
          'men vi från eller du',
    'tr': 've bir bu da de için ile çok ne o gibi daha olarak kadar ama en olan değil var her '
          'sonra ben sen mi',
    'id': 'yang dan di dengan untuk dari ini itu tidak dalam adalah pada ke akan juga saya oleh '
          'atau ada bisa karena mereka kami',
    'hi': 'है के में की का को से और हैं एक यह पर नहीं कि ने भी था इस',
    'mr': 'आहे आणि या च्या ला आहेत हे एक मध्ये नाही ही तो होते साठी आपण',
    'ne': 'छ को र मा छन् हो गर्न लाई यो पनि भने एक छैन हुन्छ तर',
}
_SMALL_WORDS_OF = {name: frozenset(listed.split()) for name, listed in _SMALL.items()}
LANGUAGES = tuple(sorted({*known.LANGUAGES, *_SCRIPTS, *_SMALL}))


def is_in(text: str, language: str) -> bool | None:
  """Whether a text is in a language, by its code, such as 'en'; None if that is not known."""
  code = re.split('[-_]', language.strip().lower())[0]
  text = text[:_MOST_CHARACTERS]
  if code in known.LANGUAGES:
    return known.identify(text) == code and _has_most_small_words(text, code)
  if code not in LANGUAGES:
    return None
  if code in _SCRIPTS and not _is_in_script(text, code):
    return False
  return code not in _SMALL or _has_small_words(text, code)


def _is_in_script(text: str, code: str) -> bool:
  """Whether most letters are of a language's script, and none of those that it does not have."""
  script, wanted, others = _SCRIPTS[code]
  letters = [letter for letter in text.casefold() if letter.isalpha()]
  if not letters:
    return False
  of_script = len(re.findall(f'[{script}]', ''.join(letters)))
  foreign = sum(letter in others for letter in letters)
  if of_script < _MOST * len(letters) or 50 * foreign > len(letters):
    return False
  return not wanted or any(letter in wanted for letter in letters)


def _has_small_words(text: str, code: str) -> bool:
  """Whether a text has many small words of a language, several of them, and more than of others."""
  found = _words(text)
  small = [word for word in found if word in _SMALL_WORDS_OF[code]]
  return (len(small) >= _SMALL_WORDS * len(found) > 0
          and len(set(small)) >= min(_DIFFERENT, len(found) / 6)
          and _has_most_small_words(text, code))


def _has_most_small_words(text: str, code: str) -> bool:
  """Whether no other language has more small words in a text; always, if a language lists none."""
  counts = {name: sum(word in listed for word in _words(text))
            for name, listed in _SMALL_WORDS_OF.items()}
  return code not in counts or counts[code] == max(counts.values())


def _words(text: str) -> list[str]:
  return [word.strip('.,;:!?()"“”।|') for word in text.casefold().split()]
