"""Scripts in cells as pages."""

import pytest

from docs.generators.percent_scripts import to_markdown, without_links_to_code

SCRIPT = """# %% [markdown]
# # A title
#
# Text with `code`.

# %%
import numpy as np

x = np.ones(3)  # a comment stays

# %%
# %% [markdown]
# ```bash
# echo
# ```
"""


def test_cells_become_text_and_blocks_of_code():
    assert to_markdown(SCRIPT) == (
        "# A title\n\nText with `code`.\n\n"
        "```python\nimport numpy as np\n\nx = np.ones(3)  # a comment stays\n```\n\n"
        "```bash\necho\n```\n"
    )


def test_code_before_the_first_cell_is_an_error():
    with pytest.raises(ValueError, match=r"begins with a cell .* 'import x"):
        to_markdown("import x\n" + SCRIPT)


def test_links_to_code_become_plain_text_and_others_stay():
    text = "[`a::b`](../../dino_jax/a.py), [c](../../tests/c.py) [d](../d.md) [e](2_e.py)"
    assert without_links_to_code(text) == "`a::b`, c [d](../d.md) [e](2_e.py)"
