"""The page of a comparison: one HTML file with the tables and each run's curves and pictures, which loads nothing."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ssl_lightning import __version__
from ssl_lightning.compare.charts import Curve, chart, read_curves, shade
from ssl_lightning.compare.markup import Markup, tag
from ssl_lightning.compare.runs import Run, plain
from ssl_lightning.compare.tables import (
    Column,
    Table,
    about,
    cell,
    differences,
    head,
    heads,
    notes,
    protocols,
    rows_of,
    tables,
)

GENERATOR = tag("meta", name="generator", content="ssl-lightning compare")  # says whose file it is
CURVES = 12  # of a run, and of what runs have in common
PICTURES, PICTURE_BYTES, PAGE_BYTES = 4, 1_000_000, 20_000_000  # of a run; of one; of all together
KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}  # by how a file begins
UNFOLDED = 6  # with more runs they are folded up

RunCurves = Mapping[int, dict[str, Curve]]  # of each run, by its number


def page(runs: Sequence[Run], left_out: Sequence[str]) -> str:
    """The file's text.

    Args:
        runs: Those compared.
        left_out: A line for each that could not be.
    """
    found, single = tables(runs), tables(runs, each=True)
    ids, numbers = protocols(found), {id(run): n for n, run in enumerate(runs)}
    curves = {n: read_curves(run.folder) for n, run in enumerate(runs)}
    parts: list[Markup] = []
    for table, alone in zip(found, single, strict=True):
        parts += [tag("h2", table.data), drawn(table, table.columns, ids, numbers)]
        if any(len(row.runs) > 1 for row in table.rows):
            parts.append(folded("Run by run", drawn(alone, alone.columns, ids, numbers)))
        if table.besides:
            parts.append(folded("Other numbers", drawn(table, table.besides, ids, numbers)))
        parts += while_training(table, numbers, curves)
    parts += [
        tag("h2", "Protocols"),
        tag("ol", *(tag("li", name or "none recorded") for name in ids)),
        tag("h2", "Runs"),
    ]
    room = PAGE_BYTES
    for n, (run, differs) in enumerate(zip(runs, differences(runs), strict=True)):
        shown = pictures(run.folder, room)
        room -= shown.size
        parts.append(section(run, n, differs, curves[n], shown, len(runs) <= UNFOLDED))
    title = f"{len(runs)} run{'s' * (len(runs) > 1)} compared"
    about_it = [tag("h1", title), tag("p", f"ssl-lightning {__version__} compare", class_="soft")]
    about_it += [tag("p", line, class_="soft") for line in notes(found)]
    about_it += [tag("p", f"Left out {line}") for line in left_out]
    begin = tag(
        "head",
        tag("meta", charset="utf-8"),
        GENERATOR,
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(Path(__file__).with_name("page.css").read_text())),
    )
    return f"<!doctype html>\n{tag('html', begin, tag('body', *about_it, *parts), lang='en')}\n"


def folded(title: str, *inside: Markup) -> Markup:
    return tag("details", tag("summary", title), *inside)


def drawn(table: Table, columns: Sequence[Column], ids: Sequence[str], numbers: Mapping[int, int]) -> Markup:
    """A table, with links to the runs; `numbers` are those of their sections."""
    first = heads(table)
    names = [*(tag("th", name) for name in first), *(tag("th", head(c, ids), class_="number") for c in columns)]
    body = []
    for row in rows_of(table, columns):
        cells = [tag("td", about(row)[name], class_="words" if name == "arguments" else False) for name in first]
        cells += [tag("td", cell(row, column), class_="number") for column in columns]
        links = [tag("a", run.name, href=f"#run{numbers[id(run)]}") for run in row.runs]
        body.append(tag("tr", *cells, tag("td", Markup(", ".join(links)), class_="words")))
    top = tag("thead", tag("tr", *names, tag("th", "runs")))
    return tag("div", tag("table", top, tag("tbody", *body)), class_="wide")


def while_training(table: Table, numbers: Mapping[int, int], curves: RunCurves) -> list[Markup]:
    """The validation scores of a table's runs: in a chart one score by one measurement, in a colour one row."""
    groups = list({id(row.runs): row for row in table.rows}.values())
    lines: dict[tuple[str, str], list[Curve]] = {}
    for place, row in enumerate(groups):
        for run in row.runs:
            for name, curve in curves[numbers[id(run)]].items():
                if name.startswith("val/"):
                    lines.setdefault((name, measured_by(run, name)), []).append(curve._replace(colour=place))
    if not lines:
        return []
    several = Counter(name for name, _ in lines)
    shown = sorted(lines, key=lambda key: -len(lines[key]))
    charts = [chart(name, lines[name, by], by if several[name] > 1 else "") for name, by in shown[:CURVES]]
    labels = [", ".join(filter(None, [row.runs[0].model, row.arguments])) for row in groups]
    key = [tag("span", tag("i", class_=shade(n)), label) for n, label in enumerate(labels)]
    out = [tag("h3", "While training"), tag("p", *key, class_="key soft"), tag("div", *charts, class_="charts")]
    return [*out, *left_out("Curves", [name for name, _ in shown[CURVES:]])]


