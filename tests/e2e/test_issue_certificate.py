# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The main job: a certificate over port 443 while the web server keeps it and no visitor notices."""

import pytest

from lab import Lab
from load import issue
from servers import Pebble

pytestmark = pytest.mark.needs_steer


@pytest.fixture(scope="module", params=["v4 and v6", "v6 only"])
def lab(request):
    lab = Lab(v4=request.param != "v6 only")
    lab.keep_dir = request.config.getoption("keep")
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def pebble(lab):
    return Pebble(lab)


def test_issue(lab, nginx, pebble, steer):
    issue(lab, nginx, pebble, steer, "www.example.test", "api.example.test")
