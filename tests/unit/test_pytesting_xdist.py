"""What a worker of xdist takes as a whole."""

import pytest

from perfgate.pytesting.xdist import scope_of


@pytest.mark.parametrize(
    ("nodeid", "scope"),
    [
        ("t.py::test_a[gb10/qwen/study-2.5a/chat]", "gb10/qwen/study-2.5a"),
        ("t.py::test_b[gb10/qwen/study-2.5a]", "gb10/qwen/study-2.5a"),
        ("t.py::test_c", "t.py::test_c"),
        ("t.py::test_c[a/b]", "t.py::test_c[a/b]"),
        ("t.py::test_c[1]@mine", "mine"),
        ("t.py::test_c[me@home]", "t.py::test_c[me@home]"),
    ],
)
def test_tests_of_a_server_are_one_scope(nodeid, scope):
    """Cells and server tests of one server share a scope, marked groups keep theirs, every other test stands alone."""
    assert scope_of(nodeid) == scope
