"""A verified model card as one HTML page that needs nothing else. Trust zone: a member's machine.

The page shows figures as the card has them; every text in it is escaped, and its own policy lets it load nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from console.running import protection_in_words
from trusted.card import VerifiedCard
from trusted.release import VerifiedRelease

Json = Mapping[str, Any]
WITHHELD = "withheld"
_WHY_WITHHELD = "too few rows or sites, or it would let such a figure be computed"
_STYLE = """
:root{color-scheme:light}
body{font:16px/1.5 system-ui,'Segoe UI',Helvetica,Arial,sans-serif;color:#1a2230;background:#fff;margin:0}
main{max-width:68rem;margin:0 auto;padding:2rem 1.5rem 4rem}
h1{font-size:1.9rem;margin:0 0 .2rem}
h2{font-size:1.25rem;margin:2.4rem 0 .6rem;border-bottom:1px solid #d5dbe5;padding-bottom:.3rem}
h3{font-size:1rem;margin:1.4rem 0 .4rem}p{margin:.5rem 0;max-width:46rem}.purpose{font-size:1.1rem;color:#47536a}
table{border-collapse:collapse;width:100%;margin:.6rem 0;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.4rem .7rem;border-bottom:1px solid #e4e8ef;vertical-align:top}
th{font-weight:600;background:#f4f6fa}td.n,th.n{text-align:right;white-space:nowrap}td:first-child{white-space:nowrap}
td.w{color:#6b7688;font-style:italic}
.warn{background:#fdecea;border-left:5px solid #b3261e;padding:.8rem 1rem;margin:1.2rem 0}
.ok{background:#e9f5ec;border-left:5px solid #2e7d43;padding:.8rem 1rem;margin:1.2rem 0}
.tiles{display:flex;gap:1rem;flex-wrap:wrap;margin:1.2rem 0}
.tile{flex:1 1 11rem;border:1px solid #d5dbe5;border-radius:8px;padding:.8rem 1rem}
.tile b{display:block;font-size:1.6rem}.tile span{color:#47536a;font-size:.9rem}
code{font:13px/1.4 ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}
ul{padding-left:1.2rem}li{margin:.3rem 0}
footer{margin-top:3rem;color:#47536a;font-size:.9rem}svg{max-width:22rem;height:auto}
@media print{main{max-width:none;padding:0}h2{break-after:avoid}table,svg,.tiles{break-inside:avoid}}
"""

_WORDS = """<h2>What the words mean</h2><ul>
<li><b>AUC</b>: the chance that a positive row scores higher than a negative one. 0.5 is guessing, 1 is perfect.</li>
<li><b>95 %</b>: were other rows drawn alike, the AUC would lie in this interval 95 times of a hundred.</li>
<li><b>observed, predicted</b>: the share of positive rows, and the mean score that the model gave.</li>
<li><b>calibration error</b>: how far predicted chances are from observed shares, averaged over ten ranges.</li>
<li><b>sensitivity, specificity</b>: the share of positive, of negative rows that is predicted right.</li>
<li><b>withheld</b>: too few rows or sites stand behind a figure, or it would let such a figure be computed.</li>
</ul>"""


def render(card: VerifiedCard, release: VerifiedRelease) -> bytes:
    """The page, UTF-8."""
    content = card.content
    parts = [
        f"<h1>{escape(content['name'])}</h1><p class=purpose>{escape(content['purpose'])}</p>",
        _protection(release, content),
        _tiles(content),
        _performance(content["evaluation"]),
        _groups(content["evaluation"]),
        _memory(content["evaluation"].get("membership_inference")),
        _privacy(content["privacy"]),
        _metrics(content["metrics"]),
        _sites(content["sites"]),
        _open(content["not_protected"]),
        _WORDS,
        _provenance(card, release),
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = (
        f'<!doctype html><html lang=en><head><meta charset=utf-8><meta http-equiv="Content-Security-Policy" '
        f'content="{policy}"><meta name=viewport content="width=device-width"><title>Model card: '
        f"{escape(content['name'])}</title><style>{_STYLE}</style></head><body><main>"
    )
    return (head + "\n".join(parts) + "</main></body></html>\n").encode()


def headline(content: Json) -> list[str]:
    """The card in a few sentences, for a terminal."""
    evaluation = content["evaluation"]
    told = [f"{content['name']}: {content['rounds']} rounds; judged inside by {_answered(content)} sites."]
    if "not_run" in evaluation:
        return [*told, f"No figures by row: the app offers none ({', '.join(evaluation['not_run'])})."]
    told.append(f"On held-out rows of all sites: {_auc_in_words(evaluation['overall'])}.")
    for group in evaluation["subgroups"]:
        gap = group["gaps"].get("auc")
        if gap:
            told.append(
                f"By {group['column']}: AUC differs by {gap['gap']:g}, lowest for {gap['lowest']}, highest for "
                f"{gap['highest']}."
            )
    for name, attack in evaluation.get("membership_inference", {}).items():
        told.append(f"Membership inference, {_words(name)}: {_attack_in_words(attack)}.")
    return told


def _answered(content: Json) -> int:
    return sum(site["evaluated"] == "yes" for site in content["sites"])


def _words(name: str) -> str:
    return name.replace("_", " ")


def _auc_in_words(cell: Json) -> str:
    if WITHHELD in cell:
        return f"withheld ({_WHY_WITHHELD})"
    low, high = cell["auc_95"]
    return f"AUC {cell['auc']:g} (95 % interval {low:g} to {high:g}; binning error at most {_bound(cell)})"


def _bound(cell: Json) -> str:
    return f"{cell['auc_binning_error_at_most']:g}"


def _attack_in_words(attack: Json) -> str:
    if "not_run" in attack:
        return f"not run ({', '.join(attack['not_run']) or 'the plan asks for none'})"
    if WITHHELD in attack:
        return f"withheld ({_WHY_WITHHELD})"
    return f"attack AUC {attack['auc']:g} ± {1.96 * attack['standard_error']:.3f} (0.5 is guessing)"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int = 1) -> str:
    """``rows`` hold HTML that is escaped already."""

    def cells(tag: str, row: Sequence[str]) -> str:
        kinds = (" class=n" if place >= numbers_from else "" for place in range(len(row)))
        return "".join(f"<{tag}{kind}>{value}</{tag}>" for kind, value in zip(kinds, row, strict=True))

    body = "".join(row if isinstance(row, str) else f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', headings)}</tr></thead><tbody>{body}</tbody></table>"


def _protection(release: VerifiedRelease, content: Json) -> str:
    levels = {release.aggregator.assurance.value} | {
        site["attestation"]["assurance"] for site in content["sites"] if "attestation" in site
    }
    if "none" in levels:
        return (
            "<div class=warn><b>NO HARDWARE PROTECTION.</b> At least one machine ran a software TEE: its operator "
            "could read everything on it. Not for real data.</div>"
        )
    said = ", ".join(sorted(escape(protection_in_words(level)) for level in levels))
    return f"<div class=ok>Aggregator and workers proved what they ran: {said}.</div>"


def _tiles(content: Json) -> str:
    evaluation = content["evaluation"]
    overall, gaps = evaluation.get("overall", {WITHHELD: True}), _largest_gap(evaluation)
    attacks = evaluation.get("membership_inference", {})
    told = [attack["auc"] for attack in attacks.values() if "auc" in attack]
    tiles = [
        (f"{overall['auc']:g}" if "auc" in overall else "–", "AUC on held-out rows of all sites (0.5 is guessing)"),
        (gaps[0], gaps[1]),
        (f"{max(told):g}" if told else "–", "AUC of the best attack that asks who was trained on (0.5 is guessing)"),
        (f"{_answered(content)} of {len(content['sites'])}", f"sites judged it, after {content['rounds']} rounds"),
    ]
    shown = "".join(f"<div class=tile><b>{escape(value)}</b><span>{escape(what)}</span></div>" for value, what in tiles)
    return f"<div class=tiles>{shown}</div>"


def _largest_gap(evaluation: Json) -> tuple[str, str]:
    found = [
        (group["gaps"]["auc"]["gap"], group["column"])
        for group in evaluation.get("subgroups", ())
        if "auc" in group["gaps"]
    ]
    if not found:
        return "–", "no two groups can be compared"
    gap, column = max(found)
    return f"{gap:g}", f"largest difference in AUC between groups (by {column})"


_FIGURES = (
    ("rows", "rows"),
    ("observed_rate", "observed"),
    ("mean_score", "predicted"),
    ("auc", "AUC"),
    ("auc_95", "95 %"),
    ("calibration_error", "calibration error"),
    ("sensitivity", "sensitivity"),
    ("specificity", "specificity"),
)


def _figures(cell: Json, digits: int) -> list[str]:
    at_threshold = cell["at_threshold"] if isinstance(cell["at_threshold"], dict) else {}
    values = {**cell, **at_threshold, "auc_95": "–".join(_shown(edge, digits) for edge in cell["auc_95"])}
    return [escape(_shown(values.get(key, WITHHELD), digits)) for key, _ in _FIGURES]


def _shown(value: Any, digits: int) -> str:
    """Counts with separators, rates to the plan's decimal places; anything else as it is. A whole rate is ``1``."""
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cells(cells: Iterable[Json], digits: int) -> str:
    rows: list[Any] = []
    for cell in cells:
        name = escape(cell["cell"])
        if WITHHELD in cell:
            rows.append(f"<tr><td>{name}</td><td class=w colspan={len(_FIGURES)}>withheld: {_WHY_WITHHELD}</td></tr>")
        else:
            rows.append([name, *_figures(cell, digits)])
    return _table(["", *(heading for _, heading in _FIGURES)], rows)


def _performance(evaluation: Json) -> str:
    terms = evaluation["terms"]
    label = terms["label"]
    question = (
        f"<p>The question: is <code>{escape(label['column'])}</code> at least {label['at_least']:g}? Judged inside "
        f"each site's enclave on rows that the app holds out. At the threshold {terms['threshold']:g} a row is "
        "predicted positive. Figures are of all sites together; counts are rounded "
        f"to multiples of {terms['count_base']}.</p>"
    )
    title = "<h2>How well it predicts</h2>"
    if "not_run" in evaluation:
        why = ", ".join(map(escape, evaluation["not_run"]))
        return f"{title}<p>Not judged row by row: the app offers no scores by row ({why}).</p>"
    overall = evaluation["overall"]
    digits = terms["digits"]
    parts = [title, question, _cells([overall], digits)]
    if WITHHELD not in overall:
        bound = _bound(overall)
        parts.append(f"<p>Scores are counted in {terms['bins']} bins: the exact AUC is within {bound} of this one.</p>")
        parts.append(_calibration(overall["calibration"], digits))
    if evaluation["by_site"]:
        parts.append("<h3>By site</h3>" + _cells(evaluation["by_site"], digits))
    return "".join(parts)


def _calibration(groups: Sequence[Json], digits: int) -> str:
    if not groups:
        return ""
    size, edge = 300, 40
    dots = "".join(
        f"<circle cx={edge + size * group['mean_score']:.1f} cy={10 + size * (1 - group['observed_rate']):.1f} r=5 "
        "fill='#2f5aa8'/>"
        for group in groups
    )
    path = " ".join(
        f"{edge + size * group['mean_score']:.1f},{10 + size * (1 - group['observed_rate']):.1f}" for group in groups
    )
    marks = "".join(
        f"<text x={edge + size * at} y={size + 28} font-size=12 text-anchor=middle>{at:g}</text>"
        f"<text x={edge - 8} y={14 + size * (1 - at)} font-size=12 text-anchor=end>{at:g}</text>"
        for at in (0.0, 0.5, 1.0)
    )
    picture = (
        f"<svg viewBox='0 0 {size + 60} {size + 56}' role=img aria-label='Calibration: predicted against observed'>"
        f"<rect x={edge} y=10 width={size} height={size} fill='none' stroke='#aab4c4'/>"
        f"<line x1={edge} y1={10 + size} x2={edge + size} y2=10 stroke='#aab4c4' stroke-dasharray='5 4'/>"
        f"<polyline points='{path}' fill='none' stroke='#2f5aa8'/>{dots}{marks}"
        f"<text x={edge + size / 2} y={size + 48} font-size=13 text-anchor=middle>predicted</text>"
        f"<text x=14 y={10 + size / 4} font-size=13 text-anchor=middle transform='rotate(-90 14 {10 + size / 4})'>"
        "observed</text></svg>"
    )
    rows = [
        [
            f"{group['from']:g} to {group['to']:g}",
            *(_shown(group[key], digits) for key in ("rows", "mean_score", "observed_rate")),
        ]
        for group in groups
    ]
    told = "<p>On the dashed line a predicted chance is the chance that was observed.</p>"
    return f"<h3>Calibration</h3>{told}{picture}" + _table(["score", "rows", "predicted", "observed"], rows)


def _groups(evaluation: Json) -> str:
    if not evaluation.get("subgroups"):
        return ""
    parts = ["<h2>Does it serve everybody alike?</h2>"]
    for group in evaluation["subgroups"]:
        parts.append(f"<h3>By {escape(group['column'])}</h3>{_cells(group['cells'], evaluation['terms']['digits'])}")
        rows = [
            [_words(name).replace("auc", "AUC"), f"{gap['gap']:g}", escape(gap["lowest"]), escape(gap["highest"])]
            for name, gap in group["gaps"].items()
        ]
        if rows:
            parts.append(_table(["largest difference in", "", "lowest", "highest"], rows))
    parts.append("<p>Small groups have wide intervals: a difference within them may be chance.</p>")
    return "".join(parts)


def _memory(attacks: Json | None) -> str:
    title = "<h2>Does it remember people?</h2>"
    if attacks is None:
        return f"{title}<p>The plan asks for no audit.</p>"
    rows = [[escape(_words(name)), escape(_attack_in_words(attack))] for name, attack in attacks.items()]
    told = (
        "<p>Inside each enclave two known attacks tried to tell rows that the model was trained on from rows that it "
        "was not. An AUC of 0.5 means that they guessed; well above it means that the model remembers.</p>"
    )
    return title + told + _table(["attack", "result"], rows, numbers_from=2)


def _privacy(privacy: Json) -> str:
    terms = privacy["terms"]
    rows = [[escape(_words(name)), escape(str(value))] for name, value in terms.items()]
    spent = privacy["spent"]
    amounts = {} if isinstance(spent, str) else spent["cumulative"]
    rows += [[f"spent: {escape(_words(name))}", escape(value)] for name, value in amounts.items()] or [
        ["spent", "none"]
    ]
    return "<h2>Privacy mechanism</h2>" + _table(["", ""], rows, numbers_from=2)


def _metrics(metrics: Json) -> str:
    rows = [[escape(name), f"{value:g}"] for name, value in metrics["told"].items()]
    rows += [[escape(name), f"withheld: {escape(rule)}"] for name, rule in metrics["withheld"].items()]
    return "<h2>The app's own metrics</h2>" + _table(["metric", "mean over sites"], rows) if rows else ""


def _sites(sites: Sequence[Json]) -> str:
    rows = []
    for site in sites:
        proof, data = site.get("attestation"), site.get("dataset_commitment", "")
        shown = "–" if proof is None else f"{proof['product']}, {protection_in_words(proof['assurance'])}"
        commitment = f"<code>{escape(data)}</code>" if data else "–"
        judged = "yes" if site["evaluated"] == "yes" else f"no ({site['evaluated']})"
        rows.append([escape(site["member"]), str(site["rounds"]), escape(judged), escape(shown), commitment])
    told = "<p>A commitment binds a site to its data without telling anything of them.</p>"
    headings = ["site", "rounds", "judged it", "proved", "commitment to its data"]
    return f"<h2>Sites</h2>{told}" + _table(headings, rows, numbers_from=9)


def _open(sentences: Sequence[str]) -> str:
    return "<h2>What is not protected</h2><ul>" + "".join(f"<li>{escape(one)}</li>" for one in sentences) + "</ul>"


def _provenance(card: VerifiedCard, release: VerifiedRelease) -> str:
    content = card.content
    digests = {
        "model": content["model_sha256"],
        "initial model": content["initial_sha256"],
        "app": content["app_sha256"],
        "plan": content["plan"],
        "charter": content["charter"],
        "this card": card.sha256.hex(),
        "aggregator's measurement": release.aggregator.measurement.hex(),
    }
    rows = [[name, f"<code>{escape(value)}</code>"] for name, value in digests.items()]
    told = (
        "<footer>Before this page was written, the card's signature, the release that names it, and the evidence of "
        "the aggregator that signed both were verified against the charter. A printed page proves nothing: "
        "<code>cloister model card</code> does.</footer>"
    )
    return "<h2>Where it comes from</h2>" + _table(["SHA-256 of", ""], rows, numbers_from=2) + told
