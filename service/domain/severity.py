"""How alarming the output of a run is that did not fail."""

import json
import re
from enum import StrEnum


class Severity(StrEnum):
    """What a person should think of a run: nothing, look when there is time, look now."""

    SUCCESS = "success"
    WARNING = "warning"
    ERROR = "error"


class SeverityRule(StrEnum):
    """How output is judged: as words that are understood, or by the predecessor's plain match."""

    WORDS = "words"
    SUBSTRING = "substring"


def severity_of(output: str, rule: SeverityRule = SeverityRule.WORDS) -> Severity:
    """Judge the output of a run that did not fail, in time linear in its length; never raises.

    What the output declares decides, in a line `SEVERITY: …` (the last one) or as a JSON object's
    `severity`; else its words do. `SUBSTRING` looks for the predecessor's words and nothing else.
    """
    if rule is SeverityRule.SUBSTRING:
        return _worst(output.lower(), _ERROR_PART, _WARNING_PART)
    text = _plain(output)
    return _by_line(text) or _by_json(output) or _by_words(text)


_ERROR_PART = re.compile("crítico|erro|falha|failed|fail|failure|error|critical|fatal|exception")
_WARNING_PART = re.compile("alerta|atenção|warning|aviso|vulnerab|deprecated|caution")

_ANSI = re.compile(r"\x1b\[[\d;]*+[a-z]")
_UNACCENTED = {
    # A combining accent (decomposed text) is dropped.
    **dict.fromkeys(range(0x300, 0x370)),
    # Not é, lest the verb "é" become the conjunction "e"; no word below needs it.
    **str.maketrans("áãçíóõ\u2018\u2019\u201c\u201d\xa0", "aacioo''\"\" "),
}


def _plain(output: str) -> str:
    return _ANSI.sub("", output.lower()).translate(_UNACCENTED)


# Quotes stand around a value only: `"severity": …` is a line of JSON, perhaps of a nested object.
_LINE = re.compile(
    r"""^[\ \t\r>#*+_`~\u2022-]*+ severity [\ \t*_`]*+ : [\ \t*_`"']*+
    (success|warning|error) [\ \t\r*_`"'.]*+$""",
    re.MULTILINE | re.VERBOSE,
)


def _by_line(text: str) -> Severity | None:
    declared: list[str] = _LINE.findall(text)
    return Severity(declared[-1]) if declared else None


def _by_json(output: str) -> Severity | None:
    text = output.strip().removeprefix("```json").removesuffix("```").strip()
    if not text.startswith("{"):
        return None
    try:
        return Severity(str(json.loads(text).get("severity")).lower())
    except (ValueError, RecursionError):
        return None


# From here on patterns are VERBOSE and see plain text: lower-case, without accents. Repetitions are
# possessive or bounded, which keeps them linear on hostile text.
_ERROR_WORD = """(?: critic[oa]s? | criticals? | erros? | error(?:s|ed)? | exceptions? | fatals?
    | fatais | fail(?:s|ed|ing|ures?)? | falh(?:as?|ou|am|ar|aram|ando) )"""
_WARNING_WORD = """(?: alertas? | atenc(?:ao|oes) | warnings? | avisos? | vulnera(?:b|ve)[a-z]*+
    | deprecated | cautions? )"""
_ANY_WORD = f"(?:{_ERROR_WORD}|{_WARNING_WORD})"
# A word is no alarm as part of a name: error_handler.py, src/error.py, --fail, ?error=1.
# "...failed" and "---ERROR---" are no names. The first letters are there for speed alone.
_HEAD = r"(?=[acdefvw]) (?<![\w/\\?&@$]) (?<!\w-) (?<!(?<!\.)\.) (?<!(?<![-\w])--)"
_TAIL = r"(?:\(s\))? (?! \w | [-./\\]\w )"
_ALARM = f"(?: {_HEAD}{_ANY_WORD}{_TAIL} )"
_SUSPECT = re.compile(_ANY_WORD, re.VERBOSE)
_ERROR = re.compile(_HEAD + _ERROR_WORD + _TAIL, re.VERBOSE)
_WARNING = re.compile(_HEAD + _WARNING_WORD + _TAIL, re.VERBOSE)
_SLASHED = re.compile(rf"{_HEAD}{_ANY_WORD} (?:/{_ANY_WORD}\b)++ {_TAIL}", re.VERBOSE)

