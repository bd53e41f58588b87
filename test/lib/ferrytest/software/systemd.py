# SPDX-License-Identifier: Apache-2.0
"""systemd as the first process of a container: journald, a system bus with logind on it, a service that counts into the journal and
a timer. What the machine has in /etc/systemd/system is not there, so that nothing starts that the machine wants."""

import re

from ferrytest.process import wait_until
from ferrytest.software.base import Software, needed

HIDDEN = ("/tmp", "/run", "/var/log/journal", "/etc/systemd/system")
PLACE = ("--systemd=always", *(word for path in HIDDEN for word in ("--tmpfs", f"{path}:notmpcopyup")))
UNITS = {
    "default.target": "[Unit]\nRequires=basic.target\nAfter=basic.target\n"
                      "Wants=count.service tick.timer dbus.service systemd-logind.service\n",
    # In a container nobody tells systemd that a cgroup is empty, so it may wait for one.
    "count.service": "[Service]\nKillMode=process\nExecStart=/bin/sh -c 'i=0; while true; do echo count $i; i=$((i+1)); sleep 0.1; done'\n",
    "tick.timer": "[Timer]\nOnActiveSec=0.2\nOnUnitActiveSec=0.2\nAccuracySec=10ms\n",
    "tick.service": "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo tick >> /run/ticks'\n",
    "later.service": "[Service]\nType=oneshot\nExecStart=/bin/touch /run/later\n",
}
SHOWN = ("count.service", "tick.timer", "dbus.service", "systemd-logind.service", "systemd-journald.service")

# In control groups of v1 systemd may hear nothing of a service that has ended; it waits as long as it is told to.
START = """mkdir -p /etc/systemd/system.conf.d
printf '[Manager]\\nDefaultTimeoutStopSec=10s\\n' > /etc/systemd/system.conf.d/ends.conf
exec /lib/systemd/systemd"""


class Systemd(Software):
    """What it starts by itself."""

    SECONDS = 60

    def __init__(self, place):
        super().__init__("systemd", place)
        needed("systemctl", "journalctl", "busctl")
        for name, text in UNITS.items():
            (self.folder / name).write_text(text)
        self.start("sh", "-c", START, environment={"SYSTEMD_UNIT_PATH": f"{self.folder}:"})
        wait_until(lambda: self.ask("systemctl", "is-system-running") == "running", "systemd does not come up", self.SECONDS)
        self.counted, self.ticks, self.state = 0, 0, self.look()

    def ask(self, *words):
        """A command there, without white space around its answer."""
        return self.place.ask(*words).strip()

    def look(self):
        """What stays as it is: processes and times of units, and names on the bus."""
        units = self.ask("systemctl", "show", "-p", "Id,MainPID,ActiveState,ActiveEnterTimestamp,InvocationID", *SHOWN)
        return units, self.ask("busctl", "list", "--acquired", "--no-legend", "--no-pager")

    def counts(self):
        """What the service wrote into the journal: none is missing, none comes twice."""
        words = self.ask("journalctl", "--no-pager", "-o", "cat", "-u", "count.service", "-g", "^count ")
        numbers = [int(number) for number in re.findall(r"^count (\d+)$", words, re.M)]
        assert numbers == list(range(len(numbers))), f"the journal has {numbers[-5:]}, {len(numbers)} of them"
        return len(numbers)

    def ticked(self):
        """How often the timer started its service."""
        return len(self.ask("cat", "/run/ticks").split())

    def verify(self):
        """All units run as before, the service counts on, the timer goes on."""
        assert self.look() == self.state, f"{self.state} becomes {self.look()}"
        assert self.counts() >= self.counted and self.ticked() >= self.ticks
        self.counted, self.ticks = self.counts(), self.ticked()
        wait_until(lambda: self.counts() > self.counted + 3, "the service does not count on")
        wait_until(lambda: self.ticked() > self.ticks + 3, "the timer does not go on")
        assert self.ask("systemctl", "is-system-running") == "running", self.ask("systemctl", "--no-pager", "--failed")

    def finish(self):
        """Units start and end, systemd loads its files again, the journal is sound."""
        self.ask("systemctl", "start", "later.service")
        assert self.ask("ls", "/run/later") == "/run/later"
        self.ask("systemctl", "daemon-reload")
        self.ask("systemctl", "stop", "count.service")
        assert self.ask("systemctl", "show", "-p", "SubState,Result", "count.service").split() == ["Result=success", "SubState=dead"]
        self.counts()
        # What journald appends meanwhile looks to --verify like something broken; nothing is appended to a file that was put away.
        self.ask("journalctl", "--rotate")
        verify = "journalctl --verify --no-pager --file='/var/log/journal/*/system@*.journal' > /run/verified 2>&1 && echo good"
        assert self.ask("sh", "-c", verify) == "good" and "PASS" in self.ask("cat", "/run/verified"), self.ask("cat", "/run/verified")

    def quit(self):
        """It ends itself in order."""
        asked = self.ask("sh", "-c", "SYSTEMD_LOG_LEVEL=debug systemctl exit 7 2>&1; echo $?")
        try:
            wait_until(lambda: not self.running(), "systemd does not end", self.SECONDS)
        except AssertionError as error:
            why = self.ask("sh", "-c", "export SYSTEMD_PAGER=; systemctl is-system-running; systemctl list-jobs; "
                                       "systemctl list-units --failed; journalctl -n 40")
            raise AssertionError(f"{error}; {asked}; {why}") from error
