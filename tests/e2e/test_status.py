# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""What status says: to people, to programs, to Prometheus, and again and again on a terminal."""

import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from documented import ROOT
from lab import kill_pid, longer, wait_until
from servers import SMALL, get, openssl_responder, tls_client
from steer import BINARY, plane_options
from terminal import Terminal

pytestmark = pytest.mark.needs_steer

NAME = "www.example.test"
DASHBOARD = ROOT / "deploy" / "grafana" / "acme-steer.json"
PROMETHEUS = ROOT / "deploy" / "prometheus"


@pytest.fixture(scope="module")
def responder(lab):
    process = openssl_responder(lab.edge, 31443, [NAME], lab.dir)
    yield process
    process.kill()


@pytest.fixture
def serve(lab, steer):
    process = steer.serve()
    yield steer
    steer.run("close", "--all", "--kill")
    assert process.stop() == 0, process.stderr()


def all_over(steer):
    return sum(steer.ask()["connections"].values()) == 0


def traffic(lab, steer):
    """Two challenges and three visitors."""
    for _ in range(2):
        assert tls_client(lab.ca, lab.edge.v4, NAME, "acme-tls/1")["subject"] == "CN = responder-31443"
    for address in (lab.edge.v4, lab.edge.v6, lab.edge.v4):
        assert get(lab, address) == SMALL
    wait_until(lambda: all_over(steer), what="all is over")


# The document, and what people see of it.


def test_window(lab, nginx, responder, serve, plane):
    serve.open("--domain", NAME)
    traffic(lab, serve)
    [window] = serve.status()["windows"]
    relayed = plane == "relay"
    assert window["total"] == {"accepted": 5, "handed_off": 0 if relayed else 5, "relayed": 5 if relayed else 0,
                               "timed_out": 0, "challenges": 2}, window
    assert window["names"] == {NAME: 2} and window["other_names"] == 0, window
    assert window["plane_used"] == plane, window
    assert window["plane_reason"] == ("--plane=relay asks for it" if relayed else None), window
    deadline = datetime.datetime.fromisoformat(window["deadline"].replace("Z", "+00:00")).timestamp()
    assert abs(deadline - time.time() - window["remaining_s"]) < longer(3), window
    out = serve.ok("status").out
    assert f"challenges served: {NAME} 2\n" in out and re.search(r"closes in: \S+, at \d\d:\d\d:\d\d\n", out), out
    used = "relayed: --plane=relay asks for it" if relayed else "handed off"
    assert f"plane: {plane}, steered connections are {used}\n" in out


def test_errors(lab, nginx, steer):
    """What went wrong last, newest first, for those who have no log at hand."""
    process = lab.edge.start("serve", [BINARY, "serve", "--arm", "127.0.0.1:31777", "--port", "8444",
                                       *plane_options(steer.plane)])
    wait_until(lambda: steer.status()["pid"], what="it answers")
    assert steer.ask()["errors"] == []
    listener = openssl_responder(lab.edge, 31777, [NAME], lab.dir)
    wait_until(lambda: steer.ask()["errors"], what="nobody listens on the port that is to be steered")
    document = steer.ask()
    listener.kill()
    [error] = document["errors"]
    assert error["level"] == "warning" and "nothing listens on port 8444" in error["text"], error
    assert error["age_s"] < longer(10) and document["log"] == {"errors": 0, "warnings": 1}, document
    with watch(lab) as terminal:
        rows = terminal.shows("last errors and warnings")
        assert [row for row in rows if re.match(r"\S+ ago: .*nothing listens on port 8444", row)], rows
    out = steer.run("status").out
    assert re.search(r"last errors and warnings:\n  \S+ ago: .*nothing listens on port 8444", out), out
    assert process.stop() == 0


# Metrics.


def metrics(steer, tmp_path):
    """What --prometheus prints, after promtool has read it: (name, labels) -> value."""
    out = steer.ok("status", "--prometheus").out
    path = tmp_path / "metrics"
    path.write_text(out)
    with open(path, encoding="ascii") as file:
        checked = subprocess.run(["promtool", "check", "metrics"], stdin=file, capture_output=True, text=True,
                                 check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", ""), (checked, out)
    found = {}
    for line in out.splitlines():
        if line.startswith("#"):
            continue
        name, labels, value = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line).groups()
        assert (name, labels) not in found, line
        found[name, labels or ""] = float(value)
    return found


