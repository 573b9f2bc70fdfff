"""The report is one file that needs nothing else and escapes what it shows."""

import re

from vistill.analysis.report import Curve, Section, Table, write_report


def test_everything_is_inlined_and_escaped(tmp_path):
    path = tmp_path / "report.html"
    section = Section(
        "Numbers <1>",
        text="a & b",
        table=Table(["model", "top-1"], [["x", "50 %"], ["y", "60 %"]], best=1),
        curves=[Curve("loss", "images", {"a": ([0, 1, 2], [3.0, 2.0, 1.0]), "b": ([0], [1])})],
        pictures=[("cell", b"\xff\xd8\xff fake jpeg")],
    )
    write_report(path, "Title", [section])
    page = path.read_text()
    assert "Numbers &lt;1&gt;" in page
    assert "a &amp; b" in page
    assert "<tr class=best><td>y</td>" in page
    assert page.count("<svg") == 1
    assert 'src="data:image/jpeg;base64,' in page
    outside = [u for u in re.findall(r'(?:src|href)="([^"]+)"', page) if u.startswith("http")]
    assert not outside
