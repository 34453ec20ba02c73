"""What the pages and the HTTP routes of one server process share."""

from __future__ import annotations

import os
from functools import cache

from percept.store import Store, open_store


@cache
def store() -> Store:
    """The database named by ``PERCEPT_DB``, opened once."""
    return open_store(os.environ["PERCEPT_DB"])
