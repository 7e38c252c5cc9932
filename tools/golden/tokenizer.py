"""Writes tests/golden/tokenizer.tsv: what openai-whisper's tokenizers make of texts in many scripts.

usage: tokenizer.py > tests/golden/tokenizer.tsv
Needs openai-whisper 20250625 with tiktoken 0.14 from PyPI. A line is: vocabulary (en, multi), kind, UTF-8 text in
hexadecimal, token ids. Kinds: text; suppress (the ids that are never sampled; no text); special (the ids of
end of text, start of transcript, <|en|>, translate, transcribe, <|startoflm|>, <|startofprev|>, <|nospeech|>,
<|notimestamps|>, <|0.00|>).
"""
import random
from whisper.tokenizer import get_tokenizer

SENTENCES = [
    "Hello, world!", " It's what we'd've said: they'll, I'm, you're, 'twas, don't, O'Neil's, IT'S.",
    "1234567890 3.14159 1,000,000 ½ Ⅳ ٣٤٥ 五", "a  b   c\t\td\n\ne \r\n f ", "   ", "\n", " ", "  x", "x  ",
    "\u00a0no\u2003break\u3000spaces\u0085", "foo_bar(baz)[0] += {'k': \"v\"}; // #include <stdio.h>",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.", "Ça va? Où est l'élève naïf; œuvre à Noël!",
    "¿Dónde está el pingüino? ¡Mañana!", "Съешь ещё этих мягких французских булок", "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "色は匂へど散りぬるを、東京タワー。カタカナ", "天地玄黄,宇宙洪荒。「你好」世界", "키스의 고유조건은 입술끼리 만나야 하고",
    "صِف خَلقَ خَودٍ كَمِثلِ الشَمسِ", "דג סקרן שט בים מאוכזב", "ऋषियों को सताने वाले दुष्ट", "เป็นมนุษย์สุดประเสริฐ",
    "Αa1Бб2あ3", "👋🏽 family 👨‍👩‍👧‍👦 flag 🇩🇪 ♪ ♫♪", "e\u0301 vs é, n\u0303", "\ufeffbom \u200bzero\u200dwidth",
    "<|endoftext|> <|en|><|0.00|>", "ǅ ǈ ʰ ꟸ 𝔘𝔫𝔦 𝟙𝟚 𐍈 𞤀", "tiếng Việt đậm đà", "ქართული ენა", "Հայերեն լեզու", "አማርኛ",
    "ພາສາລາວ", "བོད་སྐད", "မြန်မာ", "ភាសាខ្មែរ", "தமிழ் மொழி", "తెలుగు", "ಕನ್ನಡ", "മലയാളം", "ગુજરાતી", "ਪੰਜਾਬੀ", "සිංහල",
    "a" * 300, "和" * 120, "-" * 70, "'s't're've'm'll'd'S", " 's", "x's!'s", "\u1c89\u1c8a\ua7cb \U000105c0",
]
BLOCKS = [(0x20, 0x7E), (0xA0, 0x24F), (0x250, 0x2FF), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x530, 0x5FF),
          (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x10A0, 0x10FF), (0x1E00, 0x1EFF), (0x2000, 0x20CF),
          (0x2100, 0x218F), (0x2460, 0x24FF), (0x2600, 0x26FF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
          (0xE000, 0xF8FF), (0xFF00, 0xFFEF), (0x1F300, 0x1F6FF), (0x20000, 0x2A6DF), (0x0, 0x10FFFF)]


def random_text(rng):
    out = []
    for _ in range(rng.randint(1, 6)):
        low, high = rng.choice(BLOCKS)
        for _ in range(rng.randint(1, 6)):
            code = rng.randint(low, high)
            if not 0xD800 <= code <= 0xDFFF:
                out.append(chr(code))
        out.append(rng.choice(["", "", " ", "  ", "\n", "'s", "7", "x"]))
    return "".join(out)


def main():
    rng = random.Random(20250625)
    texts = SENTENCES + [random_text(rng) for _ in range(150)]
    for name, multilingual in (("en", False), ("multi", True)):
        t = get_tokenizer(multilingual)
        ids = lambda tokens: " ".join(map(str, tokens))
        special = [t.eot, t.sot, t.to_language_token("en"), t.translate, t.transcribe, t.sot_lm, t.sot_prev,
                   t.no_speech, t.no_timestamps, t.timestamp_begin]
        suppress = {*t.non_speech_tokens, t.transcribe, t.translate, t.sot, t.sot_prev, t.sot_lm, t.no_speech}
        print(name, "special", "", ids(special), sep="\t")
        print(name, "suppress", "", ids(sorted(suppress)), sep="\t")
        for text in texts:
            print(name, "text", text.encode().hex(), ids(t.encoding.encode_ordinary(text)), sep="\t")


main()