def test_metrics_of_nobody(lab, steer, tmp_path):
    found = metrics(steer, tmp_path)
    assert found["acme_steer_up", ""] == 0 and found["acme_steer_windows", ""] == 0, found


def test_metrics(lab, nginx, responder, serve, plane, tmp_path):
    idle = metrics(serve, tmp_path)
    assert idle["acme_steer_up", ""] == 1 and idle["acme_steer_windows", ""] == 0, idle
    serve.open("--name", "blog.example-1")
    traffic(lab, serve)
    before = time.time()
    found = metrics(serve, tmp_path)
    uptime = serve.ask()["uptime_s"]
    way = "relayed" if plane == "relay" else "handed_off"
    assert found[f"acme_steer_{way}_connections_total", 'target="responder"'] == 2, found
    assert found[f"acme_steer_{way}_connections_total", 'target="web_server"'] == 3, found
    assert found["acme_steer_accepted_total", ""] == 5, found
    window = 'window="blog.example-1"'
    assert found["acme_steer_window_acme_connections_total", window] == 2, found
    assert 0 < found["acme_steer_window_remaining_seconds", window] <= 600, found
    assert abs(found["acme_steer_start_time_seconds", ""] + uptime - before) < longer(5), found
    assert found["acme_steer_plane_available", 'plane="relay"'] == 1, found


def test_every_counter_is_a_metric(lab, nginx, responder, serve, plane, tmp_path):
    """The document has a counter more than --prometheus? Then somebody forgot it."""
    serve.open()
    traffic(lab, serve)
    serve.close()
    found = metrics(serve, tmp_path)
    document = serve.ask()
    names = " ".join(name for name, _labels in found)
    grouped = {"handed_off_web": 'target="web_server"', "handed_off_responder": 'target="responder"',
               "relayed_web": 'target="web_server"', "relayed_responder": 'target="responder"',
               "over_limit": 'reason="limit"', "over_share": 'reason="share"', "no_descriptor": 'reason="descriptors"',
               "passed_lease_over": 'reason="lease_over"', "passed_overload": 'reason="overload"',
               "passed_cookies": 'reason="syn_cookies"',
               "passed_own": 'reason="own"', "passed_no_sniffer": 'reason="no_sniffer"',
               "passed_assign_error": 'reason="assign_error"'}
    for counter, value in document["counters"].items():
        if counter in grouped:
            families = {"handed": "handed_off_connections_total", "relayed": "relayed_connections_total",
                        "passed": "passed_by_connections_total"}
            family = families.get(counter.split("_")[0], "not_waited_for_connections_total")
            assert found[f"acme_steer_{family}", grouped[counter]] == value, counter
            continue
        [name] = {name for name in (f"acme_steer_{counter}_total", f"acme_steer_guard_{counter}_total")
                  if name in names.split()}
        # What is counted in the kernel may go on while all that is ours is over.
        assert found[name, ""] <= value, counter
    for counter, value in document["responder"]["counters"].items():
        assert found["acme_steer_responder_handshakes_total", f'result="{counter}"'] == value, counter
    for state in document["connections"]:
        assert ("acme_steer_connections", f'state="{state}"') in found, state


def exported(lab, nginx, serve, tmp_path):
    """The names of all metrics there are, those of windows, relays and armed addresses included."""
    serve.ok("open", "--plane", "relay", "--client-ip", "none")
    assert get(lab) == SMALL
    wait_until(lambda: serve.ask()["relay_reasons"], what="a reason to relay")
    names = {name for name, _labels in metrics(serve, tmp_path)}
    assert {"acme_steer_window_open_seconds", "acme_steer_relay_reasons_total"} <= names
    return names


def check_rules(rules, tmp_path):
    """Does promtool read them as PromQL?"""
    path = tmp_path / "rules.yml"
    path.write_text(rules)
    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "SUCCESS" in done.stdout, (done, rules)


def used(expression):
    return set(re.findall(r"\bacme_steer_\w+", expression))


def dashboard():
    return json.loads(DASHBOARD.read_text())


