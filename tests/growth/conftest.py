"""Layouts that tests work out are kept for their run, and not in the cache of whoever runs them."""

import os
import tempfile

_CACHE = tempfile.TemporaryDirectory(prefix="hf-bootstrap-layouts-")
os.environ["HF_BOOTSTRAP_CACHE"] = _CACHE.name
