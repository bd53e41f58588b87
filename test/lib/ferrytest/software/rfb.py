# SPDX-License-Identifier: Apache-2.0
"""A viewer for VNC servers, as much of RFB 3.8 (RFC 6143) as this takes: it looks at the whole screen, types, clicks."""

import pathlib
import socket
import struct
import zlib

RAW, NONE = 0, 1
UPDATE, COLOURS, BELL, CUT_TEXT = range(4)
# 32 bits a pixel, 24 of them used, little endian, red at 16, green at 8, blue at 0.
FORMAT = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
KEYS = {"\n": 0xFF0D, "\t": 0xFF09}
SHIFT = 0xFFE1
SHIFTED = "~!@#$%^&*()_+{}|:\"<>?ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Viewer:
    """One connection."""

    def __init__(self, address, port, seconds=30):
        self.socket = socket.create_connection((address, port), timeout=seconds)
        version = self.take(12)
        assert version.startswith(b"RFB 003."), version
        self.socket.sendall(b"RFB 003.008\n")
        types = self.take(self.take(1)[0])
        assert NONE in types, f"the server wants one of {list(types)}"
        self.socket.sendall(bytes([NONE]))
        assert self.take(4) == bytes(4), "the server refuses"
        self.socket.sendall(b"\1")  # others may look too
        self.width, self.height = struct.unpack(">HH", self.take(4))
        self.take(16)
        self.name = self.take(struct.unpack(">I", self.take(4))[0]).decode()
        self.socket.sendall(b"\0\0\0\0" + FORMAT + struct.pack(">BxHi", 2, 1, RAW))

    def take(self, count):
        """So many bytes."""
        found = bytearray()
        while len(found) < count:
            chunk = self.socket.recv(min(1 << 20, count - len(found)))
            assert chunk, "the server closed the connection"
            found += chunk
        return bytes(found)

    def rectangles(self, screen):
        """One update into the screen; how many pixels it had."""
        pixels = 0
        for _ in range(struct.unpack(">xH", self.take(3))[0]):
            x, y, width, height, encoding = struct.unpack(">HHHHi", self.take(12))
            assert encoding == RAW, f"encoding {encoding}"
            for row in range(y, y + height):
                at = (row * self.width + x) * 4
                screen[at:at + width * 4] = self.take(width * 4)
            pixels += width * height
        return pixels

    def screen(self):
        """All pixels, four bytes each."""
        screen, seen = bytearray(self.width * self.height * 4), 0
        self.socket.sendall(struct.pack(">BBHHHH", 3, 0, 0, 0, self.width, self.height))
        while seen < self.width * self.height:
            kind = self.take(1)[0]
            if kind == UPDATE:
                seen += self.rectangles(screen)
            elif kind == COLOURS:
                self.take(struct.unpack(">xHH", self.take(5))[1] * 6)
            elif kind == CUT_TEXT:
                self.take(struct.unpack(">3xI", self.take(7))[0])
            else:
                assert kind == BELL, f"message {kind}"
        return bytes(screen)

    def key(self, symbol):
        """Down and up."""
        for down in (1, 0):
            self.socket.sendall(struct.pack(">BBxxI", 4, down, symbol))

    def type(self, text):
        """Each character."""
        for character in text:
            if character in SHIFTED:
                self.socket.sendall(struct.pack(">BBxxI", 4, 1, SHIFT))
            self.key(KEYS.get(character, ord(character)))
            if character in SHIFTED:
                self.socket.sendall(struct.pack(">BBxxI", 4, 0, SHIFT))

    def click(self, x, y):
        """The first button."""
        for buttons in (0, 1, 0):
            self.socket.sendall(struct.pack(">BBHH", 5, buttons, x, y))

    def close(self):
        """End the connection."""
        self.socket.close()


def different(one, other):
    """Part of the pixels that differ."""
    first, second = memoryview(one).cast("I"), memoryview(other).cast("I")
    assert len(first) == len(second), "the screens have different sizes"
    return sum((a ^ b) & 0xFFFFFF != 0 for a, b in zip(first, second)) / len(first)


def hidden(screen, width, area):
    """The screen with a rectangle (left, top, right, bottom) black."""
    found = bytearray(screen)
    left, top, right, bottom = area
    for row in range(top, bottom):
        found[(row * width + left) * 4:(row * width + right) * 4] = bytes((right - left) * 4)
    return bytes(found)


def save_png(path, screen, width, height):
    """The screen as a picture."""
    rows = bytearray()
    for row in range(height):
        line = screen[row * width * 4:(row + 1) * width * 4]
        colours = bytearray(width * 3)
        colours[0::3], colours[1::3], colours[2::3] = line[2::4], line[1::4], line[0::4]
        rows += b"\0" + colours

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pathlib.Path(path).write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(rows), 6)) + chunk(b"IEND", b""))
