"""Runs as tables: every score under the protocol it was measured by, never two protocols or data sets in a column."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from ssl_lightning.compare.runs import Run, plain

NETWORK = ("model.backbone", "model.backbone_args", "model.size", "model.image_size")  # compared across methods
BESIDES = re.compile(r"^(feature|pretext|attention)_|_(rate|fps)$|_split_")  # no accuracy to choose a method by
PERCENT = re.compile(r"(top\d+|accuracy|exact_match|_r\d+|pairs_k\d+|precision_\d+)(, [\w ]+)?$")


class Column(NamedTuple):
    """The numbers of one score and one protocol."""

    score: str
    protocol: str


class Row(NamedTuple):
    """Runs that differ in nothing but the seed, and a layer of theirs."""

    runs: list[Run]
    layer: str
    arguments: str  # that other runs of the table have otherwise
    values: dict[Column, list[float]]


class Table(NamedTuple):
    """The rows of one data set."""

    data: str
    columns: list[Column]
    besides: list[Column]  # further ones, of diagnostics
    rows: list[Row]


def tables(runs: Sequence[Run], each: bool = False) -> list[Table]:
    """A table for each data set.

    Args:
        runs: All of them.
        each: A row for each run, in place of one for those that differ in nothing but the seed.
    """
    by_data: dict[str, list[Run]] = {}
    for run in runs:
        by_data.setdefault(f"{run.data} {plain(run.data_arguments)}", []).append(run)
    found = []
    for mine in by_data.values():
        same = choices(run.data_arguments for run in runs if run.data == mine[0].data)
        heading = [mine[0].data, *(setting(k, v) for k, v in mine[0].data_arguments.items() if len(same[k]) > 1)]
        columns = list(dict.fromkeys(Column(s.name, s.protocol) for run in mine for s in run.scores))
        names = list(dict.fromkeys(_base(column) for column in columns))  # a score's columns side by side
        columns = sorted(columns, key=lambda column, names=names: names.index(_base(column)))  # type: ignore[misc]
        shown = [column for column in columns if not BESIDES.search(column.score)] or columns
        differing = {id(run): words for run, words in zip(mine, differences(mine), strict=True)}
        groups = [[run] for run in mine] if each else by_seed(mine)
        rows = [row for group in groups for row in _rows(group, differing[id(group[0])])]
        found.append(Table(", ".join(heading), shown, [c for c in columns if c not in shown], rows))
    return found


def _base(column: Column) -> str:
    return column.score.split(",")[0]


def by_seed(runs: Sequence[Run]) -> list[list[Run]]:
    """Groups of runs that differ in the seed alone; a seed that comes again, or is not known, begins another group."""
    groups: dict[str, list[list[Run]]] = {}
    for run in runs:
        alike = groups.setdefault(f"{run.model} {plain(run.arguments)}", [])
        free = (group for group in alike if not {run.seed, None} & {other.seed for other in group})
        group = next(free, None) if run.seed is not None else None
        if group is None:
            alike.append([run])
        else:
            group.append(run)
    return [group for alike in groups.values() for group in alike]


def _rows(group: list[Run], arguments: str) -> list[Row]:
    rows: dict[str, Row] = {}
    for score in (score for run in group for score in run.scores):
        row = rows.setdefault(score.layer, Row(group, score.layer, arguments, {}))
        row.values.setdefault(Column(score.name, score.protocol), []).append(score.value)
    return list(rows.values())


def choices(arguments: Iterable[dict[str, Any]]) -> dict[str, set[str]]:
    """The values that occur of each argument."""
    found: dict[str, set[str]] = {}
    for given in arguments:
        for key, value in given.items():
            found.setdefault(key, set()).add(plain(value))
    return found


def differences(runs: Sequence[Run]) -> list[str]:
    """Of each run the arguments that others have otherwise: other runs of its method, or, of the network, the data and
    the trainer, all others."""
    every = choices(run.arguments for run in runs)
    of_method = {name: choices(r.arguments for r in runs if r.model == name) for name in {run.model for run in runs}}
    found = []
    for run in runs:
        own = [k for k in run.arguments if k.startswith("model.") and k not in NETWORK]
        differ = [k for k in run.arguments if len((of_method[run.model] if k in own else every)[k]) > 1]
        found.append(", ".join(setting(key, run.arguments[key]) for key in differ))
    return found


def setting(key: str, value: Any) -> str:
    """Such as `lr=0.1`; of a long value the end, where paths differ."""
    words = plain(value)
    return f"{key.removeprefix('model.')}={words if len(words) <= 40 else f'…{words[-39:]}'}"


def protocols(found: Sequence[Table]) -> list[str]:
    """The ids of all columns: the place in this list, from 1, is the number in a column's head."""
    columns = [*(c for table in found for c in table.columns), *(c for table in found for c in table.besides)]
    return list(dict.fromkeys(column.protocol for column in columns))


