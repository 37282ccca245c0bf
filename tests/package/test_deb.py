# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The Debian package: installed, run and purged, in a copy of this machine's files that is thrown away."""

import pathlib
import subprocess
import sys

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]
DEBS = sorted((TREE / "build" / "deb").glob("acme-steer_*.deb"))

# A mount namespace of its own: what is mounted here nobody else sees, and it goes with the last process. What is
# changed in the copy is seen in /mnt/changed, what the machine has in /mnt/machine.
SCRIPT = r"""
set -eu
mount --make-rprivate /
mount -t tmpfs none "$SCRATCH"
mkdir "$SCRATCH/upper" "$SCRATCH/work" "$SCRATCH/root"
mount -t overlay none -o "lowerdir=/,upperdir=$SCRATCH/upper,workdir=$SCRATCH/work" "$SCRATCH/root"
mount -t proc none "$SCRATCH/root/proc"
mount -t tmpfs none "$SCRATCH/root/run"
mount --bind /dev "$SCRATCH/root/dev"
mount --rbind /sys "$SCRATCH/root/sys"
mount -t tmpfs none "$SCRATCH/root/tmp"
mount -t tmpfs none "$SCRATCH/root/mnt"
mkdir "$SCRATCH/root/mnt/changed" "$SCRATCH/root/mnt/machine"
mount --bind "$SCRATCH/upper" "$SCRATCH/root/mnt/changed"
mount --bind / "$SCRATCH/root/mnt/machine"
cp "$DEB" "$SCRATCH/root/tmp/acme-steer.deb"
exec chroot "$SCRATCH/root" /bin/sh -eu
"""


