"""The main question, once for every cell: did it get slower?"""

import pytest

pytestmark = pytest.mark.serving


def test_no_slower_than_baseline(target, judge):
    """No primary metric of this cell is slower than its baseline by more than its tolerance."""
    judge(target)