def expressions():
    found = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    return found + [variable["definition"] for variable in dashboard()["templating"]["list"]
                    if variable["type"] == "query"]


def test_dashboard_asks_for_what_there_is(lab, nginx, serve, tmp_path):
    names = exported(lab, nginx, serve, tmp_path)
    for expression in expressions():
        assert used(expression) and used(expression) <= names, (expression, used(expression) - names)


def test_dashboard_is_one():
    """What Grafana's importer wants: a model with panels that have their place, and queries that can be read."""
    model = dashboard()
    assert model["title"] and model["uid"] and model["schemaVersion"] >= 36
    assert "id" not in model, "an import must get a new one"
    ids = [panel["id"] for panel in model["panels"]]
    assert len(set(ids)) == len(ids) > 8
    cells = set()
    for panel in model["panels"]:
        assert panel["type"] in ("timeseries", "stat", "table") and panel["title"], panel
        place = panel["gridPos"]
        assert 0 <= place["x"] and place["x"] + place["w"] <= 24, place
        taken = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}
        assert not taken & cells, f"{panel['title']} lies on another panel"
        cells |= taken
        refs = [target["refId"] for target in panel["targets"]]
        assert refs and len(set(refs)) == len(refs), panel
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, target
    # Variables that queries use are those that there are.
    variables = {variable["name"] for variable in model["templating"]["list"]}
    text = DASHBOARD.read_text()
    assert set(re.findall(r"\$\{?([a-z]\w*)", text)) <= variables


def test_dashboard_is_promql(tmp_path):
    rules = {"groups": [{"name": "panels", "rules": [
        {"record": f"panel:{number}", "expr": re.sub(r"\$__(rate_interval|range)", "5m", target["expr"])}
        for number, target in enumerate(t for panel in dashboard()["panels"] for t in panel["targets"])]}]}
    check_rules(json.dumps(rules), tmp_path)


def test_alerts(lab, nginx, serve, tmp_path):
    """Those that the README proposes."""
    rules = re.search(r"```yaml\n(.*?)```", (PROMETHEUS / "README.md").read_text(), re.S)[1]
    check_rules(rules, tmp_path)
    assert used(rules) <= exported(lab, nginx, serve, tmp_path), used(rules)


def test_textfile_unit(lab, nginx, serve, tmp_path):
    """The line of the unit, as systemd would run it, writes a file that promtool reads, whole or not at all."""
    unit = (PROMETHEUS / "acme-steer-metrics.service").read_text()
    line = re.search(r"^ExecStart=/bin/sh -ec '(.*)'$", unit, re.M)[1].replace("$$", "$")
    env = {"TEXTFILES": str(tmp_path), "PATH": f"{BINARY.parent}:{os.environ['PATH']}"}
    for _ in range(2):
        lab.edge.run("/bin/sh", "-ec", line, env=env)
        assert [path.name for path in tmp_path.iterdir()] == ["acme-steer.prom"]
    with open(tmp_path / "acme-steer.prom", encoding="ascii") as file:
        subprocess.run(["promtool", "check", "metrics"], stdin=file, check=True)
    # acme-steer fails (no such namespace): the last file stays as it was, and the unit fails.
    old = (tmp_path / "acme-steer.prom").read_text()
    failing = line.replace("--prometheus", "--prometheus --netns=/nowhere")
    done = subprocess.run(["/bin/sh", "-ec", failing], env=env, capture_output=True, check=False)
    assert done.returncode == 1 and (tmp_path / "acme-steer.prom").read_text() == old


# Again and again.


def watch(lab, *options, columns=80, rows=24):
    return Terminal(lab.edge, [BINARY, "status", "--watch=0.2", *options], columns, rows)


def total(rows, label):
    """(total, per second) of a line of the table; None where there is none."""
    for row in rows:
        found = re.fullmatch(rf"{label} +(\d+) +(\S+)", row)
        if found:
            return int(found[1]), found[2]
    return None


