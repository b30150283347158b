"""How a byte-level BPE cuts text before it merges, by the name that a file has under `tokenizer.ggml.pre`.

A pre-tokenizer is one or several regular expressions (Oniguruma's syntax): the first cuts the text, the next each of
its pieces, and what lies between two matches is a piece too. They are those of the models' published tokenizer.json
files in the form that llama.cpp gives them in src/llama-vocab.cpp (October 2026), since its tokens are what people
compare with. It departs from the models where its regular expressions know no case outside ASCII: `tekken` and `gpt-4o`
take letters of other alphabets for both capital and small, and combining marks for none.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PreTokenizer:
    """stages: regular expressions, applied in order; whole_words: a piece that is a token needs no merges; add_bos: a
    BOS token goes ahead unless the file says otherwise."""

    stages: tuple[str, ...]
    whole_words: bool = False
    add_bos: bool = False


# Contractions of English, in any case; spelled out because (?i:'s) would match the long s too.
_CONTRACTION = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_ONE_DIGIT, _DIGITS_BY_3 = r"\p{N}", r"\p{N}{1,3}"
# A word that any one character may precede, as GPT-4's tokenizer began it.
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_QWEN_2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SIGNS}|{_BLANKS}"
_LLAMA_3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|{_BLANKS}"
# Small letters after capital ones make a word; only ASCII has case here.
_CAPITAL, _SMALL = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"
_CASED = r"[^\r\n\p{L}\p{N}]?%s*%s+%s|[^\r\n\p{L}\p{N}]?%s+%s*%s"
_PATHS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"


def _cased(capital: str, small: str, ending: str, digits: str) -> str:
    return rf"{_CASED % (capital, small, ending, capital, small, ending)}|{digits}|{_PATHS}|{_BLANKS}"


_GPT_4O = _cased(_CAPITAL, _SMALL, f"{_CONTRACTION}?", _DIGITS_BY_3)
_WITH_MARKS = _cased(
    r"(?:(?=[\p{L}\p{M}])[^a-z])", r"(?:(?=[\p{L}\p{M}])[^A-Z])", f"{_CONTRACTION}?", _DIGITS_BY_3
)  # fmt: skip
_TEKKEN = _cased(_CAPITAL, _SMALL, "", _ONE_DIGIT)
_KANA_AND_HAN = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+"
_ASCII_SIGN_AND_LETTERS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
_DEEPSEEK_3 = rf"{_ASCII_SIGN_AND_LETTERS}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+"
# The letters with case of the scripts that DeepSeek's tokenizer lists: all but Armenian's small ones, Georgian, …
_DEEPSEEK_LETTERS = (
    r"[[\p{Lu}\p{Ll}\p{Lt}]&&[^\x{560}-\x{588}\x{10C7}-\x{10FF}\x{1C80}-\x{1C88}\x{2D00}-\x{2D2D}\x{A790}-\x{AB68}"
    r"\x{10570}-\x{105BC}\x{16E40}-\x{1DF1E}]]"
)
_FROM_SAMARITAN_TO_HANGUL = r"[[\x{800}-\x{9FA5}\x{AC00}-\x{D7FF}]&&\S]+"
_UNTIL_PUNCTUATION = " ?[^(\\s|.,!?…。，、।۔،)]+"

_GROUPS = (
    (PreTokenizer((r"[\p{P}$+<=>^~|]+", _GPT_2, r"\p{N}+", "[0-9][0-9][0-9]")), "default"),
    (
        PreTokenizer((_GPT_2,)),
        "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert jina-v1-en jina-v2-code "
        "roberta-bpe mpt olmo jais trillion granite-docling exaone4",
    ),
    (
        PreTokenizer((_ONE_DIGIT, _GPT_2)),
        "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
    ),
    (
        PreTokenizer((_LLAMA_3,), whole_words=True, add_bos=True),
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
    ),
    (PreTokenizer((_LLAMA_3,)), "dbrx smaug-bpe chatglm-bpe"),
    (PreTokenizer((_LLAMA_3,), whole_words=True), "glm4 glm5"),
    (
        PreTokenizer((_QWEN_2,)),
        "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2 bailingmoe bailingmoe2 "
        "llada-moe",
    ),
    (
        PreTokenizer(
            (
                rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|"
                + _BLANKS,
            )
        ),
        "qwen35",
    ),
    (PreTokenizer((rf"{_WORD}|\p{{N}}|{_SIGNS}|{_BLANKS}",)), "ufakzeka"),
    (PreTokenizer((r"[^\n]+|\n+", _QWEN_2)), "laguna"),
    (
        PreTokenizer((rf"{_CONTRACTION}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_BLANKS}",)),
        "seed-coder",
    ),
    (
        PreTokenizer((_DIGITS_BY_3, rf"{_CONTRACTION}|{_WORD}|\p{{N}}+|{_SIGNS}|{_BLANKS}"), whole_words=True),
        "minicpm5",
    ),
    (PreTokenizer((_TEKKEN,), whole_words=True, add_bos=True), "tekken"),
    (PreTokenizer((_GPT_4O,)), "gpt-4o llama4 kanana2 talkie minimax-m2"),
    (PreTokenizer((_WITH_MARKS,), whole_words=True), "granite-embed-multi-97m"),
    (
        PreTokenizer((r"[\p{P}$+<=>^~|`]+", _GPT_2, "[0-9][0-9][0-9]")),
        "falcon",
    ),
    (
        PreTokenizer(
            (
                r"[\r\n]",
                rf"\s?{_DEEPSEEK_LETTERS}+",
                r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3001}\x{3002}]+",
                r"\s+$",
                _FROM_SAMARITAN_TO_HANGUL,
                r"\p{N}+",
            )
        ),
        "deepseek-llm",
    ),
    (
        PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _FROM_SAMARITAN_TO_HANGUL, _ONE_DIGIT)),
        "deepseek-coder",
    ),
    (
        PreTokenizer((_DIGITS_BY_3, _KANA_AND_HAN, rf"{_DEEPSEEK_3}[\r\n]*|{_BLANKS}")),
        "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
    ),
    (PreTokenizer((_UNTIL_PUNCTUATION,)), "poro-chat bloom gpt3-finnish"),
    (PreTokenizer((_UNTIL_PUNCTUATION, _ONE_DIGIT)), "viking"),
)
PRE_TOKENIZERS: dict[str, PreTokenizer] = {name: pre for pre, names in _GROUPS for name in names.split()}
