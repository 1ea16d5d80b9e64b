"""The page: sections of words, tables and pictures in one file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence


def page(title: str, sections: Sequence[tuple[str, str, str | bytes]]) -> str:
    """A page that opens from disk with no network: pictures inside, no scripts.

    Args:
        sections: heading, explanation (HTML), and content: HTML or a PNG.
    """
    parts = []
    for heading, words, content in sections:
        if isinstance(content, bytes):
            data = base64.b64encode(content).decode()
            content = f'<img alt="{html.escape(heading)}" src="data:image/png;base64,{data}">'
        parts.append(f"<section><h2>{html.escape(heading)}</h2><p>{words}</p>{content}</section>")
    return PAGE.format(title=html.escape(title), body="\n".join(parts))


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.55 system-ui, sans-serif; color: #1c2126;
  max-width: 76rem; margin: 2rem auto; padding: 0 1.2rem; }}
h1 {{ font-size: 1.7rem; }} h2 {{ font-size: 1.15rem; margin: 2.2rem 0 .2rem; }}
p {{ max-width: 48rem; margin: .3rem 0 .9rem; color: #47505a; }}
img {{ max-width: 100%; }} section {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .65rem; text-align: right; white-space: nowrap; }}
th {{ font-weight: 600; border-bottom: 2px solid #1c2126; }}
th:nth-child(-n+2), td:nth-child(-n+2) {{ text-align: left; }}
tr.first td {{ border-top: 1px solid #cfd4da; }}
code {{ background: #f2f4f6; padding: .1rem .3rem; border-radius: 3px; }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""
