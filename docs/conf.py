"""Sphinx's configuration: Markdown pages by MyST, the reference from registries and docstrings.

python -m sphinx -W docs build/docs     (make docs)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

import reference

import framework

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "framework"
release = version = framework.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["build"]
myst_heading_anchors = 3
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
suppress_warnings = ["myst.xref_missing"]  # links out of docs/ into the source tree, right on a code host
default_role = "code"
html_theme = "furo"
html_title = f"framework {release}"
html_show_copyright = False
html_show_sphinx = False


def setup(app: Sphinx) -> None:
    """Write the reference's pages before anything is read."""
    app.connect("builder-inited", lambda application: reference.write(Path(application.srcdir) / "reference"))
