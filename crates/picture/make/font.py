"""Makes the fonts of still pictures: DejaVu Sans and its bold face, reduced to the characters that labels use.

    pip install fonttools==4.68.0
    python crates/picture/make/font.py /usr/share/fonts/truetype/dejavu

The folder is that of Debian's package fonts-dejavu-core (2.37). Writes font/*.ttf and the licence that is in them,
font/LICENSE-DEJAVU. The same fonts and the same fonttools give the same bytes.
"""

import sys
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

OUT = Path(__file__).resolve().parent.parent / "font"
LICENSE = 13  # the name table's entry

# Both ends are included.
CHARACTERS = [
    (0x20, 0x7E),  # Latin
    (0xA0, 0xFF),  # Latin-1
    (0x100, 0x17F),  # Latin Extended-A
    (0x2010, 0x2027),  # dashes, quotes, the ellipsis
    (0x2030, 0x203A),
    (0x20AC, 0x20AC),  # the euro
    (0x2212, 0x2212),  # minus
    (0x221E, 0x221E),  # infinity
    (0x2581, 0x2581),  # the word boundary of SentencePiece
    (0xFFFD, 0xFFFD),  # what stands for a control character
    (0x218, 0x21B),  # Romanian
    (0x37A, 0x3CE),  # Greek
    (0x400, 0x45F),  # Cyrillic
    (0x490, 0x491),
    (0x2190, 0x2199),  # arrows
]

FACES = ["DejaVuSans", "DejaVuSans-Bold"]


def main(folder):
    OUT.mkdir(exist_ok=True)
    for face in FACES:
        font = TTFont(folder / f"{face}.ttf", recalcTimestamp=False)
        license_text = font["name"].getDebugName(LICENSE)
        options = subset.Options()
        options.hinting = False  # the rasteriser does not hint
        options.layout_features = ["kern", "mark", "mkmk", "ccmp"]
        options.name_IDs = [0, 1, 2, 4, 6, LICENSE]
        options.drop_tables += ["FFTM"]  # FontForge's time stamps
        options.notdef_outline = True  # a box for what is missing
        options.recalc_timestamp = False
        subsetter = subset.Subsetter(options)
        subsetter.populate(unicodes=[code for first, last in CHARACTERS for code in range(first, last + 1)])
        subsetter.subset(font)
        path = OUT / f"{face}.ttf"
        font.save(path, reorderTables=True)
        print(path.name, path.stat().st_size, "bytes", len(font.getBestCmap()), "characters")
    lines = (line.rstrip() for line in license_text.replace("\r\n", "\n").split("\n"))
    (OUT / "LICENSE-DEJAVU").write_text("\n".join(lines).strip() + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
