#!/usr/bin/env python3
"""Make the English-German corpus from LibreOffice's help pages.

    python3 make.py HELP OUT

HELP is the unpacked folder `usr/share/libreoffice/help` of the Debian packages libreoffice-help-en-us and
libreoffice-help-de; OUT receives {train,valid,test}.tsv.gz (README.md of the crate gives the whole command line).
Python's standard library only. The same pages give the same bytes: nothing depends on time, on the order of a
directory or on the hash seed.

    page        -> paragraphs   every <p> and <h1..h6> that has an id, as clean text
    paragraphs  -> pairs        joined on (page, id), cut into sentences where both sides have equally many
    pairs       -> kept pairs   length, ratio, letters, not the same on both sides
    kept pairs  -> splits       by page, so that no page stands in two splits; then what valid and test share with
                                train (in the same normal form) leaves them
"""

import gzip
import hashlib
import re
import sys
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

SEED = "attentia english-german 1"
MAX_WORDS = 60
RATIO = (0.4, 2.5)  # characters of the German side per character of the English side
# Shares of pages, in percent. A third of test leaves again: help pages repeat one another.
VALID_PERCENT, TEST_PERCENT = 4, 8

TEXT_TAGS = {"p", "h1", "h2", "h3", "h4", "h5", "h6"}
CODE_CLASSES = {"code", "codeintable", "smathcode", "bascode", "pycode"}
VOID_TAGS = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Page(HTMLParser):
    """Collects `paragraphs`: (id, text) of one page, in order.

    A `switchinline` holds one wording per operating system or per application, all but one hidden by a script; the
    default wording is taken, or the first where there is none. Both languages list them in the same order.
    """

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.paragraphs = []
        self.open = []  # (tag, role), role one of None, "text", "switch", "choice", "code"
        self.id = None
        self.out = None  # pieces of the paragraph that is open, or of the choice that is open
        self.switches = []  # (pieces outside, list of (is_default, pieces))
        self.in_code = 0

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "br" and self.out is not None:
            self.out.append(" ")
        if tag in VOID_TAGS:
            return
        classes = set((attributes.get("class") or "").split())
        role = None
        if tag == "pre" or classes & CODE_CLASSES:
            role = "code"
            self.in_code += 1
        elif tag in TEXT_TAGS:
            role = "text"
            self.finish()  # a block inside a paragraph ends it
            self.id = attributes.get("id")
            self.out = []
            self.switches = []
        elif self.out is not None and "switchinline" in classes:
            role = "switch"
            self.switches.append((self.out, []))
        elif self.out is not None and self.switches and "hidden" in attributes:
            role = "choice"
            self.out = []
            default = (attributes.get("id") or "").startswith("default")
            self.switches[-1][1].append((default, self.out))
        self.open.append((tag, role))

    def handle_endtag(self, tag):
        if all(name != tag for name, _ in self.open):
            return
        while self.open:
            name, role = self.open.pop()
            self.leave(role)
            if name == tag:
                return

    def leave(self, role):
        if role == "code":
            self.in_code -= 1
        elif role == "text":
            self.finish()
        elif role == "choice" and self.switches:
            self.out = self.switches[-1][0]
        elif role == "switch" and self.switches:
            outside, choices = self.switches.pop()
            default = [pieces for is_default, pieces in choices if is_default]
            first = [pieces for _, pieces in choices]
            outside.extend((default or first or [[]])[0])
            self.out = outside

    def handle_data(self, data):
        if self.out is not None and not self.in_code:
            self.out.append(data)

    def finish(self):
        if self.out is not None and self.id:
            text = clean("".join(self.out))
            if text:
                self.paragraphs.append((self.id, text))
        self.id, self.out, self.switches = None, None, []


def clean(text):
    """NFC, no invisible characters, single spaces, no space before a comma or a full stop that a tag has left."""
    text = unicodedata.normalize("NFC", text)
    text = " ".join(text.split())
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Cc"))
    text = " ".join(text.split())
    return re.sub(r"(?<=\w) ([.,;])(?= |$)", r"\1", text)


# What a full stop follows without ending a sentence.
ABBREVIATION = re.compile(
    r"(?:^|[\s(\"„“])(?:e\.g|i\.e|etc|vs|approx|resp|no|nos|fig|incl|excl|max|min|st|mr|mrs|dr|"
    r"z\.\s?b|d\.\s?h|u\.\s?a|u\.\s?u|o\.\s?ä|o\.\s?a|s\.\s?o|s\.\s?u|i\.\s?d\.\s?r|bzw|usw|ggf|evtl|ca|nr|"
    r"inkl|exkl|abb|vgl|sog|ggfs|allg|bspw|entspr|engl|zzgl|d|z|u|o|s|i|\d+|[a-z])\.$",
    re.IGNORECASE,
)
BOUNDARY = re.compile(r"(?<=[.!?])[\"”“»)]?\s+(?=[\"„“«(]?[A-ZÄÖÜ])")


