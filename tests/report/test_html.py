import dataclasses
import re

import numpy as np
import pandas as pd

from slidemill.report.choice import choose_slides
from slidemill.report.figures import attention_overlay, histogram, loss_curves
from slidemill.report.html import ReportPage, SlideSection, render
from slidemill.report.rows import Estimate, ResultRow, ResultTable, remarks_of
from slidemill.report.tasks import Pair, TaskSection

EVIL = "<script>alert(1)</script>"
PIXELS = np.full((60, 80, 3), 230, np.uint8)
JPEG = attention_overlay(
    PIXELS, np.array([[0.0, 0, 40, 30], [40, 30, 80, 60]]), np.array([0.9, 0.1])
)


def page(**changes):
    estimates = [Estimate(0.8, 0.7, 0.9, True), Estimate(None, None, None), None]
    row = ResultRow("abmil", EVIL, estimates, "saw")
    table = ResultTable(EVIL, ["AUROC", "F1", "R"], [row], said=EVIL)
    full = ReportPage(
        cohort=EVIL,
        facts=[("slides", "3")],
        protocol=["sentence"],
        tasks=[
            TaskSection(
                "grade",
                EVIL,
                True,
                [table, dataclasses.replace(table, open=False)],
                "AUROC",
                [Pair(EVIL, "b", estimates[0], "0.01", "0.02")],
                3,
                [("<svg></svg>", EVIL)],
                (EVIL,),
            )
        ],
        slides=[SlideSection("best", EVIL, EVIL, EVIL, 0.5, 9, JPEG, JPEG)],
        attention_of="abmil",
        cohort_rows=[("site", EVIL)],
        tiles_svg=histogram(np.arange(9), "tiles"),
        failures=[
            {
                "slide_id": f"bad{i}",
                "failed_stage": "cohort",
                "error_code": "unreadable",
                "message": EVIL,
            }
            for i in range(3)
        ],
        remarks=[{"slide_id": EVIL, "stage": "tissue", "remark": EVIL}],
        pretraining=["a run"],
        loss_svg=loss_curves({"dino": [np.array([2.0, 1.0])]}),
        stages=[{"stage": "tiles", "folder": "f", "digest": "d", "parameters": EVIL}],
    )
    return render(dataclasses.replace(full, **changes))


def test_everything_from_outside_is_escaped():
    text = page()
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 12


def test_nothing_is_loaded_from_anywhere():
    text = page()
    for found in re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", text):
        assert found.startswith(("data:", "#")), found
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_every_failure_is_listed():
    text = page()
    assert all(f"bad{i}" in text for i in range(3))
    assert "Nothing failed." in page(failures=[])


def test_a_run_without_anything_still_has_a_page():
    text = page(tasks=[], slides=[], attention_of="", failures=[], pretraining=[], loss_svg="",
                tiles_svg="", protocol=[])  # fmt: skip
    assert "No task was evaluated." in text
    assert "No slide has a result." in text


def test_the_same_page_has_the_same_bytes():
    assert page() == page()


def rows(labels, probabilities):
    ids = [f"s{i}" for i in range(len(labels))]
    return pd.DataFrame(
        {
            "target": "1",
            "sample": "all",
            "repeat": 0,
            "slide_id": ids,
            "label": labels,
            "score": probabilities,
        }
    )


def test_the_three_slides_follow_the_rule():
    found = choose_slides(["s0", "s1", "s2", "s3"], rows([1, 1, 0, 0], [0.9, 0.2, 0.1, 0.6]))
    assert [(c.title, c.slide_id) for c in found] == [
        ("highest of the positive", "s0"),
        ("lowest of the negative", "s2"),
        ("worst mistake", "s1"),
    ]
    sure = choose_slides(["s0", "s1", "s2", "s3"], rows([1, 1, 0, 0], [0.9, 0.8, 0.1, 0.3]))
    assert (sure[2].title, sure[2].slide_id) == ("least certain", "s3")
    assert [c.slide_id for c in choose_slides(["a", "b", "c", "d"], None)] == ["a", "b", "c"]


def test_attention_is_drawn_where_the_tiles_are():
    from io import BytesIO

    from PIL import Image

    image = np.asarray(Image.open(BytesIO(JPEG))).astype(int)
    assert image[15, 20].sum() > image[45, 60].sum() + 100


def test_remarks_are_listed_where_there_are_any():
    tables = {
        "cohort": pd.DataFrame({"slide_id": ["b", "a"], "remark": ["two scenes", None]}),
        "tissue": pd.DataFrame({"slide_id": ["a", "b"], "remark": ["40% pen", None]}),
        "old": pd.DataFrame({"slide_id": ["a"]}),
    }
    remarks = remarks_of(tables)
    assert [(r["slide_id"], r["stage"]) for r in remarks] == [("a", "tissue"), ("b", "cohort")]
    text = page(remarks=remarks)
    assert "To look at" in text
    assert "40% pen" in text
    assert "To look at" not in page(remarks=[])
