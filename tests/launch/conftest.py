"""The fake cloud that the tests of the launch scripts share."""

import shutil

import pytest

from tests.launch.fake_cloud import Cloud


@pytest.fixture
def cloud(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("the scripts send a git checkout, and git is not installed")
    return Cloud(tmp_path / "cloud")
