"""Shapes are checked while tests run: every annotated function of voder, by jaxtyping and beartype."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

install_import_hook("voder", "typecheck.check")
