from types import SimpleNamespace

import pytest

from slidemill.errors import ArtifactError
from slidemill.evaluate.stage import check_summary


def test_a_summary_of_other_features_is_refused() -> None:
    summary = SimpleNamespace(slide_ids=("s1", "s2"), item_digests=("a", "b"))
    same = SimpleNamespace(slide_ids=["s1", "s2"], item_digests=["a", "b"])
    check_summary(summary, same, "summary-uni")  # type: ignore[arg-type]
    for ids, digests in ((["s1"], ["a"]), (["s1", "s2"], ["a", "c"]), (["s2", "s1"], ["a", "b"])):
        other = SimpleNamespace(slide_ids=ids, item_digests=digests)
        with pytest.raises(ArtifactError, match="evaluate --run summary-uni"):
            check_summary(summary, other, "summary-uni")  # type: ignore[arg-type]
