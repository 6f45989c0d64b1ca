"""The report of a run of very many images: a page that a browser still opens."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from horefine import report
from horefine.outcome import Outcome, write_summary

COUNT = 10_000
HOSTILE = "</script><b>"


def outcomes() -> list[Outcome]:
    """As of a run: errors, notes, a name that is no HTML; every fourth failed."""
    found = []
    for number in range(COUNT):
        name = f"img_{number:05d}" if number else HOSTILE
        row = {
            "name": name, "status": "improved", "reason": "the objective fell from 12.3 to 1.2, 9.8% of the start's",
            "seconds": 1 + number / 7, "hand_error_start_mm": 20.123456,
            "hand_error_mm": None if number % 5 else 4.56789,
            "object": "mug", "side": "right", "camera": "a.json", "notes": "side not given: a right hand is assumed",
        }  # fmt: skip
        failed = number % 4 == 3
        found.append(Outcome(name, "failed", "input", f"{name}: no") if failed else Outcome(name, "improved", row=row))
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("many")
    write_summary(out, outcomes(), {})
    return report.write_report(out, embedded=0).read_text()


def told(page: str) -> dict:
    return json.loads(re.search(r'id="rows">(.*?)</script>', page, re.S).group(1))  # type: ignore[union-attr]


def test_a_page_of_ten_thousand_images_stays_small(page: str) -> None:
    assert len(page) < 4e6
    assert page.count("<tr>") == 1 + report.ROWS  # the head and one page of the table
    assert page.count("<dt>") == report.FAILURES and f"<p>{COUNT // 4 - report.FAILURES} more: summary.json</p>" in page


def test_its_numbers_are_all_there(page: str) -> None:
    table = told(page)
    assert len(table["rows"]) == COUNT and table["size"] == report.ROWS
    assert len(table["columns"]) == len(table["text"]) == len(table["rows"][0]) - 1
    row = dict(zip(["failed", *table["columns"]], table["rows"][8], strict=True))
    assert row["name"] == "img_00008" and row["seconds"] == 2.143 and row["hand_error_mm"] is None and not row["failed"]
    assert table["rows"][3][0] == 1 and table["rows"][0][1] == HOSTILE
    assert page.count("</script>") == page.count("<script")  # a name ends no script


def test_few_images_need_no_pages(tmp_path: Path) -> None:
    write_summary(tmp_path, outcomes()[: report.ROWS], {})
    page = report.write_report(tmp_path, embedded=0).read_text()
    assert 'id="rows"' not in page and 'class="pager"' not in page and page.count("<tr>") == 1 + report.ROWS


STUB = """
const fs = require('fs'), page = fs.readFileSync(process.argv[2], 'utf8');
const words = () => new Proxy({}, { set: (all, key, value) => { all[key] = '' + value; return true; } });
const node = name => { const own = { name, kids: [], dataset: words(), className: '', textContent: '',
  append(...more) { own.kids.push(...more); }, replaceChildren(...more) { own.kids = more; },
  querySelectorAll: () => [], querySelector: () => null, closest: () => row }; return own; };
const body = node('tbody'), row = node('tr'), rows = /id="rows">([^]*?)<\\/script>/.exec(page)[1];
const columns = JSON.parse(rows).columns, tops = columns.map(() => node('th'));
const back = node('button'), on = node('button'), find = node('input');
back.dataset.by = '-1'; on.dataset.by = '1'; row.querySelectorAll = () => tops;
const said = node('span'), bar = { querySelectorAll: () => [back, on],
  querySelector: what => what === 'span' ? said : find };
global.document = { createElement: node, querySelector: what => what === 'table' ? { tBodies: [body] } : bar,
  querySelectorAll: what => what === 'th' ? tops : [],
  getElementById: id => ({ textContent: rows }) };
global.IntersectionObserver = class { observe() {} };
eval(/<script>([^]*)<\\/script><\\/body>/.exec(page)[1]);
const seen = () => [said.textContent, body.kids.length, body.kids[0].kids[0].kids[0]?.textContent ?? ''];
const out = [seen()]; on.onclick(); out.push(seen());
tops[columns.indexOf('seconds')].onclick(); tops[columns.indexOf('seconds')].onclick(); out.push(seen());
find.value = 'IMG_0002'; find.oninput(); out.push(seen());
console.log(JSON.stringify(out));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node runs the page's script")
def test_pages_are_turned_sorted_and_searched(page: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page)
    (tmp_path / "stub.js").write_text(STUB)
    words = ["node", str(tmp_path / "stub.js"), str(tmp_path / "page.html")]
    first, second, slowest, found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert first == ["1 to 500 of 10000", 500, HOSTILE]
    assert second == ["501 to 1000 of 10000", 500, "img_00500"]
    assert slowest[:2] == ["1 to 500 of 10000", 500] and slowest[2].startswith("img_0999")
    assert found[0] == "1 to 10 of 10" and found[2].startswith("img_0002")