def test_watch(lab, nginx, responder, serve, plane):
    with watch(lab) as terminal:
        rows = terminal.shows("no window is open")
        assert rows[0].startswith("acme-steer ") and " idle " in rows[0], rows
        serve.open("--name", "blog")
        rows = terminal.shows("blog")
        assert all(len(row) <= 80 for row in rows)
        [line] = [row for row in rows if row.startswith("blog")]
        assert re.fullmatch(rf"blog +443 +\S+ +{plane} +0 +0 +0", line), line
        traffic(lab, serve)
        wait_until(lambda: total(terminal.rows(), "steered") and total(terminal.rows(), "steered")[0] >= 5,
                   what="the total goes up")
        assert total(terminal.rows(), "challenges served")[0] == 2, terminal.rows()
        assert f"  {NAME} 2" in terminal.rows(), terminal.rows()
        # A rate while there was traffic since the last look, and none a while later.
        wait_until(lambda: total(terminal.rows(), "steered")[1] == "0.0", what="a quiet second")
        serve.close("--name", "blog")
        terminal.shows("no window is open")
        terminal.type(b"\x03")
        assert terminal.ended() == 0 and terminal.restored()


def test_watch_rate(lab, nginx, serve):
    """A rate is what has come since the last look, by its time."""
    serve.open()
    with Terminal(lab.edge, [BINARY, "status", "--watch=2"]) as terminal:
        terminal.shows("accepted")
        for _ in range(10):
            assert get(lab) == SMALL
        wait_until(lambda: total(terminal.rows(), "steered")[0] == 10, what="they are counted")
        # All of them came between two looks that are 2 s apart, or a little more on a busy machine.
        rate = float(total(terminal.rows(), "steered")[1])
        assert 0 < rate <= 5.0, terminal.rows()
        terminal.type(b"q")
        assert terminal.ended() == 0 and terminal.restored()


def test_watch_resize(lab, nginx, serve):
    serve.open()
    with watch(lab) as terminal:
        terminal.shows("lost")
        terminal.resize(50, 8)
        rows = terminal.shows("... more")
        # Nothing has scrolled: the first line is the first one.
        assert rows[0].startswith("acme-steer ") and rows[-1].startswith("... more"), rows
        terminal.resize(132, 50)
        rows = terminal.shows("lost")
        assert rows[0].startswith("acme-steer ") and not [row for row in rows if "... more" in row], rows
        assert [row for row in rows if row.startswith("now: ")], rows
        terminal.type(b"q")
        assert terminal.ended() == 0 and terminal.restored()


@pytest.mark.parametrize("sig,code", [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, -signal.SIGHUP),
                                      (signal.SIGINT, 0)], ids=lambda value: None)
def test_watch_signals(lab, nginx, serve, sig, code):
    with watch(lab) as terminal:
        terminal.shows("no window is open")
        assert not terminal.restored(), "it has the terminal"
        terminal.process.send_signal(sig)
        assert terminal.ended() == code and terminal.restored()


def test_watch_suspended(lab, nginx, serve):
    """Ctrl-Z gives the terminal back, fg takes it again."""
    def state():
        with open(f"/proc/{terminal.process.pid}/stat", encoding="ascii") as f:
            return f.read().rsplit(") ", 1)[1][0]

    with watch(lab) as terminal:
        terminal.shows("no window is open")
        terminal.process.send_signal(signal.SIGTSTP)
        wait_until(lambda: state() == "T", what="it is stopped")
        terminal.rows()
        assert terminal.restored()
        terminal.screen.reset()
        terminal.process.send_signal(signal.SIGCONT)
        terminal.shows("no window is open")
        assert not terminal.restored()
        terminal.type(b"q")
        assert terminal.ended() == 0 and terminal.restored()


def test_watch_restart(lab, nginx, steer):
    """The process goes, another comes, one hangs: it goes on."""
    steer.open()
    with watch(lab) as terminal:
        terminal.shows("default")
        assert get(lab) == SMALL
        wait_until(lambda: total(terminal.rows(), "steered")[0] == 1, what="it is counted")
        kill_pid(steer.pid())
        terminal.shows("no resident process")
        steer.open()
        terminal.shows("default")
        # The new one counts from 0, which is no negative rate.
        assert total(terminal.rows(), "steered")[0] == 0, terminal.rows()
        pid = steer.pid()
        os.kill(pid, signal.SIGSTOP)
        terminal.shows("stopped or overloaded", 15)
        assert [row for row in terminal.rows() if row.startswith("default")], "what it said last is still shown"
        os.kill(pid, signal.SIGCONT)
        terminal.shows("q or Ctrl-C")
        steer.close()
        terminal.shows("no resident process")
        terminal.type(b"q")
        assert terminal.ended() == 0 and terminal.restored()


