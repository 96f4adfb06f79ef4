#!/usr/bin/env python3
"""Make bleu.json: scores and tokens of the real sacrebleu, which the tests of `src/bleu.rs` and `src/chrf.rs` must match.

    python3 -m venv v && v/bin/pip install sacrebleu==2.6.0
    v/bin/python crates/data/tests/golden/bleu.py crates/corpus/data/test.tsv.gz > crates/data/tests/golden/bleu.json

Hypotheses of real text are references of the corpus' test split, damaged by a seeded generator as a weak model would
damage them. The file holds none of that text, which has its own licence: a row is its number in the split and, for each
word of the hypothesis, the number of the reference's word, or -1 for the word "falsch".
"""

import gzip
import json
import random
import sys

import sacrebleu
from sacrebleu.metrics import BLEU, CHRF

GENERATOR = random.Random(20)

TEXTS = [
    "", " ", "Hallo", "Hallo, Welt!", "Öffnen Sie „Übersicht“ – jetzt.", "3,5 % von 1.000.000 €", "1990-1995 und 3-fach",
    "a.b,c", "...", "..,,..", "1.,2", "x.1 1.x ,1 1,", "&quot;A&amp;B&quot; &lt;i&gt; &amp;lt;", "&nbsp; & Co.",
    "<skipped>weg<skipped>", "Trenn-\nstrich\nZeile", "endet auf Strich-\n", "E-Mail: a_b@example.org (siehe /tmp/x.txt)",
    "Don't 'quote' it's", "{[~`^|\\]}#$%*+;<=>?", "日本語、テスト。 中文，句号。", "a\u00a0b\u2003c\u200bd", "tab\tund\x1cTrenner\x1f",
    "Straße ÄÖÜ ß ẞ İ", "2.–3. Mai", "U.S.A. e.g. z. B.", "٣.٤ ³.² x", "🎈🎈.🎈", "5-", "-5", "5--5", ",,5,,", "  doppelt  frei  ",
]


def damaged(sentence):
    out = []
    for word in range(len(sentence.split(" "))):
        chance = GENERATOR.random()
        if chance < 0.08:
            continue
        out.append(-1 if chance < 0.16 else word)
        if chance > 0.95:
            out.append(word)
    if len(out) > 2 and GENERATOR.random() < 0.3:
        at = GENERATOR.randrange(len(out) - 1)
        out[at], out[at + 1] = out[at + 1], out[at]
    return out


def spoken(words, reference):
    reference = reference.split(" ")
    return " ".join("falsch" if word < 0 else reference[word] for word in words)


def score(name, hypotheses, references):
    found = BLEU().corpus_score(hypotheses, [references])
    return {
        "name": name, "score": found.score, "precisions": found.precisions, "bp": found.bp, "sys_len": found.sys_len,
        "ref_len": found.ref_len, "chrf": CHRF().corpus_score(hypotheses, [references]).score,
    }


def case(name, hypotheses, references):
    return score(name, hypotheses, references) | {"hypotheses": hypotheses, "references": references}


def corpus_case(name, numbers, germans):
    rows = [[number, damaged(germans[number])] for number in numbers]
    hypotheses = [spoken(words, germans[number]) for number, words in rows]
    return score(name, hypotheses, [germans[number] for number in numbers]) | {"rows": rows}


def signature(metric):
    """A metric knows the number of references only after its first score."""
    metric.corpus_score(["a"], [["a"]])
    return metric.get_signature().format()


def main(corpus):
    with gzip.open(corpus, "rt", encoding="utf-8") as lines:
        germans = [line.rstrip("\n").split("\t")[1] for line in lines]
    cases = [
        case("equal", ["Das ist gut, oder?"], ["Das ist gut, oder?"]),
        case("README", ["Das ist ein kleiner Test."], ["Das ist ein Test."]),
        case("empty hypothesis", [""], ["Das ist ein Test."]),
        case("one of two is empty", ["", "Das ist ein Test."], ["Nicht leer.", "Das ist ein Test."]),
        case("empty reference", ["Das ist ein Test."], [""]),
        case("both empty", [""], [""]),
        case("nothing matches", ["eins zwei drei vier fünf"], ["sechs sieben acht neun zehn"]),
        case("only single words match", ["vier drei zwei eins"], ["eins zwei drei vier"]),
        case("shorter than four words", ["Datei öffnen"], ["Datei öffnen"]),
        case("one word", ["Datei"], ["Datei"]),
        case("no match of order 3 and 4", ["a b x c d y"], ["a b c d e f"]),
        case("clipping", ["die die die die die die die"], ["die Katze ist auf der Matte die"]),
        case("too long", ["a b c d e f g h i j"], ["a b c d"]),
        case("too short", ["a b c d"], ["a b c d e f g h i j"]),
        case("case counts", ["DAS IST EIN TEST hier"], ["Das ist ein Test hier"]),
        case("odd texts against themselves", TEXTS, TEXTS),
        case("odd texts, shifted", TEXTS[1:] + TEXTS[:1], TEXTS),
        case("shorter than six characters", ["Tor", "Tür auf"], ["Tor", "Tor zu"]),
        case("no reference of that order", ["abcdefgh", "ab"], ["ab", "abcdefgh"]),
        case("white space of every kind", ["a b\tc\u00a0d\x1ce\u2003f"], ["abcdef"]),
        case("beyond the first plane", ["🎈🎈🎈 x", "İstanbul ß"], ["🎈🎈 x", "Istanbul ß"]),
        case("entities", ["&quot;A&quot; &amp; B"], ['"A" & B']),
    ]
    for number in range(6):
        cases.append(corpus_case(f"corpus {number}", GENERATOR.sample(range(len(germans)), 40), germans))
    cases.append(corpus_case("corpus, 600 lines", range(600), germans))
    tokenize = BLEU().tokenizer
    tokenized = [[text, tokenize(text.rstrip())] for text in TEXTS]
    signatures = {"bleu": signature(BLEU()), "chrf": signature(CHRF())}
    found = {"sacrebleu": sacrebleu.__version__, "signatures": signatures, "cases": cases, "tokenized": tokenized}
    text = json.dumps(found, ensure_ascii=False)
    print(text.replace('{"name"', '\n{"name"').replace('"tokenized"', '\n"tokenized"'))


if __name__ == "__main__":
    main(sys.argv[1])
