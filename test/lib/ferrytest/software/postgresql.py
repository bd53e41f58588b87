# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL under pgbench, with a transaction that stays open, and in it a cursor and a prepared statement."""

import pathlib
import re
import signal
import subprocess

from ferrytest.process import wait_until
from ferrytest.software.base import Software
from ferrytest.software.client import END, LineClient

USER = "postgres"
PORT = 5499
STEP = 10  # rows of the cursor at a time
SETTINGS = [f"port={PORT}", "fsync=off", "shared_buffers=32MB", "max_connections=20",
            "max_worker_processes=4"]
# Everything that a transaction of pgbench adds, it adds to all of these.
SUMS = ("SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers)"
        " AND (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches)"
        " AND (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history);")


def programs():
    """The folder with the server's programs, of the newest version there is."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    assert found, "not installed: postgresql"
    return found[-1].parent


class PostgreSQL(Software):
    """The server with its background processes and two clients' backends."""

    SECONDS = 60

    def __init__(self, place=None):
        super().__init__("postgresql", place)
        self.bin = programs()
        self.folder.chmod(0o777)
        data = self.folder / "data"
        self.once("initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync", "--locale=C")
        with open(data / "pg_hba.conf", "a", encoding="utf-8") as rules:
            rules.write("host all all samenet trust\n")
        options = [word for setting in (*SETTINGS, f"listen_addresses={self.place.address}") for word in ("-c", setting)]
        self.start(self.bin / "postgres", "-D", data, "-k", self.folder, *options, user=USER)
        self.connect = ["-h", self.place.address, "-p", str(PORT), "-U", "postgres"]
        wait_until(self.answers, "postgresql does not answer", 60)
        self.once("pgbench", "-i", "-q", "-s", "1", *self.connect, "postgres")
        self.client = self.session()
        self.client.ask("CREATE TABLE mine (n int PRIMARY KEY, text text);")
        self.client.ask("INSERT INTO mine SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 5000) n;")
        self.checksum = self.client.ask("SELECT md5(string_agg(text, '' ORDER BY n)) FROM mine;")
        self.backend = self.client.ask("SELECT pg_backend_pid();")
        self.client.ask("BEGIN; INSERT INTO mine VALUES (0, 'not committed');")
        self.client.ask("DECLARE rows CURSOR FOR SELECT n FROM mine ORDER BY n; PREPARE one (int) AS SELECT text FROM mine WHERE n = $1;")
        self.fetched = 0
        self.watcher = self.session()
        self.load = self.helper(self.bin / "pgbench", "-T", "3600", "-c", "2", "-P", "1", *self.connect, "postgres")
        self.committed = 0

    def once(self, name, *words):
        """Run one of the server's programs to its end."""
        done = subprocess.run([str(word) for word in (self.bin / name, *words)], check=False, text=True, user=USER,
                              group=USER, extra_groups=[], cwd=self.folder, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, f"{name}: {done.stdout[-1500:]}"

    def answers(self):
        """Whether it takes connections."""
        assert self.running(), f"postgresql ended: {self.log()}"
        return subprocess.run([self.bin / "pg_isready", "-q", *self.connect], check=False).returncode == 0

    def session(self):
        """A client with one connection."""
        return LineClient([self.bin / "psql", "-qAtX", *self.connect, "postgres"], f"\\echo {END}", self.folder)

    def transactions(self):
        """How many pgbench has made."""
        return int(self.watcher.ask("SELECT count(*) FROM pgbench_history;"))

    def verify(self):
        """The open transaction is open, and only its own client sees it; pgbench goes on and its sums agree."""
        assert self.client.ask("SELECT pg_backend_pid();") == self.backend, "another backend answers"
        assert self.client.ask("EXECUTE one (0);") == "not committed"
        rows = self.client.ask(f"FETCH {STEP} FROM rows;").split()
        assert rows == [str(self.fetched + n) for n in range(STEP)], f"rows {rows[:3]} after {self.fetched}"
        self.fetched += STEP
        assert self.watcher.ask("SELECT count(*) FROM mine WHERE n = 0;") == "0", "others see what is not committed"
        assert self.watcher.ask("SELECT md5(string_agg(text, '' ORDER BY n)) FROM mine;") == self.checksum
        before = self.transactions()
        assert before >= self.committed, f"{before} transactions, there were {self.committed}"
        wait_until(lambda: self.transactions() > before + 5, "pgbench does not go on")
        assert self.watcher.ask(SUMS) == "t", "the sums of pgbench's tables differ"
        self.committed = self.transactions()
        assert self.load.poll() is None, f"pgbench ended: {(self.folder / 'helper.log').read_text()[-800:]}"

    def finish(self):
        """The transaction commits, a new connection sees it, the tables are sound."""
        self.client.ask("COMMIT;")
        fresh = self.session()
        assert fresh.ask("SELECT text FROM mine WHERE n = 0;") == "not committed"
        fresh.ask("VACUUM FULL mine; REINDEX TABLE pgbench_accounts;", 60)
        fresh.close()
        self.load.terminate()
        self.load.wait(30)
        said = (self.folder / "helper.log").read_text()
        assert not re.search(r"error|aborted|failed: [1-9]|FATAL", said), said[-1500:]
        log = (self.folder / "log").read_text()
        assert not re.search(r"PANIC|corrupt|terminated by signal", log), log[-1500:]

    def quit(self):
        """In order, then once more from its files."""
        for client in (self.client, self.watcher):
            client.close()
        self.stop(signal.SIGINT)
