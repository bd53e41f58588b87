# SPDX-License-Identifier: Apache-2.0
"""nginx with two workers, under wrk's load over connections that stay."""

import hashlib
import http.client
import os
import re
import signal

from ferrytest.process import tree, wait_until
from ferrytest.software.base import Software, needed

PORT = 8099
CONFIG = """
worker_processes 2;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log info;
events {{ worker_connections 512; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 100000000;
    keepalive_timeout 600;
    sendfile on;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/www;
        location = /who {{ return 200 "worker $pid connection $connection request $connection_requests\\n"; }}
    }}
}}
"""


class Nginx(Software):
    """A master and its workers."""

    BYTES = 300000

    def __init__(self):
        super().__init__("nginx")
        nginx, wrk = needed("nginx", "wrk")
        (self.folder / "www").mkdir()
        self.contents = hashlib.shake_128(b"nginx").digest(self.BYTES)
        (self.folder / "www/file").write_bytes(self.contents)
        (self.folder / "www/small").write_bytes(b"small\n")
        (self.folder / "conf").write_text(CONFIG.format(folder=self.folder, port=PORT))
        self.start(nginx, "-c", self.folder / "conf", "-p", self.folder)
        self.client = wait_until(self.connect, "nginx does not answer")
        # It listens before it forks.
        wait_until(lambda: len(tree(self.pid)) == 3, f"nginx has not two workers: {self.log()}")
        self.workers = tree(self.pid)[1:]
        self.worker, self.connection, self.requests = None, None, 0
        self.load = self.helper(wrk, "-t1", "-c20", "-d3600s", "--timeout", "60s", f"http://127.0.0.1:{PORT}/small")

    @staticmethod
    def connect():
        """A client with a connection that stays; nothing while the server is not ready."""
        client = http.client.HTTPConnection("127.0.0.1", PORT, timeout=20)
        try:
            client.connect()
            return client
        except OSError:
            return None

    def ask(self, client, path):
        """One request."""
        client.request("GET", path)
        answer = client.getresponse()
        assert answer.status == 200, f"{path}: {answer.status}"
        return answer.read()

    def verify(self):
        """The file, over the connection of the beginning and a new one; the same worker counts the requests on."""
        words = self.ask(self.client, "/who").split()
        worker, connection, requests = int(words[1]), int(words[3]), int(words[5])
        if self.worker:
            assert (worker, connection) == (self.worker, self.connection), "another worker or connection answers"
            assert requests == self.requests + 2, f"request {requests} after {self.requests}"
        self.worker, self.connection, self.requests = worker, connection, requests
        assert self.ask(self.client, "/file") == self.contents
        fresh = self.connect()
        assert self.ask(fresh, "/file") == self.contents
        fresh.close()
        assert tree(self.pid)[1:] == self.workers, "the workers are others"
        assert self.load.poll() is None, "wrk ended"

    def finish(self):
        """wrk saw no error on any connection; a reload replaces the workers."""
        self.load.send_signal(signal.SIGINT)
        said = self.helper_said(self.load)
        requests = int(re.search(r"(\d+) requests in", said)[1])
        assert requests > 100 and "Socket errors" not in said and "Non-2xx" not in said, said
        os.kill(self.pid, signal.SIGHUP)
        wait_until(lambda: len(tree(self.pid)) == 3 and not set(tree(self.pid)[1:]) & set(self.workers),
                   "a reload does not replace the workers")
        fresh = self.connect()
        assert self.ask(fresh, "/file") == self.contents

    def quit(self):
        """In order."""
        self.stop(signal.SIGQUIT)
