"""A real headless Chromium."""

import shutil
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1400,900",
    "--disable-dev-shm-usage",  # a container's is too small
)  # fmt: skip


def obstacle() -> str:
    """Why there is no browser to test in; empty if there is one."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{', '.join(missing)} missing: apt-get install chromium chromium-driver" if missing else ""


def start(downloads: Path) -> Any:
    """Start Chromium, driven by Selenium; what a page saves goes to `downloads`."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(120)
    return driver
