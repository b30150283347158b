"""Texts on which tokenizers part: code, many languages, numbers, blanks, special tokens, and chance."""

import hashlib
import itertools
import random
from collections.abc import Callable

SENTENCES = (
    "The river's old mill, it's said, ran until 1893; don't you think WE'LL see it? I'D say so: YES'S!",
    "Der Fluss überquert die Straße bei Äsch; 12.345,67 € kostete die Brücke, größer als Öls.",
    "La rivière déçue longeait l'âme du village; ÇA, C'ÉTAIT L'ÉTÉ, n'est-ce pas ?",
    "¿Verdad que el río cruzó la montaña en otoño? ¡Sí, señor! Ningún pingüino lo vio.",
    "Река течёт мимо старой мельницы, а мы пьём чай. ПРИВЕТ, Мир! Ёлка.",
    "川は古い水車のそばを流れています。カタカナ、漢字、ひらがな混じりの文！２０２６年",
    "河水流过旧磨坊，我们在2024年5月喝茶。中国北京：你好，世界！",
    "강은 오래된 물레방아 옆을 흐르고, 우리는 차를 마셔요. 그래도 춥지 않아요",
    "يجري النهر قرب الطاحونة القديمة و نحن نشرب الشاي. ١٢٣",
    "नदी पुरानी चक्की के पास बहती है और हम चाय पीते हैं. १२३",
    "แม่น้ำไหลผ่านโรงสีเก่า และเราดื่มชา",
    "Dòng sông chảy qua cối xay cũ, chúng tôi uống trà.",
    "הנהר זורם ליד הטחנה הישנה ואנחנו שותים תה.",
    "Το ποτάμι κυλά δίπλα στον παλιό μύλο και πίνουμε τσάι.",
    "Rzeka płynie obok starego młyna, a my pijemy herbatę; źdźbło, łąka.",
    "Գետը հոսում է հին ջրաղացի մոտ: მდინარე მიედინება",
    "Ḁẞ Ὥ ǅ ʼn ﬁ ﬃ Å Ω K ℵ ª º",
)
CODE = (
    'def area(r):\n    """It\'s pi r**2."""\n    return 3.14159 * r ** 2  # m²\n',
    "for i in range(10):\n\tif i % 2 == 0:\n\t\tprint(f\"{i:>4d}\", end='')\n",
    "class Tree:\n    def __init__(self, left=None, right=None):\n        self._left, self.right = left, right\n\n\n",
    '#include <stdio.h>\nint main(void) {\n    printf("%d\\n", 0x1F << 2);\n    return 0;\n}\n',
    "<html>\n  <body class='x'>\n    <p>Hi&nbsp;there</p><!-- no -->\n  </body>\n</html>",
    "<table><tr><td>x</td></tr></table>",
    "SELECT a, COUNT(*) FROM t WHERE a>=10 AND b<>'x''y' GROUP BY a;",
    '{"a": [1, 2.5e-3, null], "b": {"c": true}}',
    "for (let i=0;i<10;++i){ console.log(`x${i}`) }",
    "$ ls -la /usr/bin | grep '^d' && echo done || exit 1",
    "C:\\Users\\x\\file.txt ~/.config //host/share https://example.org/a?b=c&d=%20#e",
    "f(x)=x**2+3*x-1; g[i][j]!=h->k::m; a<=b; c|=~d^e",
    "fn main() -> Result<(), Box<dyn Error>> { let v: Vec<_> = (0..n).map(|x| x * x).collect(); Ok(()) }",
    "\\begin{equation} \\frac{a_1}{b^{2}} \\neq \\sum_{i=0}^{\\infty} x_i \\end{equation}",
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n- [ ] one\n- [x] two\n\n```py\nx\n```\n",
)
NUMBERS = (
    "1", "12", "123", "1234", "12345", "123456", "1234567", "12345678901234567890", "3.14159 2,718 1e-9 0xFF",
    "1/2 ½ ¼ Ⅷ ² ³ ① ٣ १२", "2024-01-31T12:34:56.789Z", "$1,234.56 €99 £5 ¥1000 7%", "+1 (555) 010-9999", "1 2  3   4",
    "x1 y22 z333 v1.2.3 a1b2c3",
)  # fmt: skip
BLANKS = (
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n\n\n", "\t", "\t\t\t", " \n \n  \n", " a", "a ", "  a  b   c    d     e",
    "\r\n", "a\r\n\r\nb", "\r\r\rx \r\r y", "a\u00a0b\u2003c\u3000d\u0085e\u2028f \u202fg", " " * 40 + "x", "\n" * 40,
    "a" + " " * 33 + "b\t\t\tc", "\u200b\u200d\ufeff zero width", "    \t  mixed\n\n\n   indentation\r\n\r\n\tand CRLF",
    "x\x00y\x01z\x1c\x1d\x1e\x1f\x7f",
)  # fmt: skip
SIGNS = (
    "🎉 🚀🚀 👩‍👩‍👧‍👦 🇩🇪 ✌🏽", "e\u0301 n\u0303 a\u0308 cafe\u0301", "Z\u0338\u0322a\u0360l\u0335go", "𝕳𝖊𝖑𝖑𝖔 𝒲 𐐀𐐨 𑢠",
    "\U0010ffff \ue000 \ufffd", "'s 't 're 've 'm 'll 'd 'S 'T 'RE 'VE 'M 'LL 'D 'x ''s '", "'ſ 'K ſ K",
    "don’t ‘quote’ “double” —dash– …", "CamelCaseString snake_case_string kebab-case HTTPServer iPhone XMLHttpRequest",
    "WHAT?!?!?! wow... ok;;; (((nested))) [[x]] {{y}}", "ＡＢＣ ａｂｃ １２３ ！？", "==== ---- ____ **** ////  ---",
    "▁x▁▁y ▁", "Ġthe Ċ âĢĻ", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "<0x0A> <0xFF>",
)  # fmt: skip
SPECIAL = (
    "<s>", "</s> x <s>hi</s>", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", "<|user|> hello <|end|>\n<|assistant|>\n  x",
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou<|eot_id|>", "[INST] hi [/INST]",
    "<unk><pad><unused99> <mask> [PAD] <|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>", "<|endoftext|><|endoftext|>",
    "<|system|>\n\n<|end|>   <|user|>", "<|im_start", "<<|im_end|>>", "<think>\nno\n</think>\n\n",
)  # fmt: skip
PIECES = (
    "the ", "The", "'s", "'RE", " 12", "345", "\n", "\n\n", "  ", "\t", "é", "É", "日本", "한", "!", "?!", " (", ") ",
    "_", "Ab", "aB", "ABc", "/", "//", "\r\n", "</s>", "<s>", "<|im_end|>", "'", " ▁",
)  # fmt: skip
RANGES = (
    (9, 14), (32, 0x250), (0x370, 0x700), (0x900, 0x980), (0xE00, 0xE50), (0x1E00, 0x2070), (0x2100, 0x2200),
    (0x3000, 0x3130), (0x4E00, 0x4E80), (0xAC00, 0xAC40), (0xFF00, 0xFF60), (0x1F600, 0x1F640),
)  # fmt: skip
COUNT = 300


def texts() -> list[str]:
    """The same 300 every time."""
    chance = random.Random(5)
    found = [*SENTENCES, *CODE, *NUMBERS, *BLANKS, *SIGNS, *SPECIAL]
    found += [f"{one} {other}" for one, other in itertools.pairwise(SENTENCES)]
    found += [f"{one}\n\n{other}" for one, other in zip(CODE, SENTENCES, strict=False)]
    characters = [chr(code) for first, end in RANGES for code in range(first, end)]
    while len(found) < COUNT:
        found.append("".join(chance.choices(PIECES, k=40)))
        found.append("".join(chance.choices(" \n\t\r'aZsT1é日.,!_-/<>=+$`|^~ـा", k=chance.randint(5, 120))))
        found.append("".join(chance.choices(characters, k=chance.randint(5, 80))))
    return found[:COUNT]


def digest(encode: Callable[[str, bool, bool], list[int]]) -> str:
    """16 hexadecimal digits of the ids of all texts; encode: (text, add_special, parse_special) -> ids."""
    ids = [encode(text, flag, flag) for text in texts() for flag in (False, True)]
    return hashlib.sha256(repr(ids).encode()).hexdigest()[:16]
