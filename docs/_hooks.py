"""What mkdocs does to our pages, which are also read on GitHub: files of the repository, and mathematics.

- A page that is another file's text, as the changelog is, says `--8<-- "CHANGELOG.md"`.
- Links to files outside docs/ lead to GitHub.
- Mathematics becomes MathML while the site is built: browsers draw it, and nothing is fetched or run.
- Headings have the addresses that they have on GitHub.
- An underscore behind a letter with an accent, as in Q̂_t, is that of an index, as on GitHub.
"""

import html
import os
import pathlib
import re

import latex2mathml.converter
from markdown.extensions import Extension
from markdown.inlinepatterns import SimpleTextInlineProcessor
from mkdocs.plugins import event_priority
from pymdownx.slugs import slugify

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]*)(#[^)\s]*)?(\))")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def linked(text: str, folder: pathlib.Path, page: pathlib.Path, repository: str) -> str:
    """The text, whose links are relative to `folder`, for a page in the folder `page`."""

    def replace(match: re.Match) -> str:
        before, target, anchor, after = match.groups()
        path = pathlib.Path(os.path.normpath(folder / target))
        if path.is_relative_to(DOCS):
            target = os.path.relpath(path, page)
        elif path.is_relative_to(ROOT):
            kind = "tree" if path.is_dir() else "blob"
            target = f"{repository}/{kind}/main/{path.relative_to(ROOT).as_posix()}"
        return f"{before}{target}{anchor or ''}{after}"

    parts = re.split(f"({FENCE.pattern})", text, flags=FENCE.flags)
    return "".join(part if i % 2 else LINK.sub(replace, part) for i, part in enumerate(parts))


class Indices(Extension):
    def extendMarkdown(self, md):  # noqa: N802
        index = SimpleTextInlineProcessor(r"(?<=[\u0300-\u036f])(_)")
        md.inlinePatterns.register(index, "indices", 65)  # Before emphasis.


def present(entries: list) -> list:
    """The navigation's entries whose pages are there."""
    there = []
    for entry in entries:
        ((title, value),) = entry.items() if isinstance(entry, dict) else [(None, entry)]
        value = present(value) if isinstance(value, list) else value
        if isinstance(value, list) or (DOCS / value).exists():
            there.append(value if title is None else {title: value})
    return there


def on_config(config):
    config["nav"] = present(config["nav"])
    config["markdown_extensions"].append(Indices())
    config["mdx_configs"]["toc"]["slugify"] = slugify(case="lower")


@event_priority(100)  # Before whatever else reads the page.
def on_page_markdown(markdown, page, config, **kwargs):
    folder = pathlib.Path(page.file.abs_src_path).parent
    repository = config["repo_url"].rstrip("/")
    markdown = linked(markdown, folder, folder, repository)

    def included(match: re.Match) -> str:
        return linked((ROOT / match[1]).read_text(encoding="utf-8"), ROOT, folder, repository)

    return re.sub(r'^--8<-- "([^"]+)"$', included, markdown, flags=re.MULTILINE)


def on_page_content(content, **kwargs):
    def mathematics(match: re.Match) -> str:
        latex = html.unescape(match[2])[2:-2]  # Without \( \) or \[ \].
        return latex2mathml.converter.convert(latex, display="block" if match[1] == "div" else "inline")

    return re.sub(r'<(span|div) class="arithmatex">(.*?)</\1>', mathematics, content, flags=re.DOTALL)