def stream(lab, *options):
    return lab.edge.start("watch", [BINARY, "status", "--watch=0.2", *options])


def test_watch_stream(lab, nginx, serve):
    """stdout is no terminal: a line each, and nothing that is meant for one."""
    serve.open()
    process = stream(lab)
    wait_until(lambda: len(process.stdout().splitlines()) >= 1, what="a line")
    assert get(lab) == SMALL
    wait_until(lambda: " steered=1 " in process.stdout(), what="the visitor is counted")
    serve.close()
    wait_until(lambda: " state=idle windows=0 " in process.stdout(), what="the window is closed")
    process.send_signal(signal.SIGINT)
    wait_until(lambda: not process.running(), what="it ends")
    assert process.stderr() == "" and "\x1b" not in process.stdout()
    first, *rest = [line.split(" ") for line in process.stdout().splitlines()]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first[0]), first
    assert first[1:3] == ["state=open", "windows=1"], first
    assert not [word for word in first if "_per_s" in word], "there is no rate yet"
    for line in rest:
        assert all("=" in word for word in line[1:]) and "steered_per_s=" in " ".join(line), line


def test_watch_stream_of_one_that_hangs(lab, nginx, serve):
    """One warning when it begins, and a line for each look all the same."""
    process = stream(lab)
    wait_until(lambda: "state=idle" in process.stdout(), what="it answers")
    pid = serve.pid()
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: process.stdout().count("state=unknown") >= 2, 15, "two looks in vain")
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: "state=idle" in process.stdout().splitlines()[-1], what="it answers again")
    process.kill()
    [warning] = process.stderr().splitlines()
    assert "stopped or overloaded" in warning, warning


def test_watch_json(lab, nginx, serve):
    process = stream(lab, "--json")
    wait_until(lambda: len(process.stdout().splitlines()) >= 2, what="two documents")
    serve.open()
    wait_until(lambda: '"windows":[{' in process.stdout(), what="the window")
    process.kill()
    documents = [json.loads(line) for line in process.stdout().splitlines(keepends=True) if line.endswith("\n")]
    assert documents[0]["windows"] == [] and documents[-1]["windows"][0]["name"] == "default"


def test_watch_ends_with_its_reader(lab, nginx, serve):
    out = lab.edge.run("sh", "-c", f"{BINARY} status --watch=0.1 | head -n 2")
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize("words,text", [
    (["--watch=0"], "is no interval"), (["--watch=0.05"], "is no interval"), (["--watch=2h"], "is no interval"),
    (["--watch=-1"], "is no interval"), (["--watch=1e3"], "is no interval"), (["--watch=inf"], "is no interval"),
    (["--watch=1.2.3"], "is no interval"), (["--watch="], "is no interval"), (["--watch=61m"], "is no interval"),
    (["--watch", "2"], "takes options only"), (["--prometheus", "--json"], "does not go with --json"),
    (["--prometheus", "--watch"], "does not go with --watch"), (["--prometheus=1"], "no value is allowed")])
def test_bad_options(lab, steer, words, text):
    result = steer.run("status", *words)
    assert result.code == 2 and text in result.err and len(result.err.splitlines()) == 1, result


def test_watch_without_the_right_to(lab, nginx, serve):
    """What will not change is said at once, as by status itself."""
    binary = lab.dir / "acme-steer"  # where everybody may run it
    shutil.copy(BINARY, binary)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", binary]
    for options in ([], ["--watch"], ["--prometheus"]):
        done = subprocess.run(lab.edge.command([*nobody, "status", *options]), capture_output=True, text=True,
                              timeout=longer(10), check=False)
        assert done.returncode == 1 and done.stdout == "", done
        assert "member of the group acme-steer" in done.stderr and len(done.stderr.splitlines()) == 1, done


def test_full_disk(lab, steer):
    """What could not be written is no success."""
    for options in (["--prometheus"], ["--json"], ["--watch"]):
        done = lab.edge.run("sh", "-c", f'{BINARY} status {" ".join(options)} >/dev/full; echo "exit $?"')
        assert done == "exit 1\n", options
