# SPDX-License-Identifier: Apache-2.0
"""MariaDB with its io_uring, a client that writes all the time and one with an open transaction."""

import os
import signal
import subprocess
import threading

from ferrytest.process import wait_until
from ferrytest.software.base import Software, needed
from ferrytest.software.client import END, LineClient

USER = "mysql"
RIGHTS = "CREATE USER IF NOT EXISTS 'root'@'%';\nGRANT ALL ON *.* TO 'root'@'%';\n"  # whatever address a client has
CONTENTS = "SELECT MD5(GROUP_CONCAT(MD5(text) ORDER BY n SEPARATOR '')) FROM d.mine WHERE n > 0;"


class MariaDB(Software):
    """The server and its threads."""

    SECONDS = 60

    def __init__(self, place=None):
        super().__init__("mariadb", place)
        server, install, self.program = needed("mariadbd", "mariadb-install-db", "mariadb")
        self.folder.chmod(0o777)
        data, self.socket = self.folder / "data", self.folder / "socket"
        environment = {"TMPDIR": str(self.folder)}
        done = subprocess.run(
            [install, "--no-defaults", f"--datadir={data}", "--skip-test-db", "--auth-root-authentication-method=normal"],
            check=False, user=USER, group=USER, extra_groups=[], text=True, cwd=self.folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environment})
        assert done.returncode == 0, f"mariadb-install-db: {done.stdout[-1500:]}"
        (self.folder / "rights").write_text(RIGHTS)
        self.start(server, "--no-defaults", "--skip-name-resolve", f"--init-file={self.folder}/rights",
                   f"--datadir={data}", f"--socket={self.socket}", "--port=3399", f"--bind-address={self.place.address}",
                   "--innodb-buffer-pool-size=32M", "--innodb-use-native-aio=1", "--innodb-flush-log-at-trx-commit=1",
                   f"--pid-file={self.folder}/pid", user=USER, environment=environment)
        self.client = wait_until(self.session, "mariadb does not answer", 60)
        assert self.rings(), "this MariaDB holds no io_uring descriptor"
        self.client.ask("CREATE DATABASE d; USE d; SET SESSION group_concat_max_len = 100000000;")
        self.client.ask("CREATE TABLE d.mine (n INT PRIMARY KEY, text TEXT); CREATE TABLE d.log (n INT PRIMARY KEY);")
        self.client.ask("INSERT INTO d.mine SELECT seq, REPEAT(MD5(seq), 30) FROM seq_1_to_3000;")
        self.checksum = self.client.ask(CONTENTS)
        self.connection = self.client.ask("SELECT CONNECTION_ID();")
        self.client.ask("BEGIN; INSERT INTO d.mine VALUES (0, 'not committed');")
        self.watcher = self.session()
        self.written, self.problem, self.ending = 0, None, threading.Event()
        self.writer = threading.Thread(target=self.write, daemon=True)
        self.writer.start()

    def session(self):
        """A client with one connection over TCP; nothing while the server does not answer."""
        assert self.running(), f"mariadb ended: {self.log()}"
        client = LineClient([self.program, "--no-defaults", "-h", self.place.address, "-P", "3399", "-u", "root", "-N", "-B",
                             "--unbuffered"], f"SELECT '{END}';", self.folder)
        try:
            assert client.ask("SELECT 1;") == "1"
            return client
        except (AssertionError, BrokenPipeError):
            client.close()
            return None

    def write(self):
        """Rows one after the other, each a transaction that the server says is durable."""
        client = self.session()
        try:
            while not self.ending.is_set():
                client.ask(f"INSERT INTO d.log VALUES ({self.written + 1});", 60)
                self.written += 1
        except (AssertionError, OSError) as error:
            self.problem = str(error)

    def rings(self):
        """Its descriptors for io_uring."""
        folder = f"/proc/{self.pid}/fd"
        return [name for name in os.listdir(folder) if os.readlink(f"{folder}/{name}") == "anon_inode:[io_uring]"]

    def verify(self):
        """The open transaction is open, the writer's rows are all there and it goes on."""
        assert self.rings(), "the io_uring descriptors are gone"
        assert self.client.ask("SELECT CONNECTION_ID();") == self.connection, "it is another connection"
        assert self.client.ask("SELECT text FROM d.mine WHERE n = 0;") == "not committed"
        assert self.client.ask(CONTENTS) == self.checksum, "the contents differ"
        assert self.watcher.ask("SELECT COUNT(*) FROM d.mine WHERE n = 0;") == "0", "others see what is not committed"
        written = self.written
        wait_until(lambda: self.written > written + 5 or self.problem, "the writer does not go on")
        assert not self.problem, self.problem
        rows = self.watcher.ask("SELECT COUNT(*) = MAX(n), MAX(n) FROM d.log;").split()
        assert rows[0] == "1" and int(rows[1]) > written, f"rows {rows}, written {written}"

    def finish(self):
        """The transaction commits, the tables are sound."""
        self.client.ask("COMMIT;")
        fresh = self.session()
        assert fresh.ask("SELECT text FROM d.mine WHERE n = 0;") == "not committed"
        self.ending.set()
        self.writer.join(60)
        assert fresh.ask("SELECT MAX(n) FROM d.log;") == str(self.written)
        for table in ("mine", "log"):
            said = fresh.ask(f"CHECK TABLE d.{table} EXTENDED;")
            assert said.split()[-1] == "OK", said
        fresh.close()

    def quit(self):
        """In order."""
        for client in (self.client, self.watcher):
            client.close()
        self.stop(signal.SIGTERM)
        log = (self.folder / "log").read_text()
        assert "[ERROR]" not in log and "corrupt" not in log.lower(), log[-1500:]
