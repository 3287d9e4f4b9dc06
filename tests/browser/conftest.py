"""A browser for the tests of pages."""

import chromium
import pytest


@pytest.fixture(scope="session")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def started(downloads):
    if chromium.obstacle():
        pytest.skip(chromium.obstacle())
    driver = chromium.start(downloads)
    yield driver
    driver.quit()


@pytest.fixture
def browser(started):
    """The browser that all tests share, without the page, log, size, theme and paper of the test before."""
    started.get("about:blank")
    started.get_log("browser")
    started.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    started.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    return started
