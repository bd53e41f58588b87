// SPDX-License-Identifier: Apache-2.0
// A server for test/lib/ferrytest/software/node.py: a map in memory, a timer, a worker thread, a child process.
"use strict";
const crypto = require("crypto");
const http = require("http");
const { Worker, isMainThread, parentPort } = require("worker_threads");
const { spawn } = require("child_process");

if (!isMainThread) {
	let sum = 0;
	parentPort.on("message", (n) => { sum += n; parentPort.postMessage(sum); });
} else {
	const map = new Map();
	let ticks = 0, requests = 0;
	const waiting = [];
	const worker = new Worker(__filename);
	worker.on("message", (sum) => waiting.shift().end(String(sum)));
	const child = spawn("cat", [], { stdio: ["pipe", "pipe", "inherit"] });
	const echoes = [];
	child.stdout.on("data", (data) => echoes.shift().end(data));
	setInterval(() => ticks++, 5);
	for (let n = 0; n < 20000; n++)
		map.set("key " + n, crypto.createHash("sha256").update(String(n)).digest("hex"));

	const answers = {
		"/map": (answer) => {
			const hash = crypto.createHash("sha256");
			for (const [key, value] of map)
				hash.update(key + value);
			answer.end(hash.digest("hex"));
		},
		"/count": (answer) => answer.end(String(++requests)),
		"/ticks": (answer) => answer.end(String(ticks)),
		"/worker": (answer) => { waiting.push(answer); worker.postMessage(7); },
		"/child": (answer) => { echoes.push(answer); child.stdin.write("echo"); },
	};
	http.createServer({ keepAliveTimeout: 600000 }, (request, answer) => answers[request.url](answer))
		.listen(8098, process.argv[2]);
}
