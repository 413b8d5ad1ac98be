"""How the reference reads docstrings.

"Fields:" of a record are what Google's style calls "Attributes:". An entry of several names, `a, b: what they are`, is
one entry for each of them, which then have their own types and defaults. A section needs an empty line before it.
"""

import re

from griffe import Extension, Object

SECTION = re.compile(r"^(Args|Attributes):\n((?:  .*\n|\n(?=  ))*)", re.MULTILINE)
ENTRY = re.compile(r"^  (\w+(?:,\s+\w+)+):((?: .*)?\n(?:(?:   .*)?\n)*)", re.MULTILINE)


def expanded(match: re.Match) -> str:
    names, text = match.groups()
    return "".join(f"  {name}:{text}" for name in re.split(r",\s+", names))


class Docstrings(Extension):
    def on_object(self, *, obj: Object, **kwargs) -> None:
        if obj.docstring is not None:
            text = re.sub(r"^Fields:$", "Attributes:", obj.docstring.value + "\n", flags=re.MULTILINE)
            text = SECTION.sub(lambda s: f"{s[1]}:\n{ENTRY.sub(expanded, s[2])}", text)
            text = re.sub(
                r"(?<=[^\n]\n)(?=(?:(?:Args|Attributes|Returns|Raises):$)|Sources?: )", "\n", text, flags=re.MULTILINE
            )
            obj.docstring.value = text.rstrip("\n")