def measured_by(run: Run, metric: str) -> str:
    """What a number of metrics.jsonl means: the settings of the fit, or else the protocol of the same score's test."""
    score = metric.split("/")[1]
    protocol = next((s.protocol for s in run.scores if s.name == score), "")
    return run.evaluation.get(score.split("_")[0], protocol)


class Pictures(NamedTuple):
    """What a page shows of a run's pictures."""

    figures: list[Markup]
    left_out: list[str]
    size: int  # bytes of the files


def pictures(folder: Path | None, room: int) -> Pictures:
    """The latest of each name: PICTURES at most, each of PICTURE_BYTES at most, together of `room` bytes at most."""
    files = [path for path in sorted(folder.glob("pictures/*")) if path.is_file()] if folder else []
    latest = {path.stem.split("-")[0]: path for path in sorted(files, key=lambda path: path.stat().st_mtime)}
    found = Pictures([], [], 0)
    for path in files:
        size = path.stat().st_size
        fits = len(found.figures) < PICTURES and size <= min(PICTURE_BYTES, room - found.size)
        content = path.read_bytes() if fits and path in latest.values() else b""
        kind = next((kind for start, kind in KINDS.items() if content.startswith(start)), None)
        if kind is None:
            found.left_out.append(path.name)
            continue
        image = tag("img", src=f"data:{kind};base64,{base64.b64encode(content).decode()}", alt=path.stem)
        found.figures.append(tag("figure", image, tag("figcaption", path.name)))
        found = found._replace(size=found.size + size)
    return found


def section(run: Run, number: int, differs: str, curves: Mapping[str, Curve], shown: Pictures, is_open: bool) -> Markup:
    """What is known of a run."""
    facts = {
        "folder": str(run.folder or ""),
        "differs in": differs,
        "seed": "not recorded" if run.seed is None else str(run.seed),
        "last step": f"{max(curve.points[-1][0] for curve in curves.values()):,.0f}" if curves else "",
        **run.facts,
    }
    known = [(name, words) for name, words in facts.items() if words]
    names = sorted(curves, key=lambda name: (name != "train/loss", name.split("/")[0] != "train"))
    rows = [
        tag("tr", tag("td", name), tag("td", plain(value), class_="words")) for name, value in run.arguments.items()
    ]
    return tag(
        "details",
        tag("summary", run.name, tag("span", f"{run.model}, {run.data}", class_="soft")),
        # the target of links is inside, for then they unfold it
        tag("dl", *(part for name, words in known for part in (tag("dt", name), tag("dd", words))), id=f"run{number}"),
        tag("div", *(chart(name, [curves[name]]) for name in names[:CURVES]), class_="charts"),
        *([] if curves else [tag("p", "No metrics.jsonl, no curves.", class_="soft")]),
        *left_out("Curves", names[CURVES:]),
        tag("div", *shown.figures, class_="pictures"),
        *left_out("Pictures", shown.left_out),
        folded("All arguments", tag("div", tag("table", *rows), class_="wide")),
        class_="run",
        open=is_open,
    )


def left_out(what: str, names: Sequence[str]) -> list[Markup]:
    """A line that says so, or none."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return [tag("p", f"{what} left out: {', '.join(names[:8])}{more}.", class_="soft")] if names else []
