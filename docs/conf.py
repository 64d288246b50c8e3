"""Sphinx, as `python -m docs.tools.build` calls it."""

from __future__ import annotations

import json
from pathlib import Path

from docutils import nodes

project = "stpath"
author = "the stpath project"
copyright = "the stpath project; text and figures CC BY 4.0, code BSD-3-Clause"
language = "en"

extensions = ["myst_nb", "sphinx_copybutton"]
exclude_patterns = ["downloads"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the committed outputs are what is shown
nb_merge_streams = True
nb_ipywidgets_js = {}  # the notebooks hold no widgets, and nothing is fetched
suppress_warnings = ["mystnb.unknown_mime_type"]  # text beside a picture
python_use_unqualified_type_names = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_selector = "div.highlight:not(.no-copy) pre"

smartquotes = False
add_module_names = False
toc_object_entries = False
html_theme = "sphinx_book_theme"
html_title = "stpath"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = ["book.js"]
html_copy_source = False
html_show_sourcelink = False
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}
html_theme_options = {
    "navbar_persistent": [],  # search stands in the sidebar and in the head of a narrow page
    "use_download_button": False,  # each notebook names its own downloads
    "use_fullscreen_button": False,
    "search_bar_text": "Search",
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


def describe_figures(app, doctree) -> None:
    """Give every picture of a notebook its text, found by the picture's hash."""
    file = Path(app.srcdir) / "alt.json"
    texts = json.loads(file.read_text()) if file.is_file() else {}
    for image in doctree.findall(nodes.image):
        image["alt"] = image.get("alt") or texts.get(Path(image["uri"]).stem, "")


def setup(app) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("doctree-read", describe_figures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
