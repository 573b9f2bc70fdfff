"""Tests that need fast int8, which not every CPU has."""

import pytest

from vistill.models.int8 import lacks_int8

LACKS_INT8 = lacks_int8()
needs_int8 = pytest.mark.skipif(bool(LACKS_INT8), reason=LACKS_INT8)
