"""Every finding of the catalogue, asked again on this machine."""

import pytest

pytestmark = pytest.mark.claims


def test_claim(claim, examine_claim):
    """The claim holds here; that it does not is information, and a failure only under --strict-claims."""
    examine_claim(claim)