def sentences(text):
    parts, start = [], 0
    for boundary in BOUNDARY.finditer(text):
        head = text[start : boundary.start()]
        if ABBREVIATION.search(head):
            continue
        closing = boundary.group().rstrip()
        parts.append((head + closing).strip())
        start = boundary.end()
    parts.append(text[start:].strip())
    return [part for part in parts if part]


def paragraphs(path):
    page = Page()
    text = path.read_text(encoding="utf-8")
    body = text.find('<div id="DisplayArea"')
    end = text.find('<div id="SearchFrame"')
    page.feed(text[max(body, 0) : end if end > 0 else len(text)])
    page.close()
    page.finish()
    grouped = {}
    for key, value in page.paragraphs:
        grouped.setdefault(key, []).append(value)
    return grouped


def good(english, german):
    counts = len(english.split()), len(german.split())
    if not all(1 <= count <= MAX_WORDS for count in counts):
        return False
    if "\ufffd" in english + german or " not found]" in english:  # a broken character, a broken embedding
        return False
    ratio = len(german) / len(english)
    if not RATIO[0] <= ratio <= RATIO[1]:
        return False
    if normal(english) == normal(german):  # not translated
        return False
    return all(re.search(r"[^\W\d_]{3}", side) for side in (english, german))


def normal(text):
    """The form in which two sources count as the same: lower case, letters only, single spaces."""
    return " ".join(re.sub(r"[\W\d_]+", " ", text.lower()).split())


def page_pairs(english_path, german_path):
    english, german = paragraphs(english_path), paragraphs(german_path)
    for key, values in english.items():
        others = german.get(key, [])
        if len(values) != len(others):
            continue
        for source, target in zip(values, others):
            sources, targets = sentences(source), sentences(target)
            if len(sources) != len(targets):
                sources, targets = [source], [target]
            yield from ((s, t) for s, t in zip(sources, targets) if good(s, t))


def split_of(page):
    number = int.from_bytes(hashlib.sha256(f"{SEED}\0{page}".encode()).digest()[:8], "big") % 100
    if number < VALID_PERCENT:
        return "valid"
    return "test" if number < VALID_PERCENT + TEST_PERCENT else "train"


def without_shared(pairs, seen_sources):
    return [pair for pair in pairs if normal(pair[0]) not in seen_sources]


def main(help_folder, out_folder):
    root = Path(help_folder)
    english_root, german_root = root / "en-US" / "text", root / "de" / "text"
    pages = sorted(path.relative_to(english_root).as_posix() for path in english_root.rglob("*.html"))
    splits = {"train": {}, "valid": {}, "test": {}}  # dicts: exact duplicates fall together, order stays
    joined = 0
    for page in pages:
        if (german_root / page).is_file():
            joined += 1
            splits[split_of(page)].update(dict.fromkeys(page_pairs(english_root / page, german_root / page)))
    pairs = {name: list(found) for name, found in splits.items()}

    in_train = {normal(source) for source, _ in pairs["train"]}
    test = without_shared(pairs["test"], in_train)
    in_test = {normal(source) for source, _ in test}
    valid = without_shared(pairs["valid"], in_train)
    apart = without_shared(valid, in_test)
    print(f"pages in both languages: {joined}")
    print(f"removed from test, source also in train: {len(pairs['test']) - len(test)}")
    print(f"removed from valid, source also in train: {len(pairs['valid']) - len(valid)}")
    print(f"removed from valid, source also in test: {len(valid) - len(apart)}")
    pairs["valid"], pairs["test"] = apart, test

    out = Path(out_folder)
    out.mkdir(parents=True, exist_ok=True)
    for name, found in pairs.items():
        plain = "".join(f"{source}\t{target}\n" for source, target in found).encode("utf-8")
        packed = gzip.compress(plain, compresslevel=9, mtime=0)
        (out / f"{name}.tsv.gz").write_bytes(packed)
        short = sum(all(3 <= len(side.split()) <= 12 for side in pair) for pair in found)
        words = sum(len(source.split()) for source, _ in found), sum(len(target.split()) for _, target in found)
        digest = hashlib.sha256(plain).hexdigest()[:16]
        print(f"{name}: {len(found)} pairs, {words[0]} + {words[1]} words, {short} of 3 to 12 words on both sides, "
              f"{len(plain)} bytes, {len(packed)} packed, sha256 of the text {digest}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
