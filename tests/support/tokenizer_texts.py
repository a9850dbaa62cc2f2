"""Texts for the tests of tokenizers: some to learn from, some that are easily damaged."""

import itertools
import random


TEXTS = [
    "It's the reader who don't see 12345 'strings' in a line.\n    return self.value\n",
    'def read_line(self, size=-1):\n    """Read a line from the stream."""\n\n    return self.readline(size)\n',
    "Tschüß, die Straße in Zürich. 你好，世界。नमस्ते दुनिया।\r\n",
] * 20

ADVERSARIAL = [
    "plain text",
    " leading, trailing and  double   spaces \n\n\n\t\tand tabs\r\n\r",
    "你好，世界。这是一个测试。",
    "中文and English混在一起，Python3.11编程 𠮷野家 龘",
    "👩‍👩‍👧‍👦 🇨🇭 👍🏽",
    "e\u0301 is not \u00e9, \ufb01 is not fi, \u212b is not \u00c5",
    "か\u3099 葛\U000e0100 ー々",
    "नमस्ते ते\u200cकी \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "\x00\x01\x1f\x7f\x80\x9f\u2028\u2029\ufeff\ufffd\u200b",
    "\U0010ffff\U000e0001\ue000",
    "▁▂▃▄▅ ▁a ▁ ▁",
    "<0x41><0xE2><0x96><0x81> Ġ Ċ ##ing [UNK] %s {x}",
    "",
    " ",
    "\n",
]

# All of Unicode but the surrogates, which are not text.
SCALAR_VALUES = [*range(0xD800), *range(0xE000, 0x110000)]


def chinese_sentences(number: int) -> tuple[list[str], list[str]]:
    """40 made-up words of two characters, and sentences of three to eight of them without spaces."""
    rng = random.Random(0)
    characters = [chr(0x4E00 + 7 * index) for index in range(40)]
    pairs = [first + second for first, second in itertools.permutations(characters, 2)]
    words = rng.sample(pairs, 40)
    return words, [
        "，".join("".join(rng.choices(words, k=rng.randint(3, 8))) for _ in "ab") + "。" for _ in range(number)
    ]
