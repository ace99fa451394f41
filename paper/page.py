"""One HTML page of all tables, for people: nothing in it is loaded from elsewhere."""

import base64
from pathlib import Path

import jinja2

from mr1jax.report import write_whole
from paper.table import OUT, cells, read_table
from paper.tables import TABLES


def write_page() -> None:
    """Writes `paper/index.html` about every table that has been made, in the order of TABLES."""
    sections = []
    for name in TABLES:
        if (found := read_table(name)) is None:
            continue
        table, about = found
        header, lines = cells(table)
        png = base64.b64encode(table.figure).decode() if table.figure else ""
        sections.append({"table": table, "about": about, "header": header, "lines": lines, "png": png})
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8")).render(sections=sections)
    write_whole(OUT / "index.html", page)
    print(f"written to {OUT / 'index.html'}")
