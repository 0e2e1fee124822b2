"""The site: python -m sphinx -W --keep-going -b html docs build/site (extra `docs`)."""

import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

import dino_jax  # noqa: E402
from docs.generators import links, mathml, pages  # noqa: E402

project, author = "dino_jax", "The dino_jax authors"
project_copyright = "The dino_jax authors, Apache-2.0"
version = release = dino_jax.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docs.generators.percent_scripts",  # docs/notebooks
]
exclude_patterns = ["conf.py", "generators", "static"]
myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_dmath_double_inline = True
myst_fence_as_directive = ["math"]  # as GitHub writes formulas
myst_heading_anchors = 4
suppress_warnings = ["toc.empty_glob"]

smartquotes = False  # they would make one dash of the two of an option
default_role = "code"  # single backticks of docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_rtype, napoleon_use_ivar = False, True
add_module_names = False

html_theme = "furo"
html_title = f"dino_jax {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_math_renderer = "mathml"
pygments_style = "a11y-high-contrast-light"  # contrast of 7:1
pygments_dark_style = "a11y-high-contrast-dark"
linkcheck_timeout, linkcheck_retries = 20, 2


def setup(app: Any) -> None:
    """Sphinx calls this."""
    pages.write_pages(DOCS / "generated")
    app.connect("source-read", links.rewrite_source)
    app.add_html_math_renderer(
        "mathml", inline_renderers=(mathml.inline, None), block_renderers=(mathml.block, None)
    )