def rows_of(table: Table, columns: Sequence[Column]) -> list[Row]:
    """The rows that have a number in one of the columns, and one row of runs that have none."""
    full = {id(row.runs) for row in table.rows if any(column in row.values for column in columns)}
    kept = []
    for row in table.rows:
        if any(column in row.values for column in columns) or id(row.runs) not in full:
            full.add(id(row.runs))
            kept.append(row)
    return kept


def heads(table: Table) -> list[str]:
    """Of the columns before the scores; `about` has what stands under them."""
    shown = {
        "method": True,
        "family": any(run.family for row in table.rows for run in row.runs),
        "layer": any(row.layer for row in table.rows),
        "arguments": any(row.arguments for row in table.rows),
        "seeds": any(len(row.runs) > 1 for row in table.rows),
    }
    return [name for name, is_shown in shown.items() if is_shown]


def about(row: Row) -> dict[str, str]:
    first = {"method": row.runs[0].model, "family": row.runs[0].family, "layer": row.layer or "last"}
    return {**first, "arguments": row.arguments, "seeds": str(len(row.runs))}


def head(column: Column, ids: Sequence[str]) -> str:
    unit = ", %" if PERCENT.search(column.score) else ""
    return f"{column.score}{unit} [{ids.index(column.protocol) + 1}]"


def cell(row: Row, column: Column) -> str:
    """Mean ± standard deviation; how many runs have it, where not all do; empty if none does."""
    values = row.values.get(column, [])
    if not values:
        return ""
    scale, form, spread = (100, ".1f", ".1f") if PERCENT.search(column.score) else (1, ".4g", ".2g")
    words = f"{scale * fmean(values):{form}}"
    if len(values) > 1:
        words += f" ± {scale * stdev(values):{spread}}"
    return words + f" ({len(values)})" * (len(values) < len(row.runs))


def notes(found: Sequence[Table]) -> list[str]:
    """How to read the tables."""
    rows = [row for table in found for row in table.rows]
    lines = ["A column holds one score by one protocol, whose number is in its head: do not compare across columns."]
    if any(len(row.runs) > 1 for row in rows):
        lines.append("Mean ± standard deviation (n - 1) over seeds.")
    counts = [
        (len(row.values.get(column, [])), len(row.runs))
        for table in found
        for row in rows_of(table, table.columns)
        for column in table.columns
    ]
    if any(0 < some < every for some, every in counts):
        lines.append("(n): of so many of the row's runs, the others do not have it.")
    if any(some == 0 for some, _ in counts):
        lines.append("An empty cell: not measured.")
    if any("" in (c.protocol for c in table.columns) for table in found):
        lines.append("Where no protocol was recorded, nothing says that two numbers compare.")
    mixed = [r.runs for r in rows if len({(run.facts.get("commit"), run.facts.get("versions")) for run in r.runs}) > 1]
    for names in dict.fromkeys(", ".join(run.name for run in group) for group in mixed):
        lines.append(f"Of several commits or versions, in one row: {names}.")
    return lines


def markdown(runs: Sequence[Run]) -> str:
    """The tables, how to read them, and the protocol ids."""
    found = tables(runs)
    ids, parts = protocols(found), []
    for table in found:
        first = heads(table)
        lines = [[*first, *(head(column, ids) for column in table.columns), "runs"]]
        for row in rows_of(table, table.columns):
            names = ", ".join(dict.fromkeys(run.name for run in row.runs))
            lines.append([*(about(row)[key] for key in first), *(cell(row, c) for c in table.columns), names])
        parts.append(f"{_escaped(table.data)}:\n\n{_grid(lines)}")
    used = list(dict.fromkeys(column.protocol for table in found for column in table.columns))
    listed = "\n".join(f"- [{n}] {_escaped(name) or 'none recorded'}" for n, name in enumerate(used, 1))
    return "\n\n".join([*parts, _escaped(" ".join(notes(found))), listed])


def _escaped(words: str) -> str:
    return re.sub(r"([|<`\\])", r"\\\1", words.replace("\n", " "))


def _grid(lines: list[list[str]]) -> str:
    cells = [[_escaped(words) for words in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = ["| " + " | ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    return "\n".join([rows[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *rows[1:]])


def lines_of_scores(runs: Sequence[Run]) -> str:
    """CSV: a line for each number, as it was measured."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow("run model data data_arguments seed layer score protocol value commit time arguments".split())
    for run in runs:
        before = [run.name, run.model, run.data, plain(run.data_arguments), run.seed]
        after = [run.facts.get("commit"), run.facts.get("time"), plain(run.arguments)]
        out.writerows([*before, s.layer, s.name, s.protocol, repr(s.value), *after] for s in run.scores)
    return text.getvalue()
