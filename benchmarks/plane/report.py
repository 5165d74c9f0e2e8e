"""The figures of a results file as Markdown: each beside what it is held against, and the target."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

from benchmarks.plane import ingest, pulling, pushing, tables
from benchmarks.plane.figure import Figure, spread
from benchmarks.report import made_lines, table, unique

PULL_LIMIT, PUSH_LIMIT, INGEST_LEAST, GROWTH_MIB = 1.15, 1.15, 0.9, 150
UNCHANGED_REQUESTS, UNCHANGED_S = 5, 2.0


def markdown(figures: Sequence[Figure]) -> str:
    """The whole report."""
    parts: Mapping[str, Callable[[Sequence[Figure]], str]] = {
        "Which door is the fastest": doors,
        "Full pull": full_pulls,
        "Pulls after the first": later_pulls,
        "Memory": memory,
        "Push": pushes,
        "Images": images,
        "Snapshot": snapshots,
    }
    sections = [f"## {title}\n\n{text}" for title, make in parts.items() if (text := make(figures))]
    commands = [f"`{command}`" for command in unique(each.command for each in figures if each.command)]
    loads = [each.load for each in figures if each.load is not None]
    busy = [f"Load average of the machine meanwhile: {spread(loads, 1)}."] if loads else []
    head = ["# Data plane", "", *commands, "", *made_lines(figures), *busy, "", _LEGEND]
    return "\n".join(head) + "\n\n" + "\n\n".join(sections) + "\n"


_LEGEND = """\
Seconds are wall time, median (least–most) of the rounds; a figure without a range was measured once. Rounds of what is
compared took turns. MB is what Label Studio sent; ÷ is the ratio of the medians."""


def best(figures: Sequence[Figure], server: str, size: int) -> Figure | None:
    """The fastest bare read of so many tasks."""
    found = [each for each in of(figures, "doors") if (each.server, each.size) == (server, size)]
    return min(found, key=lambda each: each.median) if found else None


def of(figures: Sequence[Figure], part: str, what: str | None = None) -> list[Figure]:
    """The figures of one part, by server and size; of one work only, if named."""
    found = [each for each in figures if each.part == part and what in (None, each.what) and each.error is None]
    return sorted(found, key=lambda each: (each.server != "SQLite", each.server, each.size))


def ratio(mine: Figure, other: Figure) -> float:
    """Of the medians."""
    return mine.median / other.median


def verdict(holds: bool) -> str:
    """Shown beside a target."""
    return "yes" if holds else "**no**"


def doors(figures: Sequence[Figure]) -> str:
    """A row for each way of reading, a column for each server and size."""
    found = of(figures, "doors")
    if not found:
        return ""
    cases = unique_pairs(found)
    by_key = {each.key: each for each in found}
    body = []
    for what in unique(each.what for each in found):
        cells = []
        for server, size in cases:
            mine, first = by_key.get(("doors", server, size, what)), best(figures, server, size)
            text = "–" if mine is None else mine.spread(1 if size >= 10_000 else 2)
            cells.append(f"**{text}**" if mine is first else text)
        body.append([what, *cells])
    head = ["bare read, seconds", *(f"{server}, {size:,}" for server, size in cases)]
    return "The fastest of each column is bold.\n\n" + table(head, body)


def unique_pairs(figures: Sequence[Figure]) -> list[tuple[str, int]]:
    """(server, size), each once."""
    return list(dict.fromkeys((each.server, each.size) for each in figures))


def full_pulls(figures: Sequence[Figure]) -> str:
    """Against the fastest bare read of the same run."""
    body = []
    for each in of(figures, "pull"):
        first = best(figures, each.server, each.size)
        if first is None:
            continue
        limit = each.what == pulling.LABELS_ONLY
        body.append(
            [
                each.server, f"{each.size:,}", each.what, each.spread(), first.spread(), first.what,
                f"{ratio(each, first):.2f}", verdict(ratio(each, first) <= PULL_LIMIT) if limit else "",
                *_wire(each), _number(each.tail_s, 1), _number(each.peak_mib, 0),
            ]
        )  # fmt: skip
    head = [
        "server", "tasks", "what", "seconds", "fastest bare read", "by", "÷", f"≤ {PULL_LIMIT}", "requests", "MB",
        "s after the last answer", "peak RSS, MiB",
    ]  # fmt: skip
    return table(head, body, texts=(0, 2, 5)) if body else ""


def later_pulls(figures: Sequence[Figure]) -> str:
    """Incremental ones. The survey of a round is part of each."""
    body = []
    for each in of(figures, "again"):
        holds = each.what == pulling.UNCHANGED and each.requests is not None
        target = verdict((each.requests or 0) <= UNCHANGED_REQUESTS and each.median <= UNCHANGED_S) if holds else ""
        body.append([each.server, f"{each.size:,}", each.what, each.spread(), *_wire(each), target, each.note])
    head = ["server", "tasks", "since the last pull", "seconds", "requests", "MB",
            f"≤ {UNCHANGED_REQUESTS} requests and {UNCHANGED_S:g} s", "of which"]  # fmt: skip
    return table(head, body, texts=(0, 2, 7)) if body else ""


def memory(figures: Sequence[Figure]) -> str:
    """Peak resident sets by size, and how far they grow from the least to the most tasks."""
    kinds = [("pull", pulling.WITH_IMAGES), ("pull", pulling.LABELS_ONLY), ("again", pulling.CHANGED),
             ("again", pulling.DELETED)]  # fmt: skip
    body, sizes = [], unique_sizes(each for each in figures if each.part in ("pull", "again") and _is_sqlite(each))
    for part, what in kinds:
        found = {each.size: each for each in of(figures, part, what) if _is_sqlite(each) and each.peak_mib}
        if len(found) < 2:
            continue
        peaks = [found[size].peak_mib if size in found else None for size in sizes]
        known = [peak for peak in peaks if peak is not None]
        growth = max(known) - known[0]
        body.append([what, *(_number(peak, 0) for peak in peaks), f"{growth:+.0f}", verdict(growth < GROWTH_MIB)])
    if not body:
        return ""
    starts = [each.start_mib for each in figures if each.start_mib is not None]
    head = ["peak RSS, MiB, by tasks", *(f"{size:,}" for size in sizes), "growth", f"< {GROWTH_MIB}"]
    text = f"Each pull in a process of its own, which has {spread(starts, 0)} MiB before it begins.\n\n"
    return text + table(head, body)


def _is_sqlite(figure: Figure) -> bool:
    return figure.server == "SQLite"


def unique_sizes(figures: Iterable[Figure]) -> list[int]:
    """Ascending."""
    return sorted({each.size for each in figures})


def pushes(figures: Sequence[Figure]) -> str:
    """Against a bare import of the same payload."""
    body = []
    for each in of(figures, "push", pushing.OURS):
        for bare in of(figures, "push", pushing.BARE):
            if (bare.server, bare.size) == (each.server, each.size):
                rate = each.size / each.median
                body.append(
                    [f"{each.size:,}", each.spread(), bare.spread(), f"{ratio(each, bare):.2f}",
                     verdict(ratio(each, bare) <= PUSH_LIMIT), str(each.requests), f"{rate:,.0f}"]
                )  # fmt: skip
    head = ["questions", "push, seconds", pushing.BARE, "÷", f"≤ {PUSH_LIMIT}", "requests", "questions/s"]
    return table(head, body, texts=()) if body else ""


def images(figures: Sequence[Figure]) -> str:
    """Rates of each place, and what share of the bare fetch's the store's is."""
    body = []
    for place, found in groupby(of_places(figures), key=lambda each: each.what.partition(": ")[0]):
        named = {each.what.rpartition(": ")[2]: each for each in found}
        if set(named) != {ingest.BARE, ingest.CHECKED, ingest.OURS}:
            continue
        bare, checked, ours = named[ingest.BARE], named[ingest.CHECKED], named[ingest.OURS]
        share = bare.median / ours.median
        body.append(
            [place, f"{ours.size:,}", _rate(bare), _rate(checked), _rate(ours), f"{100 * share:.0f} %",
             verdict(share >= INGEST_LEAST), f"{100 * checked.median / ours.median:.0f} %"]
        )  # fmt: skip
    head = ["images from", "n", "bare fetch, images/s", "decoded and hashed too", "ingest", "of the bare fetch",
            f"≥ {100 * INGEST_LEAST:.0f} %", "of that with decoding and hash"]  # fmt: skip
    if not body:
        return ""
    text = "The same threads for all three. What ingest does besides fetching: every image is decoded as a whole and\n"
    text += "hashed, looked up, and written to Parquet with its hash and size.\n\n"
    return text + table(head, body)


def of_places(figures: Sequence[Figure]) -> list[Figure]:
    """The images' figures, those of one place together."""
    return sorted(of(figures, "images"), key=lambda each: each.what.partition(": ")[0], reverse=True)


def _rate(figure: Figure) -> str:
    return spread([figure.size / seconds for seconds in figure.seconds], 0)


def snapshots(figures: Sequence[Figure]) -> str:
    """Writing and reading, and what the difference is made of."""
    found = {each.what: each for each in of(figures, "tables")}
    body = []
    for names in (
        (tables.BARE_WRITE, tables.ARROW, tables.FROM_ROWS, tables.HASHED, tables.FILES, tables.OURS_WRITE),
        (tables.BARE_READ, tables.FILES, tables.OURS_READ),
    ):
        if not {names[0], names[-1]} <= set(found):
            return ""
        for name in (each for each in names if each in found):
            bare = found[names[0]]
            body.append(
                [name, spread([1000 * each for each in found[name].seconds], 0), f"{ratio(found[name], bare):.2f}"]
            )
    rows = f"{next(iter(found.values())).size:,} rows in all tables of one snapshot."
    return f"{rows}\n\n" + table(["", "ms", "÷ Parquet's own"], body)


def _wire(figure: Figure) -> list[str]:
    received = "–" if figure.received is None else f"{figure.received / 1e6:,.2f}"
    return ["–" if figure.requests is None else f"{figure.requests:,}", received]


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
