// SPDX-License-Identifier: Apache-2.0
// A server for test/lib/ferrytest/software/java.py: a map that is rewritten all the time, so that the collector works.
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.security.MessageDigest;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Supplier;

public class Server {
    static final int KEYS = 20000;
    static final Map<Integer, byte[]> map = new ConcurrentHashMap<>();
    static final AtomicLong rewritten = new AtomicLong(), requests = new AtomicLong();

    static byte[] value(int key) {
        byte[] bytes = new byte[200];
        for (int i = 0; i < bytes.length; i++)
            bytes[i] = (byte) (key * 31 + i * 7);
        return bytes;
    }

    static String digest() {
        try {
            MessageDigest digest = MessageDigest.getInstance("SHA-256");
            for (int key = 0; key < KEYS; key++)
                digest.update(map.get(key));
            StringBuilder text = new StringBuilder();
            for (byte b : digest.digest())
                text.append(String.format("%02x", b));
            return text.toString();
        } catch (java.security.NoSuchAlgorithmException e) {
            throw new RuntimeException(e);
        }
    }

    static void rewrite() {
        for (int key = 0;; key = (key + 1) % KEYS) {
            map.put(key, value(key));
            if (rewritten.incrementAndGet() % 1000 == 0) {
                try {
                    Thread.sleep(2);
                } catch (InterruptedException e) {
                    return;
                }
            }
        }
    }

    public static void main(String[] args) throws Exception {
        for (int key = 0; key < KEYS; key++)
            map.put(key, value(key));
        Thread writer = new Thread(Server::rewrite);
        writer.setDaemon(true);
        writer.start();
        Map<String, Supplier<String>> answers = Map.of(
            "/map", Server::digest,
            "/count", () -> Long.toString(requests.incrementAndGet()),
            "/ticks", () -> Long.toString(rewritten.get()),
            "/clock", () -> Long.toString(System.nanoTime()));
        HttpServer server = HttpServer.create(new InetSocketAddress(args[0], 8097), 50);
        server.setExecutor(Executors.newFixedThreadPool(4));
        answers.forEach((path, answer) -> server.createContext(path, exchange -> {
            byte[] text = answer.get().getBytes();
            exchange.sendResponseHeaders(200, text.length);
            exchange.getResponseBody().write(text);
            exchange.close();
        }));
        server.start();
    }
}
