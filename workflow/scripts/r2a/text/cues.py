"""Words of self-reflection in reasoning, by language, and the tokens that contain them (METHOD section 3)."""

import re
from collections.abc import Sequence

from r2a.text.sentences import piece_spans

# In English, the paper's four; in the other languages, words with the same meaning: stop, check, something else.
# No entry is an ordinary English word, so a text in one language counts no cue of another.
CUE_WORDS: dict[str, tuple[str, ...]] = {
    "English": ("Wait", "Alternatively", "Hmm", "check"),
    "Chinese": (
        "等等", "等一下", "等下", "且慢", "不对", "不對", "检查", "檢查", "检验", "檢驗", "验证", "驗證", "验算",
        "驗算", "核对", "核實", "核实", "再想想", "重新考虑", "或者", "换个思路", "换一种", "另一种方法",
    ),
    "Japanese": (
        "待って", "待てよ", "ちょっと待", "いや", "違う", "うーん", "確認", "検算", "検証", "確かめ", "見直",
        "別の方法", "あるいは",
    ),
    "Korean": ("잠깐", "잠시만", "기다려", "아니", "흠", "확인", "재확인", "검토", "검산", "다시 생각", "다른 방법"),
    "Spanish": (
        "espera", "espere", "un momento", "verifica", "verificar", "verifiquemos", "comprobar",
        "comprobemos", "revisar", "revisemos", "alternativamente",
    ),
    "French": (
        "attends", "attendez", "un instant", "vérifie", "vérifier", "vérifions", "revérifions",
        "alternativement",
    ),
    "German": (
        "warte", "Moment mal", "überprüfe", "überprüfen", "prüfe", "prüfen", "nachprüfen",
        "nachrechnen", "stimmt nicht", "alternativ",
    ),
    "Portuguese": ("espere", "peraí", "verificar", "verifiquemos", "conferir", "alternativamente"),
    "Italian": (
        "aspetta", "un attimo", "verifichiamo", "verificare", "controlliamo", "ricontrolliamo",
        "in alternativa",
    ),
    "Russian": (
        "подожди", "подождите", "постой", "постойте", "стоп", "хм", "хмм", "проверим", "проверю",
        "проверить", "проверка", "перепроверим", "альтернативно",
    ),
    "Vietnamese": ("khoan đã", "đợi đã", "chờ đã", "kiểm tra"),
    "Arabic": ("انتظر", "لحظة", "نتحقق", "تحقق"),
    "Hindi": ("रुको", "रुकिए", "ठहरो", "जाँच", "जांच"),
}  # fmt: skip
ALL_CUE_WORDS = list(dict.fromkeys(word for words in CUE_WORDS.values() for word in words))

HAN_KANA = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
THAI_LAO_KHMER_BURMESE = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
HANGUL = r"\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"
UNSPACED = re.compile(f"[{HAN_KANA}{THAI_LAO_KHMER_BURMESE}]")
# In scripts without spaces, contexts in which a word is part of another or means something else: (after, before).
CLAUSE = (f"(?<![{HAN_KANA}])", "")  # only at a clause's beginning
SENTENCE = (f"(?<![{HAN_KANA}、])", "")  # and not at the end of 甲、乙等等
GUARDS: dict[str, tuple[str, str]] = {
    "等等": SENTENCE,  # else "and so on"
    "等下": SENTENCE,
    "不对": ("(?<!对)", "(?![称应等劲])"),  # 对不对, 不对称, 不对应
    "不對": ("(?<!對)", "(?![稱應等勁])"),
    "或者": CLAUSE,  # else "or"
    "检验": ("", "(?![员费])"),
    "いや": (CLAUSE[0], f"(?![{HAN_KANA}])"),  # else いやな
    "違う": CLAUSE,  # else "differs"
    "あるいは": CLAUSE,
    "아니": (f"(?<![{HANGUL}])", "(?=[\\s,.!?…~]|$|야|지)"),
    "흠": (f"(?<![{HANGUL}])", f"(?![{HANGUL}])"),
}


def is_cue_token(pieces: Sequence[str], words: Sequence[str]) -> list[bool]:
    """Which tokens contain a part of one of the words, in any case.

    pieces: each token's text. Words are matched as whole words; Korean ones at the beginning of a word, because endings
    are attached to it; words in scripts without spaces anywhere, except in the contexts in GUARDS.
    """
    spans = [match.span() for match in _pattern(words).finditer("".join(pieces))]
    is_cue, found = [], 0
    for start, end in piece_spans(pieces):
        while found < len(spans) and spans[found][1] <= start:
            found += 1
        is_cue.append(found < len(spans) and spans[found][0] < end)
    return is_cue


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile("|".join(map(_word_pattern, longest_first)), re.IGNORECASE)


def _word_pattern(word: str) -> str:
    before, after = GUARDS.get(word, ("", ""))
    if word not in GUARDS and not UNSPACED.search(word):
        # a letter of a script without spaces ends a word of another
        before = rf"(?<![^\W{HAN_KANA}{THAI_LAO_KHMER_BURMESE}])"
        after = "" if re.search(f"[{HANGUL}]$", word) else rf"(?![^\W{HAN_KANA}{THAI_LAO_KHMER_BURMESE}])"
    return f"(?:{before}{re.escape(word)}{after})"