# What may stand between the words of a clause; other punctuation and line ends close it.
_GAP = r"""[\ \t*`"'~]++"""
# A count, or a word that opens another clause: no negation reaches over these.
_STOP = r"""(?: \d[\d.,]*+ | and | but | however | (?:al)?though | except | because | due | after
    | when | while | until | then | e | mas | porem | contudo | embora | exceto | porque | devido
    | apos | quando | enquanto | até ) (?!\w)"""
_WORD = rf"(?: (?!{_STOP}) \w++ (?:[-./']\w++)*+ )"
_NOT = rf"""(?: n't\b | (?<![\w.-]) (?:
    no (?!{_GAP}such\b) | not (?!{_GAP}(?:only|just|all|every|without|found(?!{_GAP}any))\b)
    | cannot | never | none | nothing | neither | nor | (?<!\bnot\ )without | zero
    | nao (?!{_GAP}(?:so|apenas|somente|tod[ao]s)\b) | nem | sem | nenhuma? | nunca | jamais | nada
    | free{_GAP}(?:of|from) | (?:livre|isent[ao])s?{_GAP}de )\b )"""
# The 0 of "0 errors" and "0/12 failed"; not of "10:00", "1.0", "ok=0 failed=3", "ok: 0 failed: 3".
_ZERO = r"""(?: (?<![\w=]) (?<!\d[.,:/-]) 0 (?:/\d++)? (?! \w | [.,:]\d )
    (?! [ ]\w++[ ]?[:=][ ]?[1-9] ) )"""
# In "0 of 12", "none of the 12" and "no 404" the number does not count alarms.
_OF = rf"""(?: {_GAP} (?: (?:out{_GAP})? (?:of|de|d[ao]s) {_GAP} (?:the{_GAP})? \d++ | [45]\d\d )
    (?!\w) )?"""
# "no errors, warnings or failures"; not "no warnings and failed", nor "no warnings and errors: 3".
_LIST = rf"""(?: (?:,{_GAP}{_ALARM}){{0,9}}+ ,?{_GAP} (?: or | nor | ou | nem
    | (?:and|e) (?! {_GAP} (?: fails | failed | falhou | falharam | \w++[ ]?[:=] | \w++[ ]\d ) ) )
    {_GAP}{_ALARM} )?"""
_NEGATED = re.compile(
    rf"""(?:{_NOT}|{_ZERO}) {_OF} (?:{_GAP}{_WORD}){{0,3}} {_GAP}{_ALARM} {_LIST}
    (?:{_GAP}{_ALARM})*+""",
    re.VERBOSE,
)
# "errors: 0", "Failed tests: 0", "| Failed | 0 |", "Errors: none"; not "Error: 0 bytes written",
# "error code: 0", nor "error: no such file".
_NONE = re.compile(
    rf"""{_ALARM} (?:[ ](?!(?:code|codigo|to|with)\b)[a-z]++){{0,2}}+
    (?:{_GAP})? [:=|?(] (?:{_GAP})? (?:
        0 (?! \w | [.,:]\d | {_GAP} (?!(?:found|total|tests)\b) [a-z]++ (?![ ]?[:=]) )
        | (?: no | none | null | nil | zero | false | nao | nenhuma? | \[\] )
            (?= (?:{_GAP})? (?: $ | [\r\n,.;|)\]}}] ) ) )""",
    re.VERBOSE,
)


def _by_words(text: str) -> Severity:
    lines = [line for line in text.splitlines() if _SUSPECT.search(line)]
    text = _SLASHED.sub(lambda names: names[0].replace("/", " or "), "\n".join(lines))
    text = _NEGATED.sub("\n", _NONE.sub("\n", text))
    return _worst(text, _ERROR, _WARNING)


def _worst(text: str, error: re.Pattern[str], warning: re.Pattern[str]) -> Severity:
    if error.search(text):
        return Severity.ERROR
    return Severity.WARNING if warning.search(text) else Severity.SUCCESS
