"""A browser for the tests of pages."""

import chromium
import pytest


@pytest.fixture(scope="session")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def browser(downloads):
    if chromium.obstacle():
        pytest.skip(chromium.obstacle())
    driver = chromium.start(downloads)
    yield driver
    driver.quit()
