# SPDX-License-Identifier: Apache-2.0
"""nginx with two workers, under wrk's load over connections that stay, one with half a request, one with half an answer."""

import hashlib
import http.client
import os
import re
import signal
import socket

from ferrytest.process import inner, tree, wait_until
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
        listen {address}:{port};
        root {folder}/www;
        location = /who {{ return 200 "worker $pid connection $connection request $connection_requests\\n"; }}
    }}
}}
"""


def take(stream, count):
    """So many bytes of an answer."""
    found = stream.read(count)
    assert len(found) == count, f"{len(found)} of {count} bytes"
    return found


class Pending:
    """A connection whose client has sent half a request, or read half of an answer that is too long for the kernel's buffers."""

    def __init__(self, address, path, contents, sent_whole):
        self.contents = contents
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(30)
        self.socket.connect((address, PORT))
        self.stream = self.socket.makefile("rb")
        request = f"GET {path} HTTP/1.1\r\nHost: half\r\nConnection: close\r\n\r\n".encode()
        self.rest = b"" if sent_whole else request[len(request) // 2:]
        self.socket.sendall(request[:len(request) - len(self.rest)])
        self.read = take(self.stream, 10000) if sent_whole else b""

    def finish(self):
        """The other half."""
        self.socket.sendall(self.rest)
        answer = self.read + self.stream.read()
        self.socket.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ") and body == self.contents, f"{len(body)} of {len(self.contents)} bytes, {head}"


class Nginx(Software):
    """A master and its workers."""

    BYTES = 300000
    LONG_BYTES = 8 << 20

    def __init__(self, place=None):
        super().__init__("nginx", place)
        nginx, wrk = needed("nginx", "wrk")
        (self.folder / "www").mkdir()
        self.contents = hashlib.shake_128(b"nginx").digest(self.BYTES)
        (self.folder / "www/file").write_bytes(self.contents)
        self.long = hashlib.shake_128(b"long").digest(self.LONG_BYTES)
        (self.folder / "www/long").write_bytes(self.long)
        (self.folder / "www/small").write_bytes(b"small\n")
        (self.folder / "conf").write_text(CONFIG.format(folder=self.folder, address=self.place.address, port=PORT))
        self.start(nginx, "-c", self.folder / "conf", "-p", self.folder)
        self.client = wait_until(self.connect, "nginx does not answer")
        # It listens before it forks.
        wait_until(lambda: len(tree(self.pid)) == 3, f"nginx has not two workers: {self.log()}")
        self.workers = self.worker_pids()
        self.worker, self.connection, self.requests = None, None, 0
        self.pending = []
        self.load = self.helper(wrk, "-t1", "-c20", "-d3600s", "--timeout", "60s", f"http://{self.place.address}:{PORT}/small")

    def worker_pids(self):
        """As they see them."""
        return sorted(inner(pid) for pid in tree(self.pid)[1:])

    def connect(self):
        """A client with a connection that stays; nothing while the server is not ready."""
        client = http.client.HTTPConnection(self.place.address, PORT, timeout=20)
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
        assert self.worker_pids() == self.workers, "the workers are others"
        for pending in self.pending:
            pending.finish()
        self.pending = [Pending(self.place.address, "/long", self.long, sent_whole) for sent_whole in (False, True)]
        assert self.load.poll() is None, "wrk ended"

    def finish(self):
        """wrk saw no error on any connection; a reload replaces the workers."""
        for pending in self.pending:
            pending.finish()
        self.load.send_signal(signal.SIGINT)
        said = self.helper_said(self.load)
        requests = int(re.search(r"(\d+) requests in", said)[1])
        assert requests > 100 and "Socket errors" not in said and "Non-2xx" not in said, said
        os.kill(self.pid, signal.SIGHUP)
        wait_until(lambda: len(tree(self.pid)) == 3 and not set(self.worker_pids()) & set(self.workers),
                   "a reload does not replace the workers")
        fresh = self.connect()
        assert self.ask(fresh, "/file") == self.contents

    def quit(self):
        """In order."""
        self.stop(signal.SIGQUIT)