@pytest.fixture
def inside(tmp_path):
    """Runs a shell script in a copy of the machine; its standard output."""
    assert len(DEBS) == 1, "make deb first"

    def run(script):
        done = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "sh", "-c", SCRIPT],
                              input=script, capture_output=True, text=True, check=False, timeout=120,
                              env={"SCRATCH": str(tmp_path), "DEB": str(DEBS[0]), "DEBIAN_FRONTEND": "noninteractive",
                                   "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
        print(done.stderr, file=sys.stderr)
        assert done.returncode == 0, done
        return done.stdout
    return run


def test_installs_runs_and_purges(inside):
    out = inside(r"""
# What the machine has not; dpkg's own files and those of its triggers are left out.
new()
{
	(cd /mnt/changed && find . -not -path './var/*' -not -path './etc/*') | while read -r path; do
		test -e "/mnt/machine/$path" || test -L "/mnt/machine/$path" || echo "$1 ${path#.}"
	done
}
dpkg -i /tmp/acme-steer.deb >&2
getent group acme-steer
new new
acme-steer --version
man -w 8 acme-steer
acme-steer probe --help | sed 's/^/probe /'
acme-steer status || echo "status $?"
dpkg --purge acme-steer >&2
getent group acme-steer || echo "no group"
new left
""")
    lines = out.splitlines()
    assert lines[0].startswith("acme-steer:")
    new = [line.removeprefix("new ") for line in lines if line.startswith("new ")]
    for path in ("/usr/sbin/acme-steer", "/usr/libexec/acme-steer/acme-steer-tls", "/usr/share/man/man8/acme-steer.8.gz",
                 "/usr/share/acme-steer/hooks/lego", "/usr/share/acme-steer/hooks/dehydrated",
                 "/usr/share/acme-steer/certbot/certbot_acme_steer.py",
                 "/usr/share/doc/acme-steer/docs/troubleshooting.md",
                 "/usr/share/bash-completion/completions/acme-steer",
                 "/usr/share/fish/vendor_completions.d/acme-steer.fish",
                 "/usr/share/zsh/vendor-completions/_acme-steer"):
        assert path in new, out
    assert any(path.endswith("lib/systemd/system/acme-steer.service") for path in new), out
    assert any(line.startswith("acme-steer 0.") for line in lines), out
    assert "/usr/share/man/man8/acme-steer.8.gz" in lines, out
    assert "status 3" in lines, out
    assert any(line.startswith("probe Usage:") for line in lines), out
    assert "no group" in lines, out
    assert [line for line in lines if line.startswith("left ")] == [], out


def test_shells_find_the_completions(inside):
    """Without being told where they are."""
    out = inside(r"""
dpkg -i /tmp/acme-steer.deb >&2
cat >/tmp/bash <<'END'
. /usr/share/bash-completion/bash_completion
_completion_loader acme-steer
complete -p acme-steer
END
bash --norc /tmp/bash
zsh -f -c 'autoload -U compinit; compinit -u -D; print "zsh ${_comps[acme-steer]}"'
HOME=/tmp fish -c 'complete -C "acme-steer "' | sed 's/^/fish /'
""")
    lines = out.splitlines()
    assert "complete -F _acme_steer acme-steer" in lines, out
    assert "zsh _acme-steer" in lines, out
    assert any(line.startswith("fish doctor\t") for line in lines), out


def test_hooks_run_as_installed(inside):
    """The hooks find acme-steer by itself, and say what they want when nobody listens."""
    out = inside(r"""
dpkg -i /tmp/acme-steer.deb >&2
ip link set lo up
for hook in /usr/share/acme-steer/hooks/*; do
	sh -n "$hook" && echo "ok ${hook##*/}"
done
env -i PATH=/usr/bin:/bin /usr/share/acme-steer/hooks/uacme begin tls-alpn-01 www.example.org token \
	$(head -c 32 /dev/zero | base64 | tr -d =) 2>&1 ||
	echo "uacme $?"
""")
    assert {f"ok {name}" for name in ("acme.sh-post", "acme.sh-pre", "dehydrated", "lego", "uacme")} \
        <= set(out.splitlines()), out
    assert "acme-steer: " in out and "443" in out, "nothing listens on port 443 there, and it says so"


def test_removal_ends_what_runs(inside):
    """A window that is open keeps nobody's program running after it was taken away."""
    out = inside(r"""
dpkg -i /tmp/acme-steer.deb >&2
ip link set lo up
python3 -m http.server 443 >&2 &
server=$!
timeout 20 sh -c 'until ss -Hltn sport = :443 | grep -q 443; do :; done'
acme-steer open
pgrep -x acme-steer >&2
/usr/bin/python3 -m pip install --root-user-action=ignore --break-system-packages --no-build-isolation --no-deps /usr/share/acme-steer/certbot >&2
dpkg --purge acme-steer >&2
timeout 20 sh -c 'while pgrep -x acme-steer >&2; do :; done' && echo ended
test -e /run/acme-steer || echo "nothing in /run"
test -e /usr/share/acme-steer || echo "nothing in /usr/share"
kill $server
""")
    assert 'window "default" open' in out, out
    assert {"ended", "nothing in /run", "nothing in /usr/share"} <= set(out.splitlines()), out


def test_pages_are_whole(inside):
    """Links between the pages lead somewhere, and paths are those of the package."""
    out = inside(r"""
dpkg -i /tmp/acme-steer.deb >&2
python3 - <<'END'
import pathlib, re

pages = sorted(pathlib.Path("/usr/share/doc/acme-steer").rglob("*.md"))
for page in pages:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        if not (page.parent / target).exists():
            print("dead", page, target)
    if "/usr/local" in text:
        print("elsewhere", page)
print("pages", len(pages))
END
grep -rlE '/usr/local|deploy/(certbot|prometheus)' /usr/share/acme-steer || echo "all at home"
systemd-analyze verify /lib/systemd/system/acme-steer.service 2>&1 | grep acme-steer || echo "the unit is good"
""")
    lines = out.splitlines()
    assert not [line for line in lines if line.startswith(("dead ", "elsewhere "))], out
    assert int(next(line for line in lines if line.startswith("pages ")).split()[1]) > 8, out
    assert "all at home" in lines and "the unit is good" in lines, out
